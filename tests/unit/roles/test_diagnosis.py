"""Why RKE2 does not come up: its own lines, and its unit's state, in plain words.

The lines are RKE2's own in form (logrus), and systemd's around them; what they tell apart is in the
table of docs/cluster.md.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from appliance.system.onegate import readable
from appliance.system.units import UnitState
from roles.common.diagnosis import _PATTERNS, _Pattern, diagnose

SERVER, AGENT = "rke2-server.service", "rke2-agent.service"
STARTING = UnitState("loaded", "activating", "start", "success", "disabled", "0", "412")
AGAIN = replace(STARTING, sub="auto-restart", result="exit-code", restarts="7", job="")
RUNNING = UnitState("loaded", "active", "running", "success", "disabled")
PASSWORD = "pl4nt3d-p4ssw0rd"
TOKEN = f"K10{'5ca41738' * 8}::server:{PASSWORD}"
EP = "https://172.20.0.86:9345"


def said(message: str, level: str = "fatal") -> str:
    quoted = message.replace("\\", "\\\\").replace('"', '\\"')
    return f'time="2026-11-21T06:14:02Z" level={level} msg="{quoted}"'


def fatal(message: str) -> str:
    """What the journal holds of a server that died and waits to be started again."""
    return "\n".join(
        [
            "Starting rke2-server.service - Rancher Kubernetes Engine v2 (server)...",
            said("Starting rke2 v1.36.4+rke2r1 (0123456)", "info"),
            said("Managed etcd cluster not yet initialized", "info"),
            said(message),
            "rke2-server.service: Main process exited, code=exited, status=1/FAILURE",
            "rke2-server.service: Failed with result 'exit-code'.",
            "Failed to start rke2-server.service - Rancher Kubernetes Engine v2 (server).",
        ]
    )


BOOTSTRAP = f"starting kubernetes: preparing server: failed to bootstrap cluster data: {EP}"
CACERTS = f'failed to validate token: failed to get CA certs: Get "{EP}/cacerts": '
READY = "Waiting to retrieve agent configuration; server is not ready: "
LOCAL = "https://127.0.0.1:6444"
HASHES = f"{'ab' * 32} != {'cd' * 32}"
OTHER_CA = f"token CA hash does not match the Cluster CA certificate hash: {HASHES}"


# --- servers die ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "kind", "words", "is_final"),
    [
        (f"{BOOTSTRAP}/v1-rke2/server-bootstrap: 401 Unauthorized", "wrong-token", "refuses", True),
        ("preparing server: failed to bootstrap cluster data: not authorized", "wrong-token",
         "refuses", True),
        (f"{BOOTSTRAP}/v1-rke2/server-bootstrap: 403 Forbidden", "agent-token-as-server",
         "a master needs the server token", True),
        ("preparing server: failed to bootstrap cluster data: forbidden", "agent-token-as-server",
         "a master needs the server token", True),
        (f"preparing server: {OTHER_CA}", "ca-mismatch", "another cluster", True),
        ("preparing server: failed to validate token: invalid token CA hash length", "bad-token",
         "no RKE2 token", True),
        ("preparing server: failed to validate token: token must not be empty", "bad-token",
         "no RKE2 token", True),
        (CACERTS + "dial tcp 172.20.0.86:9345: connect: connection refused", "unreachable",
         "(172.20.0.86:9345: connection refused)", False),
        (CACERTS + "EOF", "unreachable", "(172.20.0.86:9345: EOF)", False),
        (CACERTS + "dial tcp: lookup k8s.example on 172.20.0.86:53: no such host", "unreachable",
         "no such host", False),
        (CACERTS + "dial tcp 172.20.0.86:9345: i/o timeout", "unreachable", "i/o timeout", False),
        (CACERTS + "context deadline exceeded (Client.Timeout exceeded while awaiting headers)",
         "unreachable", "Client.Timeout exceeded", False),
        (CACERTS + "dial tcp 172.20.0.86:9345: connect: no route to host", "unreachable",
         "no route to host", False),
        (f"{BOOTSTRAP}/v1-rke2/server-bootstrap: 503 Service Unavailable", "not-serving",
         "not ready yet", False),
        (f"failed to validate token: failed to get CA certs: {EP}/cacerts: 503 Service Unavailable",
         "not-serving", "not ready yet", False),
        ("starting kubernetes: preparing server: token is required to join a cluster",
         "token-missing", "no join token", False),
        ("preparing server: failed to validate server configuration: critical configuration value"
         " mismatch between servers", "configuration-mismatch", "all masters must share", True),
        ("starting kubernetes: preparing server: start managed database: etcd cluster join failed:"
         " duplicate node name found, please use a unique name for this node", "duplicate-member",
         "a dead master's", False),
        ("preparing server: bootstrap data already found and encrypted with different token",
         "other-encryption", "another token", True),
        ("/var/lib/rancher/rke2/server/tls/client-ca.key newer than datastore and could cause a"
         " cluster outage. Remove the file(s) from disk and restart",
         "newer-certificates", "newer than those in etcd", True),
        (CACERTS + "tls: failed to verify certificate: x509: certificate has expired or is not yet"
         " valid: current time 2020-01-01T00:00:00Z is before 2026-11-21T05:00:00Z", "clock",
         "is the clock right?", False),
    ],
)  # fmt: skip
def test_a_server_that_dies_is_understood(line: str, kind: str, words: str, is_final: bool) -> None:
    found = diagnose(SERVER, AGAIN, fatal(line))
    assert (found.kind, found.is_final) == (kind, is_final)
    assert words in found.reason


def test_a_mismatch_names_the_settings() -> None:
    words = "\n".join(
        [
            said("critical configuration mismatched: cluster-cidr", "warning"),
            said("critical configuration mismatched: secrets-encryption", "warning"),
            fatal("critical configuration value mismatch between servers").split("\n", 3)[3],
        ]
    )
    found = diagnose(SERVER, AGAIN, words)
    assert found.reason.endswith("of the cluster: cluster-cidr, secrets-encryption")


@pytest.mark.parametrize(
    "message",
    [
        "invalid CNI: cillium",
        'failed to load config: yaml: line 3: mapping values are not allowed in this context',
        "invalid value provided for --profile flag",
    ],
)  # fmt: skip
def test_another_fatal_line_is_quoted(message: str) -> None:
    found = diagnose(SERVER, AGAIN, fatal(message))
    assert found.kind == "fatal"
    assert message in found.reason
    assert not found.is_final


# --- servers that stay up and do not get ready ----------------------------------------------------


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ("Waiting for other members to finish joining etcd cluster: etcdserver: too many learner"
         " members in cluster", "learner-queue"),
        ("Waiting for container runtime to become ready before joining etcd cluster",
         "waiting-for-containers"),
        ("Failed to test data store connection: this server is not a member of the etcd cluster."
         " Found [a=https://172.20.0.101:2380], expect: a=https://172.20.0.109:2380",
         "address-changed"),
        ("Failed to get etcd MemberList: etcdserver: no leader", "unhealthy"),
        ("etcd cluster join failed: etcdserver: unhealthy cluster", "unhealthy"),
    ],
)  # fmt: skip
def test_a_server_that_waits_says_for_what(line: str, kind: str) -> None:
    found = diagnose(SERVER, STARTING, said(line, "info"))
    assert (found.kind, found.is_final) == (kind, False)


@pytest.mark.parametrize(
    "line",
    [
        said('Failed to test data store connection: failed to get etcd status: rpc error: code ='
             ' Unavailable desc = connection error: desc = "transport: Error while dialing: dial'
             ' tcp 127.0.0.1:2379: connect: connection refused"', "info"),
        said('Unable to watch for tunnel endpoints: Get "https://127.0.0.1:6443/api/v1/namespaces":'
             ' dial tcp 127.0.0.1:6443: connect: connection refused', "warning"),
        '{"level":"warn","ts":"2026-11-21T06:14:02Z","logger":"etcd-client","msg":"retrying of'
        ' unary invoker failed","error":"rpc error: dial tcp 127.0.0.1:2379: connect: connection'
        ' refused"}',
        said("Running kube-apiserver --allow-privileged=true", "info"),
        # What a master says of others, who have the trouble.
        said("Failed to authenticate request from 172.20.0.102:40312: invalid username/password"
             " combination", "error"),
        said("unable to verify password for node oneke-ip-172-20-0-110: hash does not match",
             "error"),
    ],
)  # fmt: skip
def test_a_founder_on_its_way_has_no_trouble(line: str) -> None:
    found = diagnose(SERVER, STARTING, line)
    assert (found.kind, found.reason) == ("", f"{SERVER} is starting")


@pytest.mark.parametrize(
    "line",
    [
        # A port and an address are no status.
        f'{BOOTSTRAP}/v1-rke2/server-bootstrap": read tcp 172.20.0.102:40312: EOF',
        # A registry has tokens of its own.
        "failed to get runtime image: GET https://registry.example/v2/rke2-runtime: 403 Forbidden",
        "failed to get runtime image: GET https://registry.example/v2/rke2-runtime: 401"
        " Unauthorized",
    ],
)
def test_what_only_looks_like_a_refused_token_is_quoted(line: str) -> None:
    found = diagnose(SERVER, AGAIN, fatal(line))
    assert (found.kind, found.is_final) == ("fatal", False)


# --- agents hang ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "kind", "is_final"),
    [
        (f"{READY}failed to retrieve configuration from server: {LOCAL}/v1-rke2/config: 401"
         " Unauthorized", "wrong-token", True),
        (f"{READY}failed to retrieve configuration from server: not authorized", "wrong-token",
         True),
        (f"Failed to validate connection to cluster at {EP}: {OTHER_CA}", "ca-mismatch", True),
        (f'Failed to validate connection to cluster at {EP}: failed to get CA certs: Get'
         f' "{LOCAL}/cacerts": dial tcp 172.20.0.86:9345: connect: connection refused',
         "unreachable", False),
        (f'Failed to validate connection to cluster at {EP}: failed to get CA certs: Get'
         f' "{LOCAL}/cacerts": EOF', "unreachable", False),
        (f'{READY}Get "{LOCAL}/v1-rke2/config": dial tcp 127.0.0.1:6444: connect: connection'
         " refused", "unreachable", False),
        (f"{READY}{LOCAL}/v1-rke2/serving-kubelet.crt: 503 Service Unavailable", "not-serving",
         False),
        (f"{READY}/var/lib/rancher/rke2/agent/serving-kubelet.crt: Node password rejected,"
         " duplicate hostname or contents of '/etc/rancher/node/password' may not match server"
         " node-passwd entry, try enabling a unique node name with the --with-node-id flag",
         "node-password", False),
        ("Incorrect Usage: --token is required", "token-missing", False),
        (f"{READY}{LOCAL}/v1-rke2/serving-kubelet.crt: 400 Bad Request", "node-password-missing",
         False),
        (f"{READY}error loading key from /var/lib/rancher/rke2/agent/serving-kubelet.key: <nil>",
         "empty-key", False),
    ],
)  # fmt: skip
def test_an_agent_that_hangs_is_understood(line: str, kind: str, is_final: bool) -> None:
    found = diagnose(AGENT, STARTING, "\n".join([said(line, "info")] * 3))
    assert (found.kind, found.is_final) == (kind, is_final)


def test_where_an_agent_asked_is_told() -> None:
    line = f'Failed to validate connection to cluster at {EP}: failed to get CA certs: Get "{LOCAL}'
    found = diagnose(AGENT, STARTING, said(f'{line}/cacerts": EOF', "error"))
    assert found.reason.endswith("(172.20.0.86:9345: EOF)")


def test_which_key_is_empty_is_told() -> None:
    line = f"{READY}error loading key from /var/lib/rancher/rke2/agent/serving-kubelet.key: <nil>"
    found = diagnose(AGENT, STARTING, said(line, "info"))
    assert found.reason.endswith(": /var/lib/rancher/rke2/agent/serving-kubelet.key")


def test_what_needs_a_person_says_what_to_do() -> None:
    for line in ("not authorized", "token CA hash does not match", "Node password rejected"):
        assert diagnose(AGENT, STARTING, said(line, "error")).hint


# --- which line counts ----------------------------------------------------------------------------


def test_the_newest_line_that_tells_something_counts() -> None:
    lines = [
        said("token CA hash does not match the Cluster CA certificate hash", "error"),
        said(f"{READY}{LOCAL}/v1-rke2/serving-kubelet.crt: 503 Service Unavailable", "info"),
        said("Adding server to load balancer rke2-agent-load-balancer: 172.20.0.101:9345", "info"),
    ]
    assert diagnose(AGENT, STARTING, "\n".join(lines)).kind == "not-serving"
    assert diagnose(AGENT, STARTING, "\n".join(reversed(lines))).kind == "ca-mismatch"


def test_what_was_said_before_somebody_started_it_anew_does_not_count() -> None:
    refused = fatal(f"{BOOTSTRAP}/v1-rke2/server-bootstrap: 401 Unauthorized")
    anew = [
        "Stopped rke2-server.service - Rancher Kubernetes Engine v2 (server).",
        "Starting rke2-server.service - Rancher Kubernetes Engine v2 (server)...",
        said("Starting rke2 v1.36.4+rke2r1 (0123456)", "info"),
    ]
    found = diagnose(SERVER, STARTING, "\n".join([refused, *anew]))
    assert (found.kind, found.is_final) == ("", False)


@pytest.mark.parametrize("between", [[], ["Stopped Rancher Kubernetes Engine v2 (server)."]])
def test_while_systemd_tries_again_the_cause_is_still_told(between: list[str]) -> None:
    refused = fatal(f"{BOOTSTRAP}/v1-rke2/server-bootstrap: 401 Unauthorized")
    again = [
        "rke2-server.service: Scheduled restart job, restart counter is at 7.",
        *between,
        "Starting rke2-server.service - Rancher Kubernetes Engine v2 (server)...",
        said("Starting rke2 v1.36.4+rke2r1 (0123456)", "info"),
    ]
    assert diagnose(SERVER, STARTING, "\n".join([refused, *again])).kind == "wrong-token"


# --- secrets --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "message",
    [
        f"cannot use {TOKEN}",
        f'cannot use "{TOKEN}"',
        f"cannot use token={PASSWORD}",
        f"cannot use --agent-token={PASSWORD} here",
        f"K10mangled::server:{PASSWORD}: cannot use this",
        f"proxyconnect tcp: http://joe:{PASSWORD}@proxy.example:3128: unauthorized",
        f"cannot use {'0123456789abcdef' * 2}",
        "cannot use 0a1b2c.0123456789abcdef",
        "cannot use 8c6b8a34-1f0c-4d3e-9c5a-2f6d1d8f4b11",
        f"{'x' * 150} {TOKEN}",
        # Where a cause is known, the address that is shown with it.
        f'failed to get CA certs: Get "https://joe:{PASSWORD}@172.20.0.86:9345/cacerts": EOF',
        f"token CA hash does not match the Cluster CA certificate hash: {TOKEN}",
        f"critical configuration mismatched: {TOKEN}",
    ],
)
def test_no_secret_is_shown(message: str) -> None:
    found = diagnose(SERVER, AGAIN, fatal(message))
    shown = repr(found)
    assert found.kind
    for secret in (PASSWORD, "0123456789abcdef", "8c6b8a34-1f0c", "5ca41738"):
        assert secret not in shown


def test_what_is_quoted_is_one_line_of_bounded_length() -> None:
    found = diagnose(SERVER, AGAIN, fatal("a long story " * 100))
    assert len(found.reason) < 200
    assert "\n" not in found.reason


# --- the unit -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("state", "kind", "words", "is_final"),
    [
        (None, "no-unit", "not-found", True),
        (replace(RUNNING, load="not-found", active="inactive"), "no-unit", "not-found", True),
        (replace(RUNNING, load="masked", active="inactive"), "no-unit", "masked", True),
        (replace(RUNNING, active="inactive", sub="dead", result="exec-condition"),
         "sibling-active", "the other kind of RKE2 node", True),
        (AGAIN, "", "systemd starts it again", False),
        (STARTING, "", "is starting", False),
        (replace(STARTING, active="inactive", sub="dead"), "", "is starting", False),
        (replace(RUNNING, active="inactive", sub="dead"), "", "does not run", False),
        (replace(RUNNING, active="failed", sub="failed", result="exit-code"), "",
         "is failed (exit-code)", False),
        (RUNNING, "", "runs", False),
    ],
)  # fmt: skip
def test_a_unit_that_says_nothing_is_described(
    state: UnitState | None, kind: str, words: str, is_final: bool
) -> None:
    found = diagnose(SERVER, state, "")
    assert (found.kind, found.is_final) == (kind, is_final)
    assert words in found.reason
    assert SERVER in found.reason


def test_a_masked_unit_is_not_blamed_on_the_image() -> None:
    found = diagnose(SERVER, replace(RUNNING, load="masked"), "")
    assert found.hint == f"somebody masked it: systemctl unmask {SERVER}"


def test_a_skipped_start_is_told_whatever_was_said_before() -> None:
    skipped = replace(RUNNING, active="inactive", sub="dead", result="exec-condition")
    found = diagnose(SERVER, skipped, fatal(f"{BOOTSTRAP}/server-bootstrap: 401 Unauthorized"))
    assert found.kind == "sibling-active"
    assert found.hint


# --- what OneGate shows ---------------------------------------------------------------------------


@pytest.mark.parametrize("pattern", _PATTERNS, ids=lambda pattern: pattern.kind)
def test_what_to_do_is_not_cut_off_in_onegate(pattern: _Pattern) -> None:
    told = f"{pattern.reason}; {pattern.hint or ''}"
    assert len(readable(told)) == len(told.strip()) < 200


@pytest.mark.parametrize("unit", [SERVER, AGENT])
def test_a_start_that_says_nothing_names_the_logs_of_its_parts(unit: str) -> None:
    found = diagnose(unit, STARTING, "")
    assert found.hint
    assert "kubelet.log" in found.hint
    assert len(f"{found.reason}; {found.hint}") < 200


def test_a_machine_of_the_other_kind_is_told_though_systemd_forgets_the_skip() -> None:
    found = diagnose(AGENT, replace(RUNNING, active="inactive", sub="dead"), "", sibling_runs=True)
    assert (found.kind, found.is_final) == ("sibling-active", True)
    assert diagnose(AGENT, RUNNING, "", sibling_runs=True).kind == ""


# --- what is over ---------------------------------------------------------------------------------

LET_IN = {
    SERVER: said("Wrote kubeconfig /etc/rancher/rke2/rke2.yaml", "info"),
    AGENT: said("Running containerd -c /var/lib/rancher/rke2/agent/etc/containerd", "info"),
}


@pytest.mark.parametrize("unit", [SERVER, AGENT])
@pytest.mark.parametrize(
    "line",
    [
        f"{BOOTSTRAP}/v1-rke2/server-bootstrap: 401 Unauthorized",
        f"{BOOTSTRAP}/v1-rke2/server-bootstrap: 503 Service Unavailable",
        OTHER_CA,
        CACERTS + "EOF",
    ],
)
def test_a_node_that_was_let_in_does_not_complain_of_the_door(unit: str, line: str) -> None:
    again = "Scheduled restart job, restart counter is at 3.\nStarting rke2-server.service - RKE2"
    words = "\n".join([said(line), again, LET_IN[unit]])
    assert diagnose(unit, STARTING, words).reason == f"{unit} is starting"


def test_what_comes_after_the_door_is_still_told_after_a_restart() -> None:
    line = "starting kubernetes: etcd cluster join failed: duplicate node name found"
    words = "\n".join([LET_IN[SERVER], said(line), LET_IN[SERVER]])
    assert diagnose(SERVER, AGAIN, words).kind == "duplicate-member"
