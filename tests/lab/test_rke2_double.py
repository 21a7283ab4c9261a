"""The double of RKE2 does to whoever operates it what the real one does.

One cluster for all tests, so that they run in the order they are written: it is founded, grows,
refuses whom it has to refuse, loses nodes, and loses its quorum at the end.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence

import pytest

from tests.lab.bake import Image
from tests.lab.basics import CommandFailed, LabError
from tests.lab.lab import Lab
from tests.lab.rke2.control import ADMIN_KUBECONFIG, DATA, KUBECTL, Rke2
from tests.lab.rke2.nodes import boot_bare

pytestmark = pytest.mark.lab

TOKEN, AGENT_TOKEN = "the-server-token", "the-agent-token"
ADDRESSES = {
    "s0": "172.20.0.110",
    "s1": "172.20.0.111",
    "s2": "172.20.0.112",
    "w0": "172.20.0.120",
    "j0": "172.20.0.130",
}
SUPERVISOR = f"https://{ADDRESSES['s0']}:9345"
OTHER_HASH = "0" * 64
DELAYS = {"images": 0.05, "hooks": 0, "core": 0.1, "cni": 0.3, "ccm": 0.1, "agent": 0}
INTERVALS = {
    "heartbeat": 1,
    "node_grace": 4,
    "endpoints": 1,
    "learner_eviction": 3,
    "http_timeout": 1,
    "ca_retry": 0.2,
    "config_retry": 0.2,
}


@pytest.fixture(scope="module")
def lab(lab_image: Image) -> Iterator[Lab]:
    with Lab(lab_image) as made:
        yield made


@pytest.fixture(scope="module")
def machines(lab: Lab) -> dict[str, Rke2]:
    """Nodes without a cluster: three servers, a worker, and one more."""
    made = boot_bare(lab, ADDRESSES)
    for machine in made.values():
        machine.restart_quickly(0.2)
        machine.turn(delays=DELAYS, intervals=INTERVALS)
    return made


@pytest.fixture(scope="module")
def founder(machines: dict[str, Rke2]) -> Rke2:
    """The first server, with a cluster of its own."""
    first = machines["s0"]
    first.configure(
        config(
            first,
            token=f"  {TOKEN}\n",
            **{
                "agent-token": AGENT_TOKEN,
                "tls-san": ["api.example"],
                "node-label": ["oneke.opennebula.io/vm-id=7"],
                "node-taint": ["CriticalAddonsOnly=true:NoExecute"],
                "cluster-init": True,
            },
        )
    )
    first.start("server")
    first.wait_active("server")
    return first


@pytest.fixture
def stranger(machines: dict[str, Rke2]) -> Iterator[Rke2]:
    """A node that wants to join; afterwards it is as new."""
    machines["j0"].turn(delays=DELAYS, intervals=INTERVALS)
    yield machines["j0"]
    machines["j0"].wipe()


def config(machine: Rke2, **values: object) -> dict[str, object]:
    name = machine.node.name
    return {"node-name": name, "node-ip": ADDRESSES[name], **values}


def joining(machine: Rke2, role: str, **values: object) -> dict[str, object]:
    token = TOKEN if role == "server" else AGENT_TOKEN
    return config(machine, **{"server": SUPERVISOR, "token": token, **values})


def at_once(*acts: Callable[[], object]) -> None:
    """Do several things at the same time; an error of one is raised."""
    errors: list[BaseException] = []

    def guarded(act: Callable[[], object]) -> None:
        try:
            act()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(act,)) for act in acts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def wait_events(machine: Rke2, names: Sequence[str]) -> list[str]:
    """Wait until all these events were there; in the order they came."""

    def seen() -> list[str]:
        found = [each["event"] for each in machine.events() if each["event"] in names]
        if set(found) != set(names):
            raise LabError(str(found))
        return found

    return machine.node.wait_until(seen, 10, f"the events {', '.join(names)}")


def taints(machine: Rke2, name: str) -> list[tuple[str, str]]:
    """Key and effect of each taint of a node."""
    spec = machine.get_nodes()[name].get("spec", {})
    return [(taint["key"], taint["effect"]) for taint in spec.get("taints", [])]


def members(machine: Rke2) -> list[str]:
    """Names of etcd's members."""
    told = machine.ask(f"{SUPERVISOR}/db/info", "-u", f"server:{TOKEN}")[1]
    return [member["name"] for member in json.loads(told)["members"]]


# --- a cluster is founded ------------------------------------------------------------------------


def test_files_come_before_the_api_and_the_core_after_ready(founder: Rke2) -> None:
    order = [
        *("supervisor.listening", "files.written", "staged", "etcd.voting"),
        *("apiserver.listening", "ready", "core.ready"),
    ]
    assert wait_events(founder, order) == order
    server = f"{DATA}/server"
    secret = [f"{server}/{name}" for name in ("token", "node-token", "agent-token")]
    secret += [ADMIN_KUBECONFIG, "/etc/rancher/node/password", f"{server}/tls/client-admin.key"]
    assert set(founder.modes_of(*secret).values()) == {"600"}
    assert founder.modes_of(server) == {server: "700"}
    assert founder.node.run(["readlink", f"{server}/node-token"]).stdout == f"{server}/token\n"
    key = founder.node.run(["openssl", "pkey", "-in", f"{server}/tls/client-admin.key", "-text"])
    assert "prime256v1" in key.stdout
    assert founder.node.read(f"{DATA}/server/db/etcd/name").startswith("s0-")


def test_long_tokens_pin_the_ca_that_is_served(founder: Rke2) -> None:
    status, pem = founder.ask(f"{SUPERVISOR}/cacerts")
    pinned = hashlib.sha256(f"{pem}\n".encode() if pem[-1:] != "\n" else pem.encode()).hexdigest()
    assert status == 200
    assert founder.token() == f"K10{pinned}::server:{TOKEN}"
    assert founder.token("agent-token") == f"K10{pinned}::node:{AGENT_TOKEN}"


def test_an_unknown_key_is_warned_about_and_the_rest_is_used(founder: Rke2) -> None:
    journal = founder.wait_journal("server", "rke2 is up and running")
    assert "Unknown flag --cluster-init found in config.yaml, skipping" in journal
    assert founder.effective()["config"]["tls-san"] == ["api.example"]
    assert founder.effective()["unknown"] == ["cluster-init"]


@pytest.mark.parametrize(
    ("path", "user", "expected"),
    [
        ("/ping", "", 200),
        ("/cacerts", "", 200),
        ("/v1-rke2/readyz", "", 401),
        ("/v1-rke2/readyz", f"node:{AGENT_TOKEN}", 200),
        ("/v1-rke2/readyz", "node:wrong", 401),
        ("/v1-rke2/config", f"node:{AGENT_TOKEN}", 200),
        ("/v1-rke2/apiservers", f"node:{AGENT_TOKEN}", 200),
        ("/v1-rke2/client-kubelet.crt", f"node:{AGENT_TOKEN}", 400),
        ("/v1-rke2/server-bootstrap", f"server:{TOKEN}", 200),
        ("/v1-rke2/server-bootstrap", f"server:{AGENT_TOKEN}", 403),
        ("/v1-rke2/server-bootstrap", f"node:{AGENT_TOKEN}", 403),
        ("/db/info", f"server:{TOKEN}", 200),
        ("/api/v1/nodes", f"server:{TOKEN}", 404),
    ],
)
def test_the_supervisor_answers_who_may_ask(
    founder: Rke2, path: str, user: str, expected: int
) -> None:
    options = ["-u", user] if user else []
    assert founder.ask(f"{SUPERVISOR}{path}", *options)[0] == expected


def test_the_api_server_answers_nobody_without_a_certificate(founder: Rke2) -> None:
    for path in ("/readyz", "/livez", "/version", "/api/v1/nodes"):
        assert founder.ask(f"https://127.0.0.1:6443{path}")[0] == 401
    assert founder.ask_as_admin("/readyz") == (200, "ok")
    assert founder.ask_as_admin("/apis/metallb.io/v1beta1/ipaddresspools")[0] == 404
    agent = f"{DATA}/agent/client-kubelet"
    own = ["--cert", f"{agent}.crt", "--key", f"{agent}.key"]
    assert founder.ask("https://127.0.0.1:6443/api/v1/nodes/s0", *own)[0] == 200
    assert founder.ask("https://127.0.0.1:6443/api/v1/secrets", *own)[0] == 403


def test_certificates_are_for_the_names_that_were_asked_for(founder: Rke2) -> None:
    for port in ("6443", "9345"):
        script = f"openssl s_client -connect 127.0.0.1:{port} < /dev/null | openssl x509 -text"
        shown = founder.node.run(["sh", "-c", script]).stdout
        assert "DNS:api.example" in shown
        assert "IP Address:172.20.0.110" in shown


def test_the_node_becomes_ready_and_votes(founder: Rke2) -> None:
    founder.wait_condition(["s0"])
    founder.wait_condition(["s0"], "EtcdIsVoter")
    node = founder.get_nodes()["s0"]
    labels = node["metadata"]["labels"]
    roles = {key for key in labels if key.startswith("node-role.kubernetes.io/")}
    assert roles == {"node-role.kubernetes.io/control-plane", "node-role.kubernetes.io/etcd"}
    assert labels["oneke.opennebula.io/vm-id"] == "7"
    assert node["spec"]["providerID"] == "rke2://s0"
    founder.node.wait_until(
        lambda: taints(founder, "s0") == [("CriticalAddonsOnly", "NoExecute")], 5, "its own taint"
    )


def test_a_stopped_server_leaves_its_pods_alive_and_its_files_as_they_were(founder: Rke2) -> None:
    tokens = founder.token()
    founder.stop("server")
    assert founder.ask_as_admin("/readyz") == (200, "ok")
    assert founder.ask(f"{SUPERVISOR}/ping")[0] == 0
    founder.start("server")
    founder.wait_active("server")
    assert founder.token() == tokens
    assert founder.node.run(["systemctl", "is-enabled", "rke2-server"], check=False).returncode


def test_a_unit_is_skipped_while_its_sibling_is_active(founder: Rke2) -> None:
    founder.node.run(["systemctl", "start", "rke2-agent.service"])
    assert founder.state("agent")["ActiveState"] == "inactive"


# --- it grows ------------------------------------------------------------------------------------


def test_two_servers_and_a_worker_join_at_once(founder: Rke2, machines: dict[str, Rke2]) -> None:
    servers = first, second = machines["s1"], machines["s2"]
    for server in servers:
        server.configure(
            joining(server, "server", token=founder.token(), **{"agent-token": AGENT_TOKEN})
        )
    # The first is held up as a learner until the second has met it.
    founder.turn(intervals={"learner_eviction": 60})
    first.fail("learner-stalled")
    first.start("server")
    wait_events(first, ["etcd.learner"])
    second.start("server")
    worker = machines["w0"]
    worker.node.write("/var/lib/oneke/agent-token", founder.token("agent-token") + "\n")
    settings = joining(worker, "agent", **{"token-file": "/var/lib/oneke/agent-token"})
    settings["node-taint"] = ["first=yes:PreferNoSchedule"]
    del settings["token"]
    worker.configure(settings)
    worker.start("agent")
    worker.wait_active("agent")
    second.wait_journal("server", "Waiting for other members to finish joining etcd cluster")
    first.heal("learner-stalled")
    for server in servers:
        server.wait_active("server")
    founder.turn(intervals={"learner_eviction": INTERVALS["learner_eviction"]})
    founder.wait_condition(["s0", "s1", "s2", "w0"])
    founder.wait_condition(["s0", "s1", "s2"], "EtcdIsVoter")
    promoted = [event for machine in machines.values() for event in machine.events("etcd.promoted")]
    assert {event["member"].rpartition("-")[0] for event in promoted} == {"s1", "s2"}
    assert first.token() == founder.token()


def test_the_api_server_of_any_server_shows_the_same(machines: dict[str, Rke2]) -> None:
    shown = [machines[name].kubectl("get", "nodes", "-o", "name") for name in ("s0", "s1", "s2")]
    assert shown == ["node/s0\nnode/s1\nnode/s2\nnode/w0\n"] * 3


def test_a_worker_answers_on_its_node_ports_and_reaches_the_api(
    founder: Rke2, machines: dict[str, Rke2]
) -> None:
    worker, address = machines["w0"], ADDRESSES["w0"]
    for url in (f"http://{address}:32080/", f"https://{address}:32443/"):
        founder.wait_answer(url, (200, "w0\n"))
    agent = f"{DATA}/agent/client-kubelet"
    own = ["--cert", f"{agent}.crt", "--key", f"{agent}.key"]
    assert worker.ask("https://127.0.0.1:6443/api/v1/nodes/w0", *own)[0] == 200
    servers = {f"{ADDRESSES[name]}:9345" for name in ("s0", "s1", "s2")}
    cached = f"{DATA}/agent/etc/rke2-agent-load-balancer.json"

    def is_current() -> bool:
        return set(json.loads(worker.node.read(cached))["ServerAddresses"]) == servers

    worker.node.wait_until(is_current, 10, "all servers in the balancer's list")


def test_labels_are_applied_again_and_taints_are_not(
    founder: Rke2, machines: dict[str, Rke2]
) -> None:
    worker = machines["w0"]
    settings = joining(worker, "agent", **{"node-label": ["second=yes"]})
    worker.configure(settings | {"node-taint": ["second=yes:PreferNoSchedule"]})
    worker.restart("agent")
    founder.node.wait_until(
        lambda: "second" in founder.get_nodes()["w0"]["metadata"]["labels"], 10, "the new label"
    )
    assert taints(founder, "w0") == [("first", "PreferNoSchedule")]


def test_kubectl_changes_nodes(founder: Rke2) -> None:
    assert founder.kubectl("cordon", "w0") == "node/w0 cordoned\n"
    assert "SchedulingDisabled" in founder.kubectl("get", "node", "w0", "--no-headers")
    drained = founder.kubectl("drain", "w0", "--ignore-daemonsets", "--delete-emptydir-data")
    assert drained.endswith("node/w0 drained\n")
    assert founder.kubectl("uncordon", "w0") == "node/w0 uncordoned\n"
    founder.kubectl("annotate", "node", "w0", "some/annotation=text")
    founder.kubectl("label", "node", "w0", "some/label=text")
    assert founder.kubectl("get", "nodes", "-l", "some/label=text", "-o", "name") == "node/w0\n"
    assert "condition met" in founder.kubectl(
        "wait", "--for=condition=Ready", "node/w0", "--timeout=5s"
    )
    assert "v1.35" in founder.kubectl("version")
    with pytest.raises(CommandFailed, match="NotFound"):
        founder.kubectl("get", "node", "nobody")


# --- it refuses ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "texts"),
    [
        ({"token": "wrong"}, ["failed to bootstrap cluster data", "server-bootstrap: 401"]),
        ({"token": AGENT_TOKEN}, ["server-bootstrap: 403 Forbidden"]),
        (
            {"token": f"K10{OTHER_HASH}::server:{TOKEN}"},
            ["token CA hash does not match the Cluster CA certificate hash", f"{OTHER_HASH} != "],
        ),
        ({"token": f"K10123::server:{TOKEN}"}, ["invalid token CA hash length"]),
        ({"token": ""}, ["token is required to join a cluster"]),
        ({"server": "https://172.20.0.250:9345"}, ["failed to get CA certs", "/cacerts"]),
        ({"server": "https://172.20.0.120:9345"}, ["connect: connection refused"]),
        ({"node-name": "s1"}, ["duplicate node name found"]),
        (
            {"cluster-cidr": "10.52.0.0/16"},
            [
                "critical configuration mismatched: cluster-cidr",
                "critical configuration value mismatch between servers",
            ],
        ),
        ({"cni": "calcium"}, ["invalid value calcium provided for --cni"]),
    ],
)
def test_a_server_that_can_not_join_ends_and_is_started_again(
    founder: Rke2, stranger: Rke2, values: dict[str, object], texts: list[str]
) -> None:
    stranger.configure(joining(stranger, "server") | values)
    since = len(stranger.journal("server"))
    stranger.start("server")
    stranger.node.wait_until(
        lambda: int(stranger.state("server")["NRestarts"]) >= 1, 10, "a restart"
    )
    journal = stranger.journal("server")[since:]
    assert "level=fatal" in journal
    for text in texts:
        assert text in journal


@pytest.mark.parametrize(
    ("values", "texts"),
    [
        (
            {"token": "wrong"},
            ["failed to retrieve configuration from server", "not authorized"],
        ),
        (
            {"token": f"K10{OTHER_HASH}::node:{AGENT_TOKEN}"},
            ["token CA hash does not match the Cluster CA certificate hash"],
        ),
        (
            {"server": "https://172.20.0.120:9345"},
            ["Failed to validate connection to cluster", "connection refused"],
        ),
        ({"node-name": "w0"}, ["Node password rejected, duplicate hostname or contents of"]),
    ],
)
def test_an_agent_that_can_not_join_never_ends(
    founder: Rke2, stranger: Rke2, values: dict[str, object], texts: list[str]
) -> None:
    stranger.configure(joining(stranger, "agent") | values)
    stranger.start("agent")
    for text in texts:
        stranger.wait_journal("agent", text)
    time.sleep(0.5)
    assert stranger.journal("agent").count(texts[-1]) > 1
    state = stranger.state("agent")
    assert (state["ActiveState"], state["NRestarts"]) == ("activating", "0")


@pytest.mark.parametrize(
    ("mode", "text"),
    [
        ("unreachable", "connection refused"),
        ("lb-eof", "EOF"),
        ("blackhole", "context deadline exceeded"),
        ("core-not-ready", "503 Service Unavailable"),
        ("wrong-token", "not authorized"),
    ],
)
def test_an_agent_waits_until_the_server_is_well_again(
    founder: Rke2, stranger: Rke2, mode: str, text: str
) -> None:
    founder.fail(mode)
    time.sleep(0.8 if mode == "unreachable" else 0)
    stranger.configure(joining(stranger, "agent"))
    stranger.start("agent")
    try:
        stranger.wait_journal("agent", text)
    finally:
        founder.heal(mode)
    stranger.wait_active("agent")
    founder.kubectl("delete", "node", "j0")


def test_port_9345_is_open_long_before_it_is_of_use(founder: Rke2, stranger: Rke2) -> None:
    stranger.turn(delays={"bootstrap": 60})
    stranger.configure(config(stranger, token="another"))
    stranger.start("server")
    url = f"https://{ADDRESSES['j0']}:9345"
    stranger.wait_answer(f"{url}/ping", (503, "starting\n"))
    stranger.turn(delays={"bootstrap": 0, "apiserver": 60})
    stranger.wait_answer(f"{url}/ping", (200, "pong"))
    stranger.node.wait_until(lambda: stranger.node.exists(ADMIN_KUBECONFIG), 5, "the kubeconfig")
    assert stranger.ask("https://127.0.0.1:6443/readyz")[0] == 0
    assert stranger.state("server")["SubState"] == "start"


def test_a_node_whose_clock_is_off_trusts_no_certificate(founder: Rke2, stranger: Rke2) -> None:
    stranger.fail("clock-off")
    stranger.configure(joining(stranger, "agent"))
    stranger.start("agent")
    stranger.wait_journal("agent", "certificate has expired or is not yet valid")


def test_two_founders_are_two_clusters_and_both_are_well(founder: Rke2, stranger: Rke2) -> None:
    stranger.configure(config(stranger, token=TOKEN))
    stranger.start("server")
    stranger.wait_active("server")
    assert stranger.kubectl("get", "nodes", "-o", "name") == "node/j0\n"
    assert stranger.token() != founder.token()
    stranger.configure(config(stranger, token="another"))
    stranger.restart("server")
    stranger.wait_journal("server", "already found and encrypted with different token")


def test_each_phase_can_be_held_up_and_let_go(founder: Rke2, stranger: Rke2) -> None:
    for mode in ("image-missing", "cni-missing", "ccm-stuck"):
        stranger.fail(mode)
    stranger.configure(config(stranger, token="another"))
    stranger.start("server")
    wait_events(stranger, ["staged"])
    time.sleep(0.5)
    assert stranger.state("server")["SubState"] == "start"
    assert "Failed to pull image" in stranger.node.read(f"{DATA}/agent/logs/kubelet.log")
    assert "image" not in stranger.journal("server").rpartition("Wrote kubeconfig")[2]
    stranger.heal("image-missing")
    stranger.wait_active("server")
    stranger.wait_condition(["j0"], status="False")
    uninitialized = ("node.cloudprovider.kubernetes.io/uninitialized", "NoSchedule")
    assert uninitialized in taints(stranger, "j0")
    stranger.heal("ccm-stuck")
    stranger.node.wait_until(
        lambda: uninitialized not in taints(stranger, "j0"), 5, "the taint to be lifted"
    )
    stranger.wait_condition(["j0"], status="False")
    stranger.heal("cni-missing")
    stranger.wait_condition(["j0"])
    stranger.node.wait_until(lambda: not taints(stranger, "j0"), 5, "no taints")
    stranger.fail("readyz-flap", "500,200,401")
    assert [stranger.ask_as_admin("/readyz")[0] for _ in range(4)] == [500, 200, 401, 500]
    stranger.heal("readyz-flap")
    stranger.fail("quorum-loss")
    assert stranger.ask_as_admin("/readyz")[0] == 500
    stranger.heal("quorum-loss")
    stranger.fail("crash-after-ready", 0.2)
    stranger.restart("server")
    stranger.node.wait_until(
        lambda: int(stranger.state("server")["NRestarts"]) >= 2, 10, "two restarts"
    )


def test_a_learner_that_makes_no_progress_is_taken_out(founder: Rke2, stranger: Rke2) -> None:
    before = members(founder)
    stranger.fail("learner-stalled")
    stranger.fail("learner-conflict", 2)
    stranger.configure(joining(stranger, "server"))
    stranger.start("server")
    journal = stranger.wait_journal("server", "too many learner members in cluster")
    assert "Waiting for other members to finish joining etcd cluster" in journal
    wait_events(stranger, ["etcd.learner"])
    founder.node.wait_until(lambda: len(members(founder)) == 4, 5, "the learner")
    founder.node.wait_until(lambda: members(founder) == before, 10, "the eviction")


# --- it loses nodes ------------------------------------------------------------------------------


def test_a_dead_node_is_unknown_after_a_while_and_its_name_is_free_once_it_is_deleted(
    founder: Rke2, machines: dict[str, Rke2], stranger: Rke2
) -> None:
    dead = machines["s2"]
    dead.node.kill()
    founder.wait_condition(["s2"], status="Unknown")
    assert len(members(founder)) == 3
    founder.kubectl("delete", "node", "s2")
    assert {name.rpartition("-")[0] for name in members(founder)} == {"s0", "s1"}
    assert founder.kubectl("get", "nodes", "-o", "name") == "node/s0\nnode/s1\nnode/w0\n"
    settings = joining(stranger, "server", **{"node-name": "s2", "agent-token": AGENT_TOKEN})
    stranger.configure(settings)
    stranger.start("server")
    stranger.wait_active("server")
    founder.wait_condition(["s2"], "EtcdIsVoter")
    founder.kubectl("delete", "node", "s2")
    stranger.wait_journal("server", "this node has been removed from the cluster")
    assert stranger.state("server")["ActiveState"] == "active"
    stranger.restart("server")
    stranger.wait_active("server")
    founder.wait_condition(["s2"], "EtcdIsVoter")
    founder.kubectl("delete", "node", "s2")


def test_a_deleted_worker_stays_away_until_it_is_started_again(
    founder: Rke2, machines: dict[str, Rke2]
) -> None:
    worker = machines["w0"]
    founder.kubectl("delete", "node", "w0")
    wait_events(worker, ["node.gone"])
    assert "w0" not in founder.get_nodes()
    worker.restart("agent")
    founder.wait_condition([])
    founder.node.wait_until(lambda: "w0" in founder.get_nodes(), 10, "w0 to be back")
    assert ("second", "PreferNoSchedule") in taints(founder, "w0")


def test_all_come_back_after_all_were_rebooted_at_once(
    founder: Rke2, machines: dict[str, Rke2]
) -> None:
    chosen = [machines[name] for name in ("s0", "s1", "w0")]
    at_once(*(machine.node.reboot for machine in chosen))
    for machine in chosen:
        machine.node.wait_contextualized()
    founder.start("server")
    machines["w0"].start("agent")
    founder.wait_journal("server", "Failed to test etcd connection")
    time.sleep(1)
    assert founder.state("server")["ActiveState"] == "activating"
    machines["s1"].start("server")
    for machine, role in zip(chosen, ("server", "server", "agent"), strict=True):
        machine.wait_active(role)
    founder.wait_condition(["s0", "s1", "w0"])


def test_without_quorum_the_api_is_not_ready_and_nothing_can_be_deleted(
    founder: Rke2, machines: dict[str, Rke2]
) -> None:
    machines["s1"].node.kill()
    founder.node.wait_until(lambda: founder.ask_as_admin("/readyz")[0] == 500, 10, "500")
    assert founder.ask(f"{SUPERVISOR}/ping") == (200, "pong")
    argv = ["env", f"KUBECONFIG={ADMIN_KUBECONFIG}", KUBECTL, "delete", "node", "s1"]
    assert founder.node.run(argv, check=False).returncode == 1
