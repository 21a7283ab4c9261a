"""The rules of the areas that read a gateway's context.

Three kinds, in every area: what the agent refuses and the reference takes, what the reference stumbles
over and the agent reads, and what both read differently. A rule of one kind never concerns a vector of
another, for where both end without a result they agree.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from tests.conformance.areas import list_text
from tests.conformance.reference import (
    Context,
    ReferenceFails,
    env,
    floating_addresses,
    management,
    own_addresses,
    own_texts,
    read_list,
)
from tests.conformance.rules import balancers, forwards, lists, vrrp
from tests.conformance.rules import context as texts
from tests.conformance.rules.base import (
    Predicate,
    Rule,
    is_on_for_us,
    older_address,
    our_floating,
    our_management,
    reads_differ,
)
from tests.conformance.vectors import Inputs

_ROUTER_LIST = "ONEAPP_VNF_ROUTER4_INTERFACES"
_NAT_SWITCH, _ROUTER_SWITCH = "ONEAPP_VNF_NAT4_ENABLED", "ONEAPP_VNF_ROUTER4_ENABLED"
_LISTS = (vrrp.INTERFACES, balancers.INTERFACES, forwards.OUT, _ROUTER_LIST)
_CHECKED = ("keepalived", "haproxy", "nat4", "router4")
_AREAS = ("interfaces", "addresses", *_CHECKED)

_NO_GUESS = (
    "A wrong setting is named before anything is changed (design: parameters are checked all at once);"
    " the reference guesses, drops it without a message, or writes it on into a daemon's file."
)


def _no_result(inputs: Inputs, decide: Callable[[], object]) -> bool:
    try:
        decide()
    except ReferenceFails:
        return True
    return False


def reference_fails(area: str, inputs: Inputs) -> bool:
    """Say whether the reference has no result for given inputs."""
    context = inputs.context
    decide: dict[str, Callable[[], object]] = {
        "interfaces": lambda: read_list(context, list_text(inputs)),
        "addresses": lambda: (own_addresses(context), floating_addresses(context)),
        "keepalived": lambda: (
            read_list(context, env(context, vrrp.INTERFACES) or ""),
            floating_addresses(context),
        ),
        "haproxy": lambda: balancers.of_reference(context),
        "nat4": lambda: forwards.run(inputs),
        "router4": lambda: (
            inputs.call.get("action") == "stop"
            or read_list(context, env(context, _ROUTER_LIST) or "")
        ),
    }
    return _no_result(inputs, decide[area])


def _list_problems(context: Context) -> set[str]:
    return {problem for key in _LISTS for problem in lists.problems(context, env(context, key))}


def _own_list_problems(area: str, inputs: Inputs) -> set[str]:
    if area == "interfaces":
        return lists.problems(inputs.context, list_text(inputs)) - {"missing"}
    if area == "addresses":
        return set()
    return _list_problems(inputs.context)


def _with_problem(area: str, *kinds: str) -> Predicate:
    return lambda inputs: not _own_list_problems(area, inputs).isdisjoint(kinds)


def _balancer_problems(area: str, context: Context) -> set[str]:
    """Return why the agent refuses balancers; what does not fit together counts where HAProxy is on."""
    found = {reading.problem for reading in balancers.of_agent(context).values() if reading.problem}
    enabled = context.get("ONEAPP_VNF_HAPROXY_ENABLED")
    checked = area == "haproxy" or is_on_for_us(
        enabled or ("yes" if vrrp.is_legacy(context) else "")
    )
    found = found if checked else found & {"form"}
    if checked and balancers.has_half_server(context):
        found.add("half")
    if checked and not found and not texts.has_odd_balancer_text(context):
        found |= {"shared"} if balancers.has_shared_endpoint(context) else set()
    return found


def _has_bad_forward(inputs: Inputs) -> bool:
    return None in forwards.ours(inputs.context)


def _has_repeated_forward(inputs: Inputs) -> bool:
    taken = [(one.destination, one.port) for one in forwards.ours(inputs.context) if one]
    return len(set(taken)) < len(taken)


def _refusals(area: str) -> dict[str, tuple[Predicate, str, str]]:
    """Return what the agent refuses: rule to predicate, what the reference does, what we do."""
    found: dict[str, tuple[Predicate, str, str]] = {
        "malformed-address": (
            lambda inputs: texts.has_bad_address(inputs.context),
            "takes an address, mask, network or gateway that is none: a prefix is not checked, a network is"
            " only counted for zeros, texts are written on",
            "refuse it: four decimal octets, a prefix length from 0 to 32, a mask with its ones in front",
        ),
        "malformed-number": (
            lambda inputs: texts.has_bad_number(inputs.context),
            "writes numbers on unchecked, or reads what is none as 0; keepalived then refuses its file",
            "refuse what is no number or outside of the daemon's range",
        ),
        "unclear-switch": (
            lambda inputs: texts.has_bad_switch(inputs.context),
            "reads every word but YES and 1 as off",
            "refuse a word that is neither on (yes, true, on, 1) nor off (no, false, off, 0)",
        ),
        "list-unknown-item": (
            _with_problem(area, "unknown", "form"),
            "passes over items that name neither an interface nor an address; a list of nothing else selects"
            " nothing",
            "refuse the list and name the item",
        ),
        "list-port": (
            _with_problem(area, "port"),
            "takes any text behind @ for a port",
            "refuse what is no port from 1 to 65535",
        ),
    }
    if area in _CHECKED:
        found["floating-address-without-nic"] = (
            lambda inputs: texts.has_floating_address_without_nic(inputs.context),
            "keeps a floating address of a NIC that the VM does not have; nothing ever holds it",
            "refuse it: the key names a NIC that is not there",
        )
        found["list-missing-nic"] = (
            _with_problem(area, "missing"),
            "takes every ethN for an interface, brings the link up or writes a kernel setting for it, and"
            " fails or goes on without it",
            "refuse a list that names a NIC the VM does not have",
        )
        found["password-not-writable"] = (
            lambda inputs: texts.has_bad_password(inputs.context),
            "writes a password with a quote, backslash or control character unquoted into the file",
            "refuse it: it can not be written so that keepalived reads the same",
        )
        found["interval-beyond-vrrp-3"] = (
            lambda inputs: vrrp.has_too_long_interval(inputs.context),
            "writes an interval over 40 s beside one with a fraction; keepalived refuses VRRP 3 with it",
            "refuse the combination",
        )
        found["malformed-forward"] = (
            _has_bad_forward,
            "drops a port forward it can not read without a message, or reads more into it than is said:"
            " C-style numbers, a prefix on the address, a fifth part",
            "refuse it and say what a forward looks like",
        )
        found["repeated-forward"] = (
            _has_repeated_forward,
            "adds a second forward of the same address and port, which nothing ever reaches",
            "refuse it and name the first",
        )
        for name, kinds, theirs, own in _BALANCER_REFUSALS:
            found[name] = (_has_balancer_problem(area, kinds), theirs, own)
        found["balancer-text"] = (
            lambda inputs: texts.has_odd_balancer_text(inputs.context),
            "writes hosts and ports on as they are; HAProxy then refuses the whole file, and no balancer is"
            " updated any more",
            "refuse a port outside of 1 to 65535 and a host that is neither an address nor a name",
        )
    return found


_BALANCER_REFUSALS = (
    (
        "balancer-address-form",
        ("form", "unknown"),
        "drops a balancer whose address or placeholder stands for nothing, without a message",
        "refuse it and list the placeholders that exist",
    ),
    (
        "balancer-foreign-address",
        ("foreign",),
        "drops a balancer on an address that the gateway does not have, without a message",
        "refuse it and list the gateway's addresses",
    ),
    (
        "balancer-incomplete",
        ("address", "port"),
        "drops a balancer without a port or with an empty address, with all its servers",
        "refuse it where no default exists",
    ),
    (
        "server-incomplete",
        ("half",),
        "passes over a server without host or port, or writes the empty one",
        "refuse it and name what is missing",
    ),
    (
        "balancers-share-endpoint",
        ("shared",),
        "writes two frontends for one address and port; the kernel gives connections to either",
        "refuse the second",
    ),
)


def _has_balancer_problem(area: str, kinds: tuple[str, ...]) -> Predicate:
    return lambda inputs: not _balancer_problems(area, inputs.context).isdisjoint(kinds)


_SHOWN: dict[str, tuple[str, ...]] = {
    "keepalived": ("password-not-writable", "interval-beyond-vrrp-3"),
    "nat4": ("malformed-forward", "repeated-forward"),
    "haproxy": (*(one[0] for one in _BALANCER_REFUSALS), "balancer-text"),
}
_SHOWN_EVERYWHERE = (
    "malformed-address",
    "malformed-number",
    "unclear-switch",
    "floating-address-without-nic",
)
_SHOWN_WITH_LIST = ("list-unknown-item", "list-port", "list-missing-nic")


def agent_refuses(area: str, inputs: Inputs) -> bool:
    """Say whether the agent has no result for given inputs."""
    return any(predicate(inputs) for predicate, _, _ in _refusals(area).values())


def _refusal_rules(area: str) -> Iterator[Rule]:
    shown = (*_SHOWN_EVERYWHERE, *_SHOWN.get(area, ()))
    shown += _SHOWN_WITH_LIST if area != "addresses" else ()
    for name, (predicate, theirs, own) in _refusals(area).items():
        if name in shown:
            yield Rule(area, name, theirs, own, _NO_GUESS, _where_it_works(area, predicate))


def _where_it_works(area: str, predicate: Predicate) -> Predicate:
    return lambda inputs: predicate(inputs) and not reference_fails(area, inputs)


def _where_both_work(area: str, predicate: Predicate) -> Predicate:
    return lambda inputs: (
        not reference_fails(area, inputs) and not agent_refuses(area, inputs) and predicate(inputs)
    )


def _stumbles(area: str) -> Rule:
    return Rule(
        area,
        "reference-stumbles",
        "ends with an uncaught error: over a mask with a leading zero, a slash with nothing behind it, blanks"
        " around an address, an older name that is superseded anyway, a balancer without an address, a server"
        " without a balancer, a forward that ends in a blank, a stop before any start",
        "read what can be read, take the default where there is one, and pass over what has no effect",
        "One doubtful text must not take every service of the gateway down; the agent either names it or"
        " can do with it.",
        lambda inputs: reference_fails(area, inputs) and not agent_refuses(area, inputs),
    )


def _difference(
    area: str, name: str, theirs: str, own: str, reason: str, predicate: Predicate
) -> Rule:
    return Rule(area, name, theirs, own, reason, _where_both_work(area, predicate))


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
    "compares a bare address with the very text of the NIC's variable, takes tabs and line ends for part of an"
    " item and the last of several slashes for the one that counts, and loses a NIC where another is named"
    " twice out of order",
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
        "take it for the first floating address of eth0, where that has none and the kernel's balancer is"
        " not meant",
        "Templates of the 1.23 generation call the control plane's address so; they must boot unchanged.",
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
        "lets the first NIC in the order of the list speak for a router id, where addresses stand in it",
        "let the NIC with the lowest number speak",
        "Both nodes of a pair must agree on the speaker, whatever their lists look like.",
    ),
    "router-id-text": (
        "groups NICs by the text of their router id: 42 and 042, or 24 given and 24 derived, make two instances"
        " with one id",
        "group them by the number",
        "Two instances of one id on one node are one too many.",
    ),
    "router-id-source": (
        "asks OneGate for the service's number where SERVICE_ID is unset; knows no 1.24 generation and no"
        " VM_ID",
        "derive the router id from the context alone, as templates of the 1.24 generation implied it",
        "A gateway must come up, and agree with its peer, while OneGate is away; the recorded 1.24 contexts must"
        " boot unchanged.",
    ),
    "skipped": (
        "lets a skipped NIC still give its floating addresses and its route to the instance of another",
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


def _changed_by(aspect: str) -> Predicate:
    """Whether deciding one aspect our way changes the outcome, alone or last of all."""

    def predicate(inputs: Inputs) -> bool:
        theirs, own = vrrp.outcome(inputs, ()), vrrp.outcome(inputs, vrrp.ASPECTS)
        others = [one for one in vrrp.ASPECTS if one != aspect]
        return theirs != own and (
            vrrp.outcome(inputs, (aspect,)) != theirs or vrrp.outcome(inputs, others) != own
        )

    return predicate


def _haproxy_rules() -> Iterator[Rule]:
    yield _difference(
        "haproxy",
        "bound-without-servers",
        "writes no frontend while a balancer has no complete server",
        "bind a declared balancer from the start",
        "design: a declared balancer is bound from the start, with or without servers, so that servers come and"
        " go without a reload.",
        _some_balancer(
            lambda _, theirs, own: theirs is None and own is not None and not own.servers
        ),
    )
    yield _difference(
        "haproxy",
        "default-address-and-port",
        "drops a balancer without a port or with an empty address, and all its servers with it",
        "give balancers 0 to 3 the ports of what OneKE puts behind them (9345, 6443, 443, 80) and the first"
        " floating address of eth0",
        "The four balancers of OneKE have one sensible address and port each.",
        _some_balancer(
            lambda option, theirs, own: (
                own is not None
                and bool(own.servers)
                and not (option.get("IP") and option.get("PORT"))
            )
        ),
    )
    yield _difference(
        "haproxy",
        "floating-address-left-out",
        "serves a floating address also on a NIC that is for administration or not in the list",
        "leave it out, as an own address there",
        "The list and the management flag say where balancers may be reached; a floating address is no way"
        " around them.",
        _some_balancer(lambda _, theirs, own: theirs is not None and own is None),
    )
    yield _difference(
        "haproxy",
        "address-by-value",
        "serves an address only if it equals the very text of the context: not with a prefix length or blanks,"
        " nor behind another form of a placeholder; and reads lists and switches its own way",
        "compare addresses by value; lists and switches as in the area `interfaces`",
        "An address stays the same address, however it is written.",
        _some_balancer(
            lambda option, theirs, own: (
                theirs is None
                and own is not None
                and bool(own.servers)
                and bool(option.get("IP") and option.get("PORT"))
            )
        ),
    )
    yield _difference(
        "haproxy",
        "texts-as-written",
        "writes ports, hosts and empty texts on as they are",
        "write ports as numbers without leading zeros and hosts without blanks; an empty text is an unset one",
        "Everywhere else in a context empty means unset.",
        _some_balancer(
            lambda _, theirs, own: theirs is not None and own is not None and _differ(theirs, own)
        ),
    )


_Served = balancers.Balancer | None


def _some_balancer(test: Callable[[dict[str, str], _Served, _Served], bool]) -> Predicate:
    """Whether a test holds for a balancer: its options, and what reference and agent serve of it."""

    def predicate(inputs: Inputs) -> bool:
        theirs = balancers.of_reference(inputs.context)
        own = {
            number: reading.balancer
            for number, reading in balancers.of_agent(inputs.context).items()
        }
        options, _ = balancers.declared(inputs.context)
        return any(
            test(options.get(number, {}), theirs.get(number), own.get(number))
            for number in {*theirs, *own}
        )

    return predicate


def _differ(theirs: balancers.Balancer, own: balancers.Balancer) -> bool:
    """Compare as text; blanks behind a port are lost when the file is read."""
    servers = {(host, port.rstrip()) for host, port in theirs.servers}
    return (theirs.address, theirs.port.rstrip(), servers) != (own.address, own.port, own.servers)


def _nat4_rules() -> Iterator[Rule]:
    yield _difference(
        "nat4",
        "stale-rules",
        "empties a chain only when it puts something into it: what was removed stays in force until a stop",
        "replace the whole table in one transaction",
        "design: NAT is one atomic table of our own, so a removed parameter leaves no stale rule.",
        _leaves_stale,
    )
    yield _difference(
        "nat4",
        "forward-reading",
        "reads a leading 0 as octal or drops the forward, knows no placeholder for the new address and no long"
        " form of one, and lets the order of the context decide between forwards of one port",
        "read ports as decimal numbers, resolve placeholders in both addresses, and go by the forwards' numbers",
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
    yield from _selection_rules("router4", _ROUTER_LIST, default="")
    yield _difference(
        "router4",
        "switch-words",
        *_SWITCH_TEXTS,
        lambda inputs: (
            reads_differ(env(inputs.context, _ROUTER_SWITCH))
            or (
                inputs.call.get("action") != "stop"
                and _selects_differently(
                    env(inputs.context, _ROUTER_LIST) or "", inputs.context, by_list=False
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
        "haproxy": _haproxy_rules,
        "nat4": _nat4_rules,
        "router4": _router4_rules,
    }
    found: list[Rule] = []
    for area in _AREAS:
        found += [*_refusal_rules(area), *own[area](), _stumbles(area)]
    return tuple(found)
