"""What keeps a node out of its cluster is said in plain words, everywhere, and in time.

One service for all: a gateway and a master that founded a cluster. Each case is a node of its own
with a fault of its own; some of them are switched on ahead, so that their waits pass side by side.
The modes are those of the double's failure injection; where it can be had, the real thing is done
instead of a mode.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import pytest

from appliance import paths
from appliance.system.onegate import readable
from tests.lab.bake import Image
from tests.lab.basics import LabError
from tests.lab.context import (
    PRIVATE,
    nic_attributes,
    nic_context,
    override,
    role_context,
)
from tests.lab.lab import PRIVATE_NIC, Lab
from tests.lab.node import Node
from tests.lab.rke2.control import Rke2

pytestmark = pytest.mark.lab

AGENT = "oneke-agent.service"
ONCE = "/etc/systemd/system/oneke-agent.service.d/once.conf"
NO_CLUSTER = "172.20.0.9"
BLACK_HOLE = "172.20.0.10"
OF_THE_DEAD = "172.20.0.128"
UNBACKED = "10.2.11.86:443"
PASSWORD = "n0-t0ken-0f-th1s-cluster"
SHORT_S, LONG_S = 10, 300
SLACK_S = 5
"""A round of the agent's, with looks at machines that do not answer."""
PATIENT = {"ONEAPP_RKE2_START_TIMEOUT": LONG_S, "ONEAPP_RKE2_JOIN_TIMEOUT": LONG_S}
AHEAD = 6


@dataclass(frozen=True)
class Ailing:
    """A node of the service that was switched on with a fault.

    Attributes:
        rke2: Its RKE2.
    """

    lab: Lab
    node: Node

    @property
    def rke2(self) -> Rke2:
        return Rke2(self.node)

    def published(self, key: str) -> str:
        assert self.node.vm_id is not None
        return str(self.lab.onegate.user_template(self.node.vm_id).get(key, ""))

    def wait(self, what: str, *words: str, timeout_s: float = 60) -> None:
        """Wait until a key of the VM holds all the words."""

        def told() -> bool:
            text = self.published(what)
            if not all(readable(word) in text for word in words):
                raise LabError(f"{text!r}; {self.published('ONEKE_STATE')}: {self.last_words()}")
            return True

        self.node.wait_until(told, timeout_s, f"{what} with {' and '.join(words)}")

    def last_words(self) -> str:
        """The end of what agent and RKE2 have said."""
        units = (AGENT, "rke2-server.service", "rke2-agent.service")
        return "\n".join(
            line for unit in units for line in self.node.journal(unit).split("\n")[-6:]
        )

    def status(self) -> str:
        """What somebody on the node is told."""
        return self.node.run(["oneke-agent", "status"], check=False).stdout

    def waits(self) -> list[int]:
        """How long the agent waited before it gave up, in seconds, as it says itself."""
        said = self.node.journal(AGENT)
        return [int(found) for found in re.findall(r" FAILED: .* after (\d+) s and", said)]

    def assert_told_everywhere(self, *words: str) -> None:
        """The words are in journal, status and on the console; no token is anywhere."""
        shown = {
            "journal": self.node.journal(AGENT),
            "status": self.status(),
            "console": self.node.console(),
            "issue": self.node.read(str(paths.ISSUE)),
        }
        for where, text in shown.items():
            assert PASSWORD not in text
            missing = [word for word in words if word not in text]
            assert not missing, f"{where} lacks {missing}: {text[-1500:]}"


@dataclass
class Service:
    """The service that all cases share."""

    lab: Lab
    founder: Ailing
    service_id: int
    _next: int = 130
    _made: dict[str, Ailing] = field(default_factory=dict)

    @property
    def token(self) -> str:
        return self.founder.published("ONEGATE_K8S_TOKEN")

    @property
    def agent_token(self) -> str:
        return self.founder.published("ONEGATE_K8S_AGENT_TOKEN")

    def make(
        self,
        role: str,
        context: Mapping[str, object],
        modes: Mapping[str, object],
        *,
        address: str = "",
        service_id: int | None = None,
        once: bool = True,
        prepare: Callable[[Ailing], None] = lambda ailing: None,
    ) -> Ailing:
        """Make a node and switch it on.

        Args:
            role: Of its VM.
            context: What is changed in its context.
            modes: What is to go wrong with its RKE2.
            address: Its address; a new one if empty.
            service_id: The service that it belongs to; the shared one if None.
            once: Whether its agent is not started again when it failed.
            prepare: What is done before it is switched on.
        """
        number, self._next = self._next, self._next + 1
        address = address or f"172.20.0.{number}"
        service_id = service_id or self.service_id
        values = role_context(role) | nic_context(0, PRIVATE, address)
        values |= {"SERVICE_ID": str(service_id), "ONEAPP_RKE2_START_TIMEOUT": str(SHORT_S)}
        vm = {
            "role": role,
            "service_id": service_id,
            "nics": [nic_attributes(PRIVATE, address)],
        }
        node = self.lab.node(
            f"n{number}", context=override(values, context), vm=vm, nics=PRIVATE_NIC, start=False
        )
        ailing = Ailing(self.lab, node)
        if once:
            node.write(ONCE, "[Service]\nRestart=no\n")
        if modes:
            ailing.rke2.turn(modes=dict(modes))
        prepare(ailing)
        node.start()
        return ailing

    def remove(self, ailing: Ailing) -> None:
        """End a VM by force."""
        assert ailing.node.vm_id is not None
        ailing.node.close()
        self.lab.onegate.remove_vm(ailing.node.vm_id)


@pytest.fixture(scope="module")
def lab(lab_image: Image) -> Iterator[Lab]:
    with Lab(lab_image) as made:
        yield made


@pytest.fixture(scope="module")
def service(lab: Lab) -> Service:
    """A gateway and a founder that is ready."""
    service_id = lab.add_service([("vnf", 1), ("master", 1), ("worker", 0)])
    lab.vnf(
        "vnf0",
        0,
        ONEAPP_VNF_DNS_ENABLED="YES",
        ONEAPP_VNF_DNS_INTERFACES="eth1",
        ONEAPP_VNF_DNS_NAMESERVERS="10.2.11.1",
        ONEAPP_VNF_HAPROXY_REFRESH_RATE="1",
    )
    made = Service(lab, None, service_id)
    # A test cleans by hand.
    settings = {**PATIENT, "ONEAPP_K8S_CLEANER_ENABLED": "NO"}
    made.founder = made.make("master", settings, {}, address="172.20.0.101", once=False)
    made.founder.wait("READY", "YES")
    hole = lab.host("hole", network="private", address=f"{BLACK_HOLE}/24")
    hole.start(["python3", "-c", LISTEN])
    # The cleaner lets a minute pass before it takes a node for dead; the tests take longer.
    dead = made.make("worker", PATIENT, {}, address=OF_THE_DEAD)
    dead.wait("READY", "YES")
    made.remove(dead)
    return made


LISTEN = (
    "import socket, time; s = socket.create_server(('0.0.0.0', 9345), backlog=4096); "
    "time.sleep(1e6)"
)


# --- nodes that fail ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """A fault and what is said about it.

    Attributes:
        mode: Its name in the double's table of failures.
        role: Whose trouble it is.
        cause: What is wrong, in words that appear in OneGate, status, journal, and on the console.
        advice: What to do, likewise.
        context: What its context says beside the usual.
        injected: What the mode of its own RKE2 is set to; None where its trouble is a real one.
        own_cluster: Whether it is in a service of its own, which it founds the cluster of.
        prepare: What happened to it before.
    """

    mode: str
    role: str
    cause: str
    advice: str
    context: Callable[[Service], Mapping[str, object]] = lambda service: {}
    injected: object = None
    own_cluster: bool = False
    prepare: Callable[[Service, Ailing], None] = lambda service, ailing: None

    def __str__(self) -> str:
        return f"{self.role}-{self.mode}"


def by_hand(kind: str, *, password: str = "", ca: str = "") -> Callable[[Service], dict[str, str]]:
    """A join token given in the context, with another password or of another cluster."""

    def context(service: Service) -> dict[str, str]:
        token = service.token if kind == "server" else service.agent_token
        head, _, user = token.partition("::")
        name, _, secret = user.partition(":")
        given = f"K10{ca}" if ca else head
        return {"ONEAPP_K8S_TOKEN": f"{given}::{name}:{password or secret}"}

    return context


def at(endpoint: str, **more: str) -> Callable[[Service], dict[str, str]]:
    """Another supervisor's endpoint, which is waited for a short time only."""
    values = {"ONEAPP_RKE2_SUPERVISOR_EP": endpoint, "ONEAPP_RKE2_JOIN_TIMEOUT": str(SHORT_S)}
    return lambda service: values | more


def other_services(service: Service) -> dict[str, str]:
    return by_hand("server")(service) | {"ONEAPP_K8S_SERVICE_CIDR": "10.99.0.0/16"}


def take_its_name(service: Service, ailing: Ailing) -> None:
    """Let somebody else have a node's name before it comes."""
    context = ailing.node.read("/var/lib/lab-context/context.sh")
    [address] = re.findall("^ETH0_IP='(.*)'", context, re.MULTILINE)
    secret = service.agent_token.rpartition(":")[2]
    headers = {"Name": node_name(address), "Password": "a-dead-node", "Ip": "172.20.0.99"}
    options = [f"-HRke2-Node-{key}: {value}" for key, value in headers.items()]
    url = "https://127.0.0.1:9345/v1-rke2/client-kubelet.crt"
    status, _ = service.founder.rke2.ask(url, "-u", f"node:{secret}", *options)
    assert status == 200


def node_name(address: str) -> str:
    """What the node with an address is called."""
    return f"oneke-ip-{address.replace('.', '-')}"


def run_the_other_kind(service: Service, ailing: Ailing) -> None:
    """Let the machine be an RKE2 server already."""
    ailing.node.write("/etc/rancher/rke2/config.yaml", '{"token": "somebody-elses"}')
    before = "[Unit]\nWants=rke2-server.service\nAfter=rke2-server.service\n"
    ailing.node.write("/etc/systemd/system/oneke-agent.service.d/sibling.conf", before)


NO_ANSWER = ("the supervisor does not answer", "oneke-agent status on a gateway")
NO_CNI = ("its network plug-in (CNI) is not up", "kubectl -n kube-system get pods")
SILENT_SERVER = ("rke2-server.service is starting", "kubelet.log")
SILENT_AGENT = ("rke2-agent.service is starting", "kubelet.log")
REFUSED = ("the cluster refuses the join token", "node-token")
OTHER_CA = ("the join token belongs to another cluster", "ONEKE_CLUSTER_ID")
CLOCK = ("is the clock right?", "timedatectl")

CASES = (
    Case("wrong-token", "worker", *REFUSED, by_hand("node", password=PASSWORD)),
    Case("ca-mismatch", "worker", *OTHER_CA, by_hand("node", ca="0" * 64)),
    Case("node-password", "worker", "has a node of this name already", "oneke-agent clean",
         prepare=take_its_name),
    Case("unreachable", "worker", *NO_ANSWER, at(f"{NO_CLUSTER}:9345")),
    Case("blackhole", "worker", *NO_ANSWER, at(f"{BLACK_HOLE}:9345")),
    Case("lb-eof", "worker", *NO_ANSWER, at(UNBACKED)),
    Case("stuck-start", "worker", *SILENT_AGENT, injected=True),
    Case("image-missing", "worker", *SILENT_AGENT, injected=True),
    Case("cni-missing", "worker", *NO_CNI, injected=True),
    Case("clock-off", "worker", *CLOCK, injected=True),
    Case("sibling-active", "worker", "runs the other kind of RKE2 node already",
         "a VM can not change its kind", prepare=run_the_other_kind),
    Case("wrong-token", "master", *REFUSED, by_hand("server", password=PASSWORD)),
    Case("agent-token-as-server", "master", "the join token is that of workers", "node-token",
         by_hand("node")),
    Case("ca-mismatch", "master", *OTHER_CA, by_hand("server", ca="0" * 64)),
    Case("config-mismatch", "master", "service-cidr", "the same ONEAPP_", other_services),
    Case("duplicate-member", "master", "etcd has a member of this node's name",
         "oneke-agent clean", by_hand("server"), injected=True),
    Case("unreachable", "master", *NO_ANSWER, at(f"{NO_CLUSTER}:9345")),
    Case("clock-off", "master", *CLOCK, by_hand("server"), injected=True),
    Case("learner-stalled", "master", *SILENT_SERVER, by_hand("server"), injected=True),
    Case("stuck-start", "master", *SILENT_SERVER, injected=True, own_cluster=True),
    Case("disk-full", "master", *SILENT_SERVER, injected=True, own_cluster=True),
    Case("kubeconfig-early", "master", *SILENT_SERVER, injected=True, own_cluster=True),
    Case("quorum-loss", "master", "etcd has no quorum", "majority", injected=True,
         own_cluster=True),
    Case("readyz-flap", "master", "the API server is not ready", "/readyz?verbose",
         injected="200,500", own_cluster=True),
    Case("cni-missing", "master", *NO_CNI, injected=True, own_cluster=True),
    Case("ccm-stuck", "master", "the cloud controller has not initialised",
         "kubectl -n kube-system get pods", injected=True, own_cluster=True),
)  # fmt: skip


@dataclass
class Ward:
    """Nodes of the cases to come, some switched on ahead."""

    service: Service
    coming: list[Case]
    _inside: dict[Case, Ailing] = field(default_factory=dict)

    def take(self, case: Case) -> Ailing:
        while self.coming and (case not in self._inside or len(self._inside) < AHEAD):
            self._admit(self.coming.pop(0))
        return self._inside.pop(case)

    def _admit(self, case: Case) -> None:
        service_id = None
        if case.own_cluster:
            service_id = self.service.lab.add_service([("master", 1)], name=f"of {case}")
        self._inside[case] = self.service.make(
            case.role,
            case.context(self.service),
            {case.mode: case.injected} if case.injected else {},
            service_id=service_id,
            prepare=lambda ailing: case.prepare(self.service, ailing),
        )


@pytest.fixture(scope="module")
def ward(service: Service, request: pytest.FixtureRequest) -> Ward:
    items = [item for item in request.session.items if isinstance(item, pytest.Function)]
    params = [item.callspec.params for item in items if hasattr(item, "callspec")]
    cases = [each.get("case") for each in params]
    chosen = [case for case in cases if isinstance(case, Case)]
    return Ward(service, chosen)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_node_says_what_keeps_it_out_and_what_to_do(
    service: Service, ward: Ward, case: Case
) -> None:
    ailing = ward.take(case)
    ailing.wait("ONEKE_STATE", "FAILED")
    error = ailing.published("ONEKE_ERROR")
    print(f"{case}: {error}\n{ailing.status()}")
    assert readable(case.cause) in error
    assert readable(case.advice) in error
    ailing.assert_told_everywhere(case.cause, case.advice)
    assert all(waited_s <= SHORT_S + SLACK_S for waited_s in ailing.waits())
    assert ailing.published("READY") != "YES"
    service.remove(ailing)


# --- nodes that lose what they had ----------------------------------------------------------------


def change_token(founder: Ailing) -> None:
    founder.node.write("/var/lib/oneke/server-token", f"{PASSWORD}\n", mode=0o600)


def change_address(founder: Ailing) -> None:
    context = founder.node.read("/var/lib/lab-context/context.sh")
    moved = re.sub(r"172\.20\.0\.1(\d\d)", r"172.20.0.\1", context)
    founder.node.write("/var/lib/lab-context/context.sh", moved, mode=0o600)


LOSSES = {
    "stale-db-other-token": (change_token, "written with another token", "Restore the token"),
    "address-changed": (
        change_address,
        "does not know this master under its present address",
        "Give it back",
    ),
}


@pytest.fixture(scope="module")
def founders(service: Service) -> dict[str, Ailing]:
    """Masters that founded clusters of their own and were switched off since."""
    made = {}
    for loss in LOSSES:
        own = service.lab.add_service([("master", 1)], name=f"of {loss}")
        made[loss] = service.make("master", {}, {}, service_id=own)
    for founder in made.values():
        founder.wait("READY", "YES")
        founder.node.stop()
    return made


@pytest.mark.parametrize("loss", LOSSES)
def test_a_master_that_lost_something_says_what(
    service: Service, founders: dict[str, Ailing], loss: str
) -> None:
    founder = founders[loss]
    lose, cause, advice = LOSSES[loss]
    lose(founder)
    founder.node.start()
    founder.wait("ONEKE_STATE", "FAILED")
    print(f"{loss}: {founder.published('ONEKE_ERROR')}\n{founder.status()}")
    founder.wait("ONEKE_ERROR", cause, advice)
    founder.assert_told_everywhere(cause, advice)
    service.remove(founder)


# --- nodes that come in all the same --------------------------------------------------------------


def test_a_worker_tells_one_trouble_after_the_other_and_joins_when_there_is_none(
    service: Service,
) -> None:
    service.founder.rke2.fail("unreachable")
    worker = service.make("worker", PATIENT, {})
    worker.wait("ONEKE_STEP", "the supervisor does not answer")
    for mode, words in (
        ("ca-mismatch", "the join token belongs to another cluster"),
        ("wrong-token", "the cluster refuses the join token"),
        ("core-not-ready", "is not ready yet"),
        ("node-password", "a node of this name already"),
        ("ccm-stuck", "the cloud controller has not initialised"),
    ):
        service.founder.rke2.fail(mode)
        worker.wait("ONEKE_STEP", words)
        worker.assert_told_everywhere(words)
        assert worker.published("ONEKE_STATE") == "WAITING"
    service.founder.rke2.turn(modes={})
    worker.wait("READY", "YES")
    worker.wait("ONEKE_STATE", "READY")
    assert worker.published("ONEKE_STEP") == ""
    assert worker.published("ONEKE_BLOCKED_BY") == ""
    service.remove(worker)


def test_a_worker_makes_good_what_a_power_cut_left_empty(service: Service) -> None:
    files = "/var/lib/rancher/rke2/agent"
    kept = f"{files}/containerd/snapshot/etc/hosts"

    def cut(ailing: Ailing) -> None:
        for path in (f"{files}/serving-kubelet.key", "/etc/rancher/node/password", kept):
            ailing.node.write(path, "")

    worker = service.make("worker", PATIENT, {}, prepare=cut)
    worker.wait("READY", "YES")
    said = worker.node.journal("rke2-agent.service")
    assert "removed, as it is empty: serving-kubelet.key" in said
    assert "-----BEGIN" in worker.node.read(f"{files}/serving-kubelet.key")
    assert re.fullmatch("[0-9a-f]{32}\n", worker.node.read("/etc/rancher/node/password"))
    assert worker.node.read(kept) == ""
    service.remove(worker)


def test_a_worker_that_dies_again_and_again_says_so(service: Service) -> None:
    worker = service.make(
        "worker",
        PATIENT,
        {"crash-after-ready": 1},
        prepare=lambda ailing: ailing.rke2.restart_quickly(),
    )
    worker.wait("READY", "YES")

    def says_so() -> bool:
        status = worker.status()
        if "restarted" not in status and "crash after ready" not in status:
            raise LabError(status)
        return True

    worker.node.wait_until(says_so, 30, "its status to tell of restarts")
    service.remove(worker)


def test_a_rebuilt_worker_waits_until_the_dead_bearer_of_its_name_is_cleared(
    service: Service,
) -> None:
    rebuilt = service.make("worker", PATIENT, {}, address=OF_THE_DEAD)
    rebuilt.wait("ONEKE_BLOCKED_BY", node_name(OF_THE_DEAD))
    rebuilt.wait("ONEKE_STEP", "a node of this name already", "oneke-agent clean")
    rebuilt.assert_told_everywhere("a node of this name already", "oneke-agent clean")

    def cleared() -> bool:
        service.founder.node.run(["oneke-agent", "clean"], check=False)
        return rebuilt.published("ONEKE_BLOCKED_BY") == ""

    rebuilt.node.wait_until(cleared, 120, "its name to be cleared")
    rebuilt.wait("READY", "YES")
    service.remove(rebuilt)


def test_a_second_master_tells_what_it_waits_for_and_joins_in_the_end(service: Service) -> None:
    service.founder.rke2.fail("core-not-ready")
    second = service.make("master", PATIENT, {"stuck-start": True}, once=False)
    second.wait("ONEKE_STEP", "the supervisor answers, and is not ready yet")
    service.founder.rke2.turn(modes={})
    second.wait("ONEKE_STEP", "rke2-server.service is starting")
    second.rke2.fail("learner-conflict")
    second.wait("ONEKE_STEP", "another master is joining etcd")
    second.assert_told_everywhere("it admits one at a time")
    second.rke2.turn(modes={})
    second.wait("READY", "YES")
    voters = [seen.get("EtcdIsVoter") for seen in service.founder.rke2.conditions().values()]
    assert voters.count("True") == 2

    second.node.kill()
    service.founder.node.run(["systemctl", "restart", "--no-block", AGENT])
    service.founder.node.run(["systemctl", "restart", "--no-block", "rke2-server.service"])
    service.founder.wait("ONEKE_STEP", "etcd has no quorum", "a majority of them must run")
    service.founder.assert_told_everywhere("etcd has no quorum")
    second.node.start()
    for master in (service.founder, second):
        master.wait("ONEKE_STATE", "READY")
