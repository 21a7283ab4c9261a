"""The rules of the areas that read a gateway's context: what both read, and read differently."""

from __future__ import annotations

from collections.abc import Iterator

from tests.conformance.areas import list_text
from tests.conformance.reference import (
    Context,
    env,
    management,
    own_texts,
)
from tests.conformance.rules import forwards, lists, vrrp
from tests.conformance.rules.base import (
    Predicate,
    Rule,
    older_address,
    our_floating,
    our_management,
    reads_differ,
)
from tests.conformance.rules.haproxy import haproxy_rules
from tests.conformance.rules.refusals import (
    AREAS,
    ROUTER_LIST,
    refusal_rules,
    stumbling_rule,
    where_both_work,
)
from tests.conformance.vectors import Inputs

_NAT_SWITCH, _ROUTER_SWITCH = "ONEAPP_VNF_NAT4_ENABLED", "ONEAPP_VNF_ROUTER4_ENABLED"


def _difference(
    area: str, name: str, theirs: str, own: str, reason: str, predicate: Predicate
) -> Rule:
    return Rule(area, name, theirs, own, reason, where_both_work(area, predicate))


def _selection(
    context: Context, spec: str | None, *, our_list: bool, our_switches: bool
) -> set[str]:
    mentions = (
        lists.read_ours(context, spec) if our_list else lists.mentions_of_reference(context, spec)
    )
    left_out = our_management(context) if our_switches else management(context)
    return lists.selected(mentions, left_out)


def _selects_differently(spec: str | None, context: Context, *, by_list: bool) -> bool:
    """Say whether reading the list (or else the switches) our way changes what is selected.

    It does where it alone makes a difference, or where leaving it out of all of our ways does.
    """
    theirs = _selection(context, spec, our_list=False, our_switches=False)
    ours = _selection(context, spec, our_list=True, our_switches=True)
    alone = _selection(context, spec, our_list=by_list, our_switches=not by_list)
    others = _selection(context, spec, our_list=not by_list, our_switches=by_list)
    return theirs != ours and (alone != theirs or others != ours)


_SWITCH_TEXTS = (
    "reads only YES and 1 as on, and knows ETH<n>_VROUTER_MANAGEMENT by that name alone",
    "read yes, true, on and 1 in any case, with blanks around, and the newer name"
    " ONEAPP_VROUTER_ETH<n>_MANAGEMENT too",
    "A switch that a person set to on is on; the reference leaves it off without a word.",
)
_LIST_TEXTS = (
    "compares a bare address with the very text of the NIC's variable, takes tabs and line ends"
    " for part of an item and the last of several slashes for the one that counts, and loses a"
    " NIC where another is named twice out of order",
    "compare addresses by value, separate items at every blank, and keep every NIC that is named",
    "The same list must not mean something else because an address carries its prefix length.",
)


def _selection_rules(area: str, key: str, *, default: str | None) -> Iterator[Rule]:
    def spec(inputs: Inputs) -> str | None:
        return env(inputs.context, key) or default

    yield _difference(
        area,
        "list-reading",
        *_LIST_TEXTS,
        lambda inputs: (
            inputs.call.get("action") != "stop"
            and _selects_differently(spec(inputs), inputs.context, by_list=True)
        ),
    )


def _interfaces_rules() -> Iterator[Rule]:
    def reads_differently(inputs: Inputs) -> bool:
        text = list_text(inputs)
        theirs = lists.mentions_of_reference(inputs.context, text)
        return theirs != lists.read_ours(inputs.context, text)

    yield _difference("interfaces", "list-reading", *_LIST_TEXTS, reads_differently)
    yield _difference(
        "interfaces",
        "switch-words",
        *_SWITCH_TEXTS,
        lambda inputs: _selects_differently(list_text(inputs), inputs.context, by_list=False),
    )


def _addresses_rules() -> Iterator[Rule]:
    yield _difference(
        "addresses",
        "blanks-around",
        "keeps blanks around an address as part of it",
        "pass over them",
        "Blanks around a value are a slip of the pen, never part of an address.",
        lambda inputs: any(
            text.split("/")[0] != text.split("/")[0].strip()
            for text in (
                *own_texts(inputs.context).values(),
                *our_floating(inputs.context).values(),
            )
        ),
    )
    yield _difference(
        "addresses",
        "older-control-plane-address",
        "knows ONEAPP_VNF_LB0_IP only as a balancer of the kernel",
        "take it for the first floating address of eth0, where that has none and the kernel's"
        " balancer is not meant",
        "Templates of the 1.23 generation call the control plane's address so; they must boot"
        " unchanged.",
        lambda inputs: (
            older_address(inputs.context) is not None
            and ("eth0", "0") not in {k for k in _floating_by_own_names(inputs.context)}
        ),
    )


def _floating_by_own_names(context: Context) -> set[tuple[str, str]]:
    return set(
        our_floating({key: text for key, text in context.items() if key != "ONEAPP_VNF_LB0_IP"})
    )


_ASPECT_TEXTS: dict[str, tuple[str, str, str]] = {
    "list": _LIST_TEXTS,
    "switches": _SWITCH_TEXTS,
    "order": (
        "lets the first NIC in the order of the list speak for a router id, where addresses stand"
        " in it",
        "let the NIC with the lowest number speak",
        "Both nodes of a pair must agree on the speaker, whatever their lists look like.",
    ),
    "router-id-text": (
        "groups NICs by the text of their router id: 42 and 042, or 24 given and 24 derived, make"
        " two instances with one id",
        "group them by the number",
        "Two instances of one id on one node are one too many.",
    ),
    "router-id-source": (
        "derives the router id of a context of the 1.24 generation from the service's number, and"
        " knows no VM_ID",
        "take 1, as templates of the 1.24 generation implied it, and VM_ID for an older name of"
        " VMID",
        "The recorded 1.24 contexts must boot unchanged, and both nodes of a pair agree.",
    ),
    "skipped": (
        "lets a skipped NIC still give its floating addresses and its route to the instance of"
        " another",
        "leave a skipped NIC out with all it has",
        "SKIP says: leave this interface out of VRRP although it has addresses.",
    ),
}


def _keepalived_rules() -> Iterator[Rule]:
    names = {"list": "list-reading", "switches": "switch-words", "order": "speaker-order"}
    for aspect, (theirs, own, reason) in _ASPECT_TEXTS.items():
        yield _difference(
            "keepalived",
            {**names, "skipped": "skipped-nic"}.get(aspect, aspect),
            theirs,
            own,
            reason,
            _changed_by(aspect),
        )

    yield _difference(
        "keepalived",
        "no-password-in-vrrp-3",
        "writes the password beside an interval with a fraction",
        "leave it out, with a warning, where an interval needs VRRP 3",
        "VRRP 3 has no authentication (RFC 5798), and VRRP 2 no fractions of a second.",
        lambda inputs: vrrp.has_password_in_version_3(inputs.context),
    )


def _changed_by(aspect: str) -> Predicate:
    """Whether deciding one aspect our way changes the outcome, alone or last of all."""

    def predicate(inputs: Inputs) -> bool:
        theirs, own = vrrp.outcome(inputs, ()), vrrp.outcome(inputs, vrrp.ASPECTS)
        others = [one for one in vrrp.ASPECTS if one != aspect]
        return theirs != own and (
            vrrp.outcome(inputs, (aspect,)) != theirs or vrrp.outcome(inputs, others) != own
        )

    return predicate


def _nat4_rules() -> Iterator[Rule]:
    yield _difference(
        "nat4",
        "stale-rules",
        "empties a chain only when it puts something into it: what was removed stays in force"
        " until a stop",
        "replace the whole table in one transaction",
        "design: NAT is one atomic table of our own, so a removed parameter leaves no stale rule.",
        _leaves_stale,
    )
    yield _difference(
        "nat4",
        "forward-reading",
        "reads a leading 0 as octal or drops the forward, knows no placeholder for the new"
        " address and no long form of one, and lets the order of the context decide between"
        " forwards of one port",
        "read ports as decimal numbers, resolve placeholders in both addresses, and go by the"
        " forwards' numbers",
        "A forward means what it says; a context has no order.",
        _forwards_differ,
    )
    yield from _selection_rules("nat4", forwards.OUT, default=None)
    yield _difference(
        "nat4",
        "switch-words",
        *_SWITCH_TEXTS,
        lambda inputs: (
            reads_differ(inputs.context.get(_NAT_SWITCH))
            or (
                inputs.call.get("action") != "stop"
                and _selects_differently(
                    env(inputs.context, forwards.OUT), inputs.context, by_list=False
                )
            )
        ),
    )


def _leaves_stale(inputs: Inputs) -> bool:
    fresh, found = forwards.State(has_chains=True), forwards.run(inputs)
    if inputs.call.get("action") != "stop":
        forwards.start(fresh, inputs.context)
    return (fresh.forwards, fresh.masquerade) != (found.forwards, found.masquerade)


def _forwards_differ(inputs: Inputs) -> bool:
    if inputs.call.get("action") == "stop":
        return False
    fresh = forwards.State()
    forwards.start(fresh, inputs.context)
    own = [one for one in forwards.ours(inputs.context) if one is not None]
    return forwards.by_port(fresh.forwards) != forwards.by_port(own)


def _router4_rules() -> Iterator[Rule]:
    yield from _selection_rules("router4", ROUTER_LIST, default="")
    yield _difference(
        "router4",
        "switch-words",
        *_SWITCH_TEXTS,
        lambda inputs: (
            reads_differ(env(inputs.context, _ROUTER_SWITCH))
            or (
                inputs.call.get("action") != "stop"
                and _selects_differently(
                    env(inputs.context, ROUTER_LIST) or "", inputs.context, by_list=False
                )
            )
        ),
    )


def gateway_rules() -> tuple[Rule, ...]:
    """Return every rule of these areas."""
    own = {
        "interfaces": _interfaces_rules,
        "addresses": _addresses_rules,
        "keepalived": _keepalived_rules,
        "haproxy": haproxy_rules,
        "nat4": _nat4_rules,
        "router4": _router4_rules,
    }
    found: list[Rule] = []
    for area in AREAS:
        found += [*refusal_rules(area), *own[area](), stumbling_rule(area)]
    return tuple(found)
