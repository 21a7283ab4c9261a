"""Why RKE2 does not come up: from its unit's state and journal to plain words.

The fragments are the parts of RKE2's lines that stay the same over its versions.
Source: rancher/rke2 and k3s-io/k3s; see docs/cluster.md.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from appliance.secret import MASK
from appliance.system.units import UnitState

_MESSAGE = re.compile(r'msg="((?:[^"\\]|\\.)*)"')
_FATAL = re.compile(r"level=(fatal|panic)")
_LONGEST = 160
# What RKE2 may quote and nobody should read: tokens in each of their forms, a proxy's password.
_SECRETS = re.compile(
    r"(?-i:\bK10)[^\s\"'\\]*"
    r"|(?<=://)[^\s/\"'\\]*(?=@)"
    r"|\b[0-9a-f]{32,}\b|\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b"
    r"|\b[a-z0-9]{6}\.[a-z0-9]{16}\b"
    r"|(?<=token=)[^\s\"'\\]+|(?<=password=)[^\s\"'\\]+",
    re.IGNORECASE,
)
# A master that comes up asks its own etcd and API server before they are there.
_OWN_PARTS = r"^(?!.*(?:127\.0\.0\.1|\[::1\]|localhost):(?:2379|2380|2399|6443|10250)\b)"


@dataclass(frozen=True)
class Diagnosis:
    """What keeps RKE2 from coming up.

    Attributes:
        kind: One word for programs; empty where the cause is not known.
        reason: For people.
        hint: What to do, or None.
        is_final: Whether trying on is of no use until a person has acted.
    """

    kind: str
    reason: str
    hint: str | None = None
    is_final: bool = False


@dataclass(frozen=True)
class _Pattern:
    kind: str
    fragment: re.Pattern[str]
    reason: str
    hint: str | None = None
    is_final: bool = False


def _pattern(
    kind: str, fragment: str, reason: str, hint: str | None = None, *, is_final: bool = False
) -> _Pattern:
    return _Pattern(kind, re.compile(fragment, re.IGNORECASE), reason, hint, is_final)


_EMPTY_KEY = r"error loading key from (\S+): <nil>"
_NOT_SERVING = "the supervisor answers, and is not ready yet"

# Those that tell more come first: one line may hold several fragments. What a master says of others
# that try to join it is not among them.
_PATTERNS = (
    _pattern(
        "ca-mismatch",
        "token CA hash does not match",
        "the join token belongs to another cluster than the one that answers",
        "was a master rebuilt, or does the endpoint lead elsewhere? Compare ONEKE_CLUSTER_ID of"
        " the masters with the CA at /cacerts",
        is_final=True,
    ),
    _pattern(
        "bad-token",
        "invalid token CA hash length|token must not be empty|invalid token format",
        "the join token is no RKE2 token",
        "look at ONEGATE_K8S_TOKEN and ONEGATE_K8S_AGENT_TOKEN of the masters, or ONEAPP_K8S_TOKEN",
        is_final=True,
    ),
    _pattern(
        "token-missing",
        "token is required",
        "RKE2 was given no join token",
        "is /var/lib/oneke/server-token or agent-token empty? oneke-agent configure writes it anew",
    ),
    _pattern(
        "other-encryption",
        "encrypted with different token",
        "the etcd data here was written with another token",
        "is the disk another cluster's, or was the token changed without rke2 token rotate? Restore"
        " the token, or a backup of /var/lib/rancher/rke2/server",
        is_final=True,
    ),
    _pattern(
        "newer-certificates",
        "newer than datastore",
        "certificates on this disk are newer than those in etcd",
        "rke2's own words in journalctl -u rke2-server say which files to move away",
        is_final=True,
    ),
    _pattern(
        "configuration-mismatch",
        "critical configuration (value )?mismatch",
        "a setting that all masters must share differs from that of the cluster",
        "give every master the same ONEAPP_K8S_* and ONEAPP_RKE2_* parameters, then"
        " oneke-agent configure",
        is_final=True,
    ),
    _pattern(
        "duplicate-member",
        "duplicate node name found",
        "etcd has a member of this node's name already: a dead master's",
        "it is cleared by oneke-agent clean on a serving master once OneGate no longer knows the"
        " dead VM",
    ),
    _pattern(
        "node-password",
        "Node password rejected",
        "the cluster has a node of this name already, with another password: a dead VM's",
        "it is cleared by oneke-agent clean on a serving master once OneGate no longer knows the"
        " dead VM",
    ),
    _pattern(
        "node-password-missing",
        r"node password not set|v1-rke2/\S*kubelet\.crt: 400\b",
        "the supervisor refuses this node, which shows it no password",
        "oneke-agent configure makes one where /etc/rancher/node/password is empty",
    ),
    _pattern(
        "empty-key",
        _EMPTY_KEY,
        "a key of RKE2's is empty, as after a power cut",
        "systemctl restart rke2-server or rke2-agent: it is removed, and made anew",
    ),
    _pattern(
        "address-changed",
        "not a member of the etcd cluster",
        "etcd does not know this master under its present address",
        "has the VM's address changed since it joined? Give it back, or remove the node from the"
        " cluster and let a new VM join",
    ),
    _pattern(
        "learner-queue",
        "Waiting for other members to finish joining|too many learner",
        "another master is joining etcd; it admits one at a time",
    ),
    _pattern(
        "clock",
        "certificate has expired or is not yet valid|is not yet valid: current time",
        "a certificate is not valid at this machine's time: is the clock right?",
        "timedatectl shows the time and whether it is synchronised",
    ),
    _pattern(
        "agent-token-as-server",
        r"bootstrap.*(: 403\b|\bforbidden\b)|\bforbidden\b.*bootstrap",
        "the join token is that of workers; a master needs the server token",
        "ONEGATE_K8S_TOKEN, or ONEAPP_K8S_TOKEN, must be the content of"
        " /var/lib/rancher/rke2/server/node-token of a serving master",
        is_final=True,
    ),
    _pattern(
        "wrong-token",
        r"v1-rke2/.*: 401\b|not authorized",
        "the cluster refuses the join token",
        "was it rotated? Compare ONEGATE_K8S_TOKEN and _AGENT_TOKEN of the masters with node-token"
        " and agent-token in /var/lib/rancher/rke2/server of one that serves",
        is_final=True,
    ),
    _pattern(
        "unhealthy",
        "unhealthy cluster|etcdserver: no leader|request timed out, possibly due to",
        "etcd has no quorum, so nobody can join",
        "bring the masters back that are down; a majority of them must run",
    ),
    _pattern(
        "not-serving",
        "runtime core not ready|503 Service Unavailable|status code: 503",
        _NOT_SERVING,
    ),
    _pattern(
        "unreachable",
        "failed to get CA certs|Failed to validate connection to cluster"
        f"|{_OWN_PARTS}.*(connection refused|no such host|i/o timeout|Client.Timeout)",
        "the supervisor can not be reached",
        "is a master serving, and do the balancers know it? oneke-agent status on the gateways",
    ),
    _pattern("not-serving", "server is not ready", _NOT_SERVING),
    _pattern(
        "waiting-for-containers",
        "Waiting for container runtime to become ready before joining",
        "images are being imported before it joins etcd",
    ),
)

_CAUSES = (
    "connection refused",
    "no such host",
    "EOF",
    "i/o timeout",
    "Client.Timeout exceeded",
    "context deadline exceeded",
    "no route to host",
    "network is unreachable",
)
# What RKE2 says once it was let in: what it complained of before is over, though it may be minutes
# until it says anything else.
_ENTERED = re.compile("Wrote kubeconfig|Running (containerd|kubelet)", re.IGNORECASE)
_BEFORE_ENTERING = frozenset(
    {
        *("ca-mismatch", "bad-token", "token-missing", "wrong-token", "agent-token-as-server"),
        *("configuration-mismatch", "other-encryption", "newer-certificates", "clock"),
        *("not-serving", "unreachable", "node-password-missing", "empty-key"),
    }
)
_MISMATCH = re.compile(r"critical configuration mismatched: ([^\"\\\n]+)")
_BY_SYSTEMD = "Scheduled restart job"


def diagnose(
    unit: str, state: UnitState | None, words: str, *, sibling_runs: bool = False
) -> Diagnosis:
    """Say why a unit of RKE2 is not up.

    Args:
        unit: The unit.
        state: As systemd sees it.
        words: The end of its journal, oldest first.
        sibling_runs: Whether the unit of the other kind of node is up, or comes up. systemd forgets
            at once that it skipped this one for that.
    """
    if state is None or state.load in ("not-found", "masked"):
        load = state.load if state else "not-found"
        masked = f"somebody masked it: systemctl unmask {unit}"
        hint = masked if load == "masked" else "the image lacks RKE2"
        return Diagnosis("no-unit", f"{unit}: {load}", hint, is_final=True)
    is_skipped = state.result == "exec-condition" or "exec-condition" in state.sub
    if is_skipped or (sibling_runs and not state.is_active):
        return Diagnosis(
            "sibling-active",
            f"{unit} can not start: this machine runs the other kind of RKE2 node already",
            "systemctl status rke2-server rke2-agent; a VM can not change its kind: rebuild it",
            is_final=True,
        )
    found = _from_journal(words)
    if found is not None:
        return found
    return Diagnosis("", _from_state(unit, state), _where_to_look(unit, state))


def _from_journal(words: str) -> Diagnosis | None:
    lines = _since_last_start(words.splitlines())
    has_entered = False
    for line in reversed(lines):
        has_entered = has_entered or _ENTERED.search(line) is not None
        pattern = next((one for one in _PATTERNS if one.fragment.search(line)), None)
        if pattern is not None and has_entered and pattern.kind in _BEFORE_ENTERING:
            continue
        if pattern is not None:
            detail = _without_secrets(_detail(pattern.kind, line, lines))
            reason = pattern.reason + detail
            return Diagnosis(pattern.kind, reason, pattern.hint, pattern.is_final)
        if _FATAL.search(line):
            return Diagnosis("fatal", f"RKE2 says: {_message(line)}", "journalctl -u rke2-*")
    return None


def _since_last_start(lines: list[str]) -> list[str]:
    """Leave out what was said before somebody started the unit anew, as with a better token.

    systemd, which starts it again and again, says so just before.
    """
    for at in reversed(range(len(lines))):
        before = lines[max(0, at - 3) : at]
        if lines[at].startswith("Starting ") and not any(_BY_SYSTEMD in one for one in before):
            return lines[at + 1 :]
    return lines


def _detail(kind: str, line: str, lines: list[str]) -> str:
    if kind in ("unreachable", "clock"):
        cause = next((cause for cause in _CAUSES if cause in line), "")
        host = re.search(r"https://(?:[^/\s\"\\]*@)?([^/\s\"\\]+)", line)
        told = ": ".join(filter(None, (host[1].rstrip(":") if host else "", cause)))
        return f" ({told})" if told else ""
    if kind == "empty-key":
        file = re.search(_EMPTY_KEY, line)
        return f": {file[1]}" if file else ""
    if kind == "configuration-mismatch":
        named = sorted({name.strip() for one in lines for name in _MISMATCH.findall(one)})
        return f": {', '.join(named)}" if named else ""
    return ""


def _message(line: str) -> str:
    found = _MESSAGE.search(line)
    text = _without_secrets(found[1].replace('\\"', "'") if found else line)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def _without_secrets(text: str) -> str:
    return _SECRETS.sub(MASK, text)


def _where_to_look(unit: str, state: UnitState) -> str | None:
    """Name the logs of those parts of RKE2 that do not write to the journal."""
    if state.is_active or not state.is_coming_up:
        return None
    name = unit.removesuffix(".service")
    return (
        f"if this stays: journalctl -u {name}; logs/kubelet.log and containerd/containerd.log in"
        " /var/lib/rancher/rke2/agent"
    )


def _from_state(unit: str, state: UnitState) -> str:
    if state.is_active:
        return f"{unit} runs"
    if state.sub == "auto-restart":
        return f"{unit} ends again and again, and systemd starts it again"
    if state.is_coming_up:
        return f"{unit} is starting"
    if (state.active, state.result) == ("inactive", "success"):
        return f"{unit} does not run"
    return f"{unit} is {state.active} ({state.result})"
