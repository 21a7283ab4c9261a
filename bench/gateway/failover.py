"""How long new connections fail when the gateway that holds the addresses is lost."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench.common.table import Row, Section
from bench.gateway.probe import Probe, Try, probing
from bench.gateway.service import versions_of, wait_well
from tests.lab.basics import LabError, wait_until
from tests.lab.context import PRIVATE_VIP, PUBLIC_VIP
from tests.lab.gateway_node import holder_of, wait_ready
from tests.lab.lab import Lab
from tests.lab.network import Host
from tests.lab.node import Node

ADVERT_S = 1.0
PRIORITY = 100
# Source: RFC 3768, 6.1, Skew_Time.
SKEW_S = (256 - PRIORITY) / 256
# As in keepalived.conf.j2.
CHECK_INTERVAL_S, CHECK_FALL = 1.0, 2
_SLACK_S = 0.5

_SILENCE = (3 * ADVERT_S + SKEW_S + _SLACK_S, "3 x advert + skew + 0.5")
_FAREWELL = (SKEW_S + _SLACK_S, "skew + 0.5")
_CHECK = (CHECK_INTERVAL_S * CHECK_FALL + SKEW_S + _SLACK_S, "interval x fall + skew + 0.5")

_PORT = 32080
_SERVERS = ("172.20.0.60", "172.20.0.61")
_SETTINGS: Mapping[str, Any] = {
    "ONEAPP_VNF_HAPROXY_LB3_SERVER0_HOST": _SERVERS[0],
    "ONEAPP_VNF_HAPROXY_LB3_SERVER0_PORT": str(_PORT),
    "ONEAPP_VNF_HAPROXY_LB3_SERVER1_HOST": _SERVERS[1],
    "ONEAPP_VNF_HAPROXY_LB3_SERVER1_PORT": str(_PORT),
    "ONEAPP_VNF_KEEPALIVED_INTERVAL": f"{ADVERT_S:g}",
    "ONEAPP_VNF_KEEPALIVED_PRIORITY": str(PRIORITY),
}
_EVERY_S, _TIMEOUT_S = 0.05, 0.3
# So many successes on end count as service.
_STEADY = 20
_GROUP = ("systemctl", "kill", "haproxy", "--kill-who=all")


@dataclass(frozen=True)
class Event:
    """Something that happens to the holder, and how it is made good."""

    name: str
    bound: tuple[float, str]
    strike: Callable[[Node], object]
    restore: Callable[[Node], object]


def _partition(node: Node) -> None:
    for nic in ("eth0", "eth1"):
        node.isolate(nic)


def _heal(node: Node) -> None:
    for nic in ("eth0", "eth1"):
        node.plug(nic)


def _power_on(node: Node) -> None:
    node.start()
    node.wait_running()


EVENTS = (
    Event("power cut", _SILENCE, Node.kill, _power_on),
    Event("link down (eth0)", _SILENCE, lambda n: n.unplug("eth0"), lambda n: n.plug("eth0")),
    Event("link down (eth1)", _SILENCE, lambda n: n.unplug("eth1"), lambda n: n.plug("eth1")),
    Event("partition (nothing passes, carrier stays)", _SILENCE, _partition, _heal),
    Event(
        "keepalived stopped",
        _FAREWELL,
        lambda n: n.run(["systemctl", "stop", "keepalived"]),
        lambda n: n.run(["systemctl", "start", "keepalived"]),
    ),
    Event(
        "HAProxy stopped",
        _CHECK,
        lambda n: n.run(["systemctl", "stop", "haproxy"]),
        lambda n: n.run(["systemctl", "start", "haproxy"]),
    ),
    Event(
        "HAProxy hung (SIGSTOP)",
        _CHECK,
        lambda n: n.run([*_GROUP, "--signal=SIGSTOP"]),
        lambda n: n.run([*_GROUP, "--signal=SIGCONT"]),
    ),
)


def measure(repeat: int) -> Section:
    """Strike the holder with each event, so many times."""
    with Lab() as lab:
        nodes = [lab.vnf(f"vnf{index}", index, **_SETTINGS) for index in range(2)]
        client = lab.host("client", network="public", address="10.2.11.50/24", gateway="10.2.11.1")
        for number, address in enumerate(_SERVERS):
            server = lab.host(
                f"server{number}", network="private", address=f"{address}/24", gateway=PRIVATE_VIP
            )
            server.serve(_PORT)
        for node in nodes:
            wait_ready(lab, node)
        gaps: dict[str, list[float]] = {event.name: [] for event in EVENTS}
        returns: dict[str, list[float]] = {event.name: [] for event in EVENTS}
        for turn in range(repeat):
            for event in EVENTS:
                gap, lost = _strike(event, nodes, client)
                gaps[event.name].append(gap)
                returns[event.name].append(lost)
                print(f"  {turn + 1}: {event.name}: {gap:.2f} s; {lost:.2f} s at its return")
        rows = [Row(event.name, "s", tuple(gaps[event.name]), *event.bound) for event in EVENTS]
        rows += [Row(f"made good: {name}", "s", tuple(lost)) for name, lost in returns.items()]
        versions = versions_of(nodes[0])
    return Section(
        "Failover: gap for new connections",
        (
            f"Two gateways of priority {PRIORITY}, advertisements every {ADVERT_S:g} s, two"
            " servers behind balancer 3. A client on the public network begins a new connection"
            f" with an HTTP request to the virtual address every {_EVERY_S * 1000:.0f} ms and gives"
            f" each {_TIMEOUT_S:g} s. Something happens to the gateway that holds the addresses;"
            " the gap reaches from the last answer before the first failure to the first answer"
            f" from which on {_STEADY} requests on end are answered. Before the next event both"
            " gateways are waited for until `oneke-agent status` finds nothing wrong; the rows"
            " `made good` are the longest gap in that time.",
            f"Skew is (256 - priority) / 256 x advert = {SKEW_S:.2f} s; HAProxy is checked every"
            f" {CHECK_INTERVAL_S:g} s and given up after {CHECK_FALL} failures.",
        ),
        tuple(rows),
        versions=versions,
    )


def _strike(event: Event, nodes: Sequence[Node], client: Host) -> tuple[float, float]:
    """Return the gap of an event, and the longest while it is made good."""
    holder, _ = holder_of(nodes)
    options = {"every_s": _EVERY_S, "timeout_s": _TIMEOUT_S}
    with probing(client, PUBLIC_VIP, 80, **options) as probe:
        _wait_steady(probe, time.monotonic())
        struck = time.monotonic()
        event.strike(holder)
        _wait_steady(probe, time.monotonic())
        # The service must not break a second time when a check or a timer comes to its end.
        time.sleep(3 * ADVERT_S)
        _wait_steady(probe, time.monotonic())
        gap = find_gap([one for one in probe.tries() if one.end >= struck - 1])
    with probing(client, PUBLIC_VIP, 80, **options) as probe:
        event.restore(holder)
        wait_well(nodes)
        holder_of(nodes)
        _wait_steady(probe, time.monotonic())
        lost = find_gap(probe.tries())
    return gap, lost


def find_gap(tries: Sequence[Try]) -> float:
    """Return the longest time in which nothing was answered.

    It begins with the last answer before a failure and ends with the first of so many answers on
    end that they count as service.
    """
    longest = 0.0
    answered: float | None = None
    is_gap = False
    for number, one in enumerate(tries):
        if not one.is_ok:
            is_gap = True
        elif not is_gap:
            longest = max(longest, one.end - (one.begin if answered is None else answered))
            answered = one.end
        elif all(later.is_ok for later in tries[number : number + _STEADY]):
            longest = max(longest, one.end - (tries[0].begin if answered is None else answered))
            answered, is_gap = one.end, False
    return longest


def _wait_steady(probe: Probe, since: float) -> None:
    def steady() -> bool:
        tries = [one for one in probe.tries() if one.begin > since]
        if len(tries) < _STEADY or not all(one.is_ok for one in tries[-_STEADY:]):
            raise LabError(f"the last tries: {[one.said for one in tries[-_STEADY:]]}")
        return True

    wait_until(steady, 30, "new connections to be answered")
