"""Who founds the cluster, who joins it and when: decided from what OneGate tells, purely.

Two founders would be two clusters, which nothing could merge again. So whoever is to found says so
in OneGate first, and reads that back: of two that write before they read, one at least sees the
other. Who finds another's announcement before making its own waits; of two that have both made one,
the higher VM id takes its own back, and the lower one waits until that is done. Once it was decided
to found, that is noted on the disk before RKE2 starts, and as long as RKE2 runs nothing here is
asked again: whoever may have begun must not yield any more. One that was cut before there was data
asks again, and goes on where nobody can have joined it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import IPv4Address

from appliance.secret import Secret
from appliance.siblings import Siblings
from appliance.system.onegate import ServiceRole, Vm, readable

MASTER_ROLE = "master"

MASTER_KEY = "ONEGATE_K8S_MASTER"
TOKEN_KEY = "ONEGATE_K8S_TOKEN"  # noqa: S105  # a key's name
AGENT_TOKEN_KEY = "ONEGATE_K8S_AGENT_TOKEN"  # noqa: S105  # a key's name
CLUSTER_KEY = "ONEKE_CLUSTER_ID"
FOUNDER_KEY = "ONEKE_FOUNDER"
BLOCKED_KEY = "ONEKE_BLOCKED_BY"
STATE_KEY, STEP_KEY, ERROR_KEY = "ONEKE_STATE", "ONEKE_STEP", "ONEKE_ERROR"

STALLED_S = 900.0
"""A master that is to join before and publishes nothing new for so long is passed over."""

_ACTIVE, _RUNNING, _SHUTDOWN = 3, 3, 12
_COMING = frozenset({(0, 0), (1, 0), (3, 1), (3, 2)})
"""STATE and LCM_STATE before a VM runs: init, pending; prolog, boot."""
_SOUND_TOKEN = re.compile(r"[!-~]{1,400}")


@dataclass(frozen=True)
class Announce:
    """Publish the intent to found, and look again."""


@dataclass(frozen=True)
class Retract:
    """Take the intent back: `other`, with a lower VM id, is to found."""

    other: int


@dataclass(frozen=True)
class Found:
    """Found the cluster; nobody else will."""


@dataclass(frozen=True)
class Join:
    """Join the cluster.

    Attributes:
        token: What to join with, as a master published it.
        agent_token: The separate token for workers and storage nodes; None where none is published.
        master: The address of a master that serves, as it published it; empty where it did not.
        vm_id: The VM that published the token.
    """

    token: Secret
    agent_token: Secret | None
    master: str
    vm_id: int


@dataclass(frozen=True)
class Hold:
    """Wait for others."""

    reason: str


@dataclass(frozen=True)
class Hopeless:
    """A person has to decide."""

    reason: str
    hint: str


ServerDecision = Announce | Retract | Found | Join | Hold | Hopeless


def decide_server(
    own_id: int | None, siblings: Siblings, *, has_begun: bool = False
) -> ServerDecision:
    """Say what a master without etcd data is to do.

    Args:
        own_id: This VM.
        siblings: What OneGate told; the texts in it are input to check, not truth.
        has_begun: Whether this machine began to found a cluster, and was never a member of one.
    """
    role = _masters(siblings)
    if role is None:
        return Hold(siblings.error or "OneGate shows no role master in this service")
    if own_id is None or own_id not in role.vm_ids:
        return Hold("OneGate does not list this VM among the masters yet")
    others = tuple(vm for vm in role.vms if vm.vm_id != own_id)
    own = next((vm for vm in role.vms if vm.vm_id == own_id), None)
    if own is not None and own.lcm_state == _SHUTDOWN:
        return Hold("this VM is being removed")
    serving = _serving(others)
    if serving:
        return _decide_join(own_id, siblings, others, serving)
    if own is None:
        return Hold(_incompleteness(role, siblings))
    return _decide_founding(own, others, role, siblings, has_begun=has_begun)


def _masters(siblings: Siblings) -> ServiceRole | None:
    return siblings.service.role(MASTER_ROLE) if siblings.service else None


def _serving(vms: tuple[Vm, ...]) -> tuple[Vm, ...]:
    """Return the VMs of a cluster that exists.

    Its id is published before a master holds any of its data, its address when it serves; the
    address alone is what older masters publish.
    """
    return tuple(vm for vm in vms if vm.text(MASTER_KEY) or vm.text(CLUSTER_KEY))


def _decide_join(
    own_id: int, siblings: Siblings, others: tuple[Vm, ...], serving: tuple[Vm, ...]
) -> ServerDecision:
    # One that is being removed takes its cluster with it, if it has one of its own.
    serving = tuple(vm for vm in serving if vm.lcm_state != _SHUTDOWN) or serving
    clusters = {
        cluster: vm.vm_id for vm in reversed(serving) if (cluster := vm.text(CLUSTER_KEY) or "")
    }
    if len(clusters) > 1:
        named = " and ".join(f"VM {vm_id}" for vm_id in sorted(clusters.values()))
        return Hopeless(
            f"{named} publish different clusters: the service has two",
            "keep one: terminate the others, or empty ONEKE_CLUSTER_ID, ONEGATE_K8S_MASTER,"
            " ONEGATE_K8S_TOKEN of those that are to join anew",
        )
    join = _find_token(serving, TOKEN_KEY)
    if join is None:
        names = ", ".join(f"VM {vm.vm_id}" for vm in serving)
        return Hold(f"{names} has a cluster, and has published no join token that can be used yet")
    ahead = _first_ahead(own_id, siblings, others)
    if ahead is not None:
        return Hold(f"VM {ahead.vm_id} joins first, one at a time: {_describe(ahead)}")
    return join


def _find_token(serving: tuple[Vm, ...], key: str) -> Join | None:
    """Pick the token of a master, preferring one that serves and is not about to go."""
    usable = [vm for vm in serving if _SOUND_TOKEN.fullmatch(vm.text(key) or "")]
    usable.sort(key=lambda vm: (not vm.text(MASTER_KEY), not _is_running(vm), vm.vm_id))
    for vm in usable:
        agent_token = vm.text(AGENT_TOKEN_KEY) or ""
        sound = Secret(agent_token) if _SOUND_TOKEN.fullmatch(agent_token) else None
        master = vm.text(MASTER_KEY) or ""
        address = master if is_address(master) else ""
        return Join(Secret(vm.text(key) or ""), sound, address, vm.vm_id)
    return None


def _first_ahead(own_id: int, siblings: Siblings, others: tuple[Vm, ...]) -> Vm | None:
    """Return the VM whose turn comes before: lower id, alive, not in the cluster yet."""
    for vm in sorted(others, key=lambda vm: vm.vm_id):
        has_come = vm.text(MASTER_KEY) or vm.text(TOKEN_KEY)
        is_waiting = vm.vm_id < own_id and not has_come and _is_running(vm)
        is_stuck = (
            vm.text(STATE_KEY) == "FAILED"
            or vm.text(BLOCKED_KEY) is not None
            or siblings.quiet_s.get(vm.vm_id, 0.0) >= STALLED_S
        )
        if is_waiting and not is_stuck:
            return vm
    return None


def _decide_founding(
    own: Vm, others: tuple[Vm, ...], role: ServiceRole, siblings: Siblings, *, has_begun: bool
) -> ServerDecision:
    serves = own.text(MASTER_KEY) or own.text(TOKEN_KEY)
    if has_begun and own.text(FOUNDER_KEY) and own.text(CLUSTER_KEY) and not serves:
        # Its id is known before there is data. Without a token nobody has joined, and all wait.
        return Found()
    rivals = [vm for vm in others if vm.text(FOUNDER_KEY)]
    if own.text(FOUNDER_KEY):
        lower = [vm.vm_id for vm in rivals if vm.vm_id < own.vm_id]
        if lower:
            return Retract(min(lower))
        if rivals:
            return Hold(
                f"VM {rivals[0].vm_id} announced to found the cluster too, and has to yield"
            )
    elif rivals:
        founder = min(rivals, key=lambda vm: vm.vm_id)
        return Hold(f"VM {founder.vm_id} founds the cluster: {_describe(founder)}")
    missing = _incompleteness(role, siblings)
    if missing:
        return Hold(missing)
    if own.text(CLUSTER_KEY) or own.text(MASTER_KEY):
        return Hopeless(
            "this VM served a cluster before, its etcd data is gone, no other master has it",
            "restore /var/lib/rancher/rke2/server, or begin anew: empty its"
            f" {CLUSTER_KEY}, {MASTER_KEY}, {TOKEN_KEY}",
        )
    lowest = min(role.vms, key=lambda vm: vm.vm_id)
    if lowest.vm_id != own.vm_id and own.text(FOUNDER_KEY):
        return Retract(lowest.vm_id)
    if lowest.vm_id != own.vm_id:
        return Hold(
            f"VM {lowest.vm_id}, the master with the lowest id, is to found the cluster:"
            f" {_describe(lowest)}"
        )
    return Found() if own.text(FOUNDER_KEY) else Announce()


def _incompleteness(role: ServiceRole, siblings: Siblings) -> str:
    """Say why the masters may not all be known; empty where they are."""
    if siblings.error:
        return siblings.error
    if len(role.vm_ids) < role.cardinality:
        return f"OneGate shows {len(role.vm_ids)} of {role.cardinality} masters"
    unread = sorted(set(role.vm_ids) - {vm.vm_id for vm in role.vms})
    if unread:
        return f"OneGate does not show what VM {unread[0]} publishes"
    leaving = [vm.vm_id for vm in role.vms if vm.lcm_state == _SHUTDOWN]
    if leaving or len(role.vm_ids) > role.cardinality:
        named = f"VM {leaving[0]} is" if leaving else "masters are"
        return f"{named} being removed; the founder is chosen among those that stay"
    return ""


@dataclass(frozen=True)
class Agents:
    """What a worker or storage node may join with."""

    token: Secret
    master: str
    vm_id: int


def decide_agent(siblings: Siblings) -> Agents | Hold:
    """Say what a worker or storage node is to do: join as soon as a token is there.

    The separate token for agents is taken; that of servers only where an older master published
    just that one.
    """
    role = _masters(siblings)
    if role is None:
        return Hold(siblings.error or "OneGate shows no role master in this service")
    serving = _serving(role.vms)
    for key in (AGENT_TOKEN_KEY, TOKEN_KEY):
        found = _find_token(serving, key)
        if found is not None:
            return Agents(found.token, found.master, found.vm_id)
    if siblings.error:
        return Hold(siblings.error)
    founders = [vm for vm in role.vms if vm.text(FOUNDER_KEY)] or list(role.vms)
    if not founders:
        return Hold("no master runs yet")
    first = min(founders, key=lambda vm: vm.vm_id)
    return Hold(f"no master has published a join token yet; VM {first.vm_id}: {_describe(first)}")


def _is_running(vm: Vm) -> bool:
    return (vm.state, vm.lcm_state) == (_ACTIVE, _RUNNING)


def _describe(vm: Vm) -> str:
    """Say how far a VM is, in its own words where it has some, made fit to be shown."""
    if vm.lcm_state == _SHUTDOWN:
        return "it is being removed"
    if (vm.state, vm.lcm_state) in _COMING:
        return "it is about to boot"
    if not _is_running(vm):
        return (
            f"it does not run (STATE {vm.state}, LCM_STATE {vm.lcm_state}); resume it, or"
            " terminate it"
        )
    if vm.text(STATE_KEY) == "FAILED":
        return f"it failed: {readable(vm.text(ERROR_KEY) or '') or 'see its journal'}"
    said = vm.text(STEP_KEY) or (vm.text(STATE_KEY) or "it has said nothing yet").lower()
    return readable(said)


def is_address(text: str) -> bool:
    """Say whether what a sibling published as its address is one."""
    try:
        IPv4Address(text)
    except ValueError:
        return False
    return True
