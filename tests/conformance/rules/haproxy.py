"""The rules of the area `haproxy`: static balancers, and servers registered in OneGate."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from tests.conformance.rules import balancers, registrations
from tests.conformance.rules.balancers import Balancer
from tests.conformance.rules.base import Predicate, Rule
from tests.conformance.rules.refusals import where_both_work
from tests.conformance.vectors import Inputs

_AREA = "haproxy"


@dataclass(frozen=True)
class _Views:
    """One balancer in the reference's view and in ours; None where it is not served.

    Attributes:
        options: What is declared of it.
        bound: The reference's with static servers, which are none perhaps: served once it has some.
        theirs: The reference's with all servers.
        static: Ours with static servers.
        own: Ours with all servers.
    """

    options: Mapping[str, str]
    bound: Balancer | None
    theirs: Balancer | None
    static: Balancer | None
    own: Balancer | None

    @property
    def is_fully_declared(self) -> bool:
        """Whether address and port are given."""
        return bool(self.options.get("IP") and self.options.get("PORT"))


_STATIC: Mapping[str, tuple[str, str, str, Callable[[_Views], bool]]] = {
    "bound-without-servers": (
        "writes no frontend while a balancer has no complete server",
        "bind a declared balancer from the start",
        "design: a declared balancer is bound from the start, with or without servers, so that"
        " servers come and go without a reload.",
        lambda one: one.theirs is None and one.own is not None and not one.own.servers,
    ),
    "default-address-and-port": (
        "drops a balancer without a port or with an empty address, and all its servers with it",
        "give balancers 0 to 3 the ports of what OneKE puts behind them (9345, 6443, 443, 80) and"
        " the first floating address of eth0",
        "The four balancers of OneKE have one sensible address and port each.",
        lambda one: one.own is not None and bool(one.own.servers) and not one.is_fully_declared,
    ),
    "floating-address-left-out": (
        "serves a floating address also on a NIC that is for administration or not in the list",
        "leave it out, as an own address there",
        "The list and the management flag say where balancers may be reached; a floating address"
        " is no way around them.",
        lambda one: one.theirs is not None and one.own is None,
    ),
    "address-by-value": (
        "serves an address only if it equals the very text of the context: not with a prefix"
        " length or blanks, nor behind another form of a placeholder; and reads lists and"
        " switches its own way",
        "compare addresses by value; lists and switches as in the area `interfaces`",
        "An address stays the same address, however it is written.",
        lambda one: (
            one.bound is None
            and one.own is not None
            and bool(one.own.servers)
            and one.is_fully_declared
        ),
    ),
    "texts-as-written": (
        "writes ports, hosts and empty texts on as they are",
        "write ports as numbers without leading zeros and hosts without blanks; an empty text is"
        " an unset one",
        "Everywhere else in a context empty means unset.",
        lambda one: (
            one.theirs is not None
            and one.bound is not None
            and one.static is not None
            and registrations.texts({0: one.bound}) != registrations.texts({0: one.static})
        ),
    ),
}
_REGISTERED: Mapping[str, tuple[str, str, str, str]] = {
    "switch": (
        "discovery-switch",
        "follows OneGate only where the switch is YES or 1, and knows no 1.24 generation",
        "read the switch as every other, and follow OneGate for contexts of the 1.24 generation,"
        " which imply it",
        "A switch that a person set to on is on; the recorded 1.24 contexts must boot unchanged.",
    ),
    "source": (
        "discovery-source",
        "asks for the router's networks wherever VROUTER_ID is set and for the service elsewhere,"
        " but reads the answer as the service's wherever SERVICE_ID is set (and"
        " ONEAPP_VNF_LB_ONEGATE_API is not vrouter): where the two differ, as for a router inside"
        " a service, registrations are never seen; it knows no older name of that parameter",
        "ask one source and read that: as ONEAPP_VNF_LB_ONEGATE_API says, else the service where"
        " there is one, its id from OneGate if need be, else the router's networks",
        "A balancer without its servers is of no use, whatever the gateway is part of.",
    ),
    "answer": (
        "half-an-answer",
        "takes what it could read of the router's networks for all there is, and VMs only by the"
        " id in vm_info",
        "take networks of which one can not be read for no answer: what was known before stays,"
        " which is nothing at first; VMs by deploy_id too",
        "A request that fails must not take servers away.",
    ),
    "leaving": (
        "leaving-vm",
        "keeps the server of a VM that is being shut down until OneGate does not know the VM",
        "take no registration of a VM with LCM_STATE 12",
        "Its connections can end in peace, and no new ones get lost.",
    ),
    "id": (
        "registration-id",
        "compares a registration's ID with the very text of SERVICE_ID or VROUTER_ID",
        "compare with the number",
        "7 and 07 are one service.",
    ),
    "meant": (
        "registration-address",
        "adds a registration to the balancer whose address and port are the same texts, once"
        " placeholders are resolved: not with blanks around, an empty port, a default of ours, the"
        " long form of a placeholder or one with a prefix length",
        "compare addresses and ports by value, with the balancer that is served",
        "An address stays the same address, however it is written.",
    ),
    "server": (
        "registration-server",
        "writes host and port of a registration on as they are: any VM of the service can add"
        " directives, make HAProxy refuse its whole file, or let it connect to itself",
        "take a server only with an IPv4 address (not 0.0.0.0, loopback or multicast, nor the"
        " balancer itself) and a port from 1 to 65535; what is none costs that server alone",
        "What siblings write is input to check.",
    ),
}


def haproxy_rules() -> Iterator[Rule]:
    """Yield the rules where both have a result."""
    for name, (theirs, own, reason, test) in _STATIC.items():
        yield _rule(name, theirs, own, reason, _some_balancer(test))
    for aspect, (name, theirs, own, reason) in _REGISTERED.items():
        yield _rule(name, theirs, own, reason, _changed_by(aspect))


def _rule(name: str, theirs: str, own: str, reason: str, predicate: Predicate) -> Rule:
    return Rule(_AREA, name, theirs, own, reason, where_both_work(_AREA, predicate))


def _some_balancer(test: Callable[[_Views], bool]) -> Predicate:
    """Whether a test holds for any balancer."""

    def predicate(inputs: Inputs) -> bool:
        bound = balancers.of_reference(inputs.context)
        theirs, own = registrations.of_reference(inputs), registrations.of_agent(inputs)
        static = balancers.of_agent(inputs.context)
        options, _ = balancers.declared(inputs.context)
        return any(
            test(
                _Views(
                    options.get(number, {}),
                    bound.get(number),
                    theirs.get(number),
                    static[number].balancer if number in static else None,
                    own.get(number),
                )
            )
            for number in {*theirs, *own}
        )

    return predicate


def _changed_by(aspect: str) -> Predicate:
    return lambda inputs: registrations.is_changed_by(inputs, aspect)
