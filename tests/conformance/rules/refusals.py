"""Where the reference or the agent has no result, and the rules that follow from it.

Of every area: what the agent refuses and the reference takes, and what the reference stumbles over
and the agent reads. Where both end without a result they agree, and no rule concerns it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from tests.conformance.areas import list_text
from tests.conformance.reference import (
    Context,
    ReferenceFails,
    env,
    floating_addresses,
    own_addresses,
    read_list,
)
from tests.conformance.rules import balancers, forwards, lists, registrations, vrrp
from tests.conformance.rules import context as texts
from tests.conformance.rules.base import (
    Predicate,
    Rule,
    is_on_for_us,
)
from tests.conformance.vectors import Inputs

ROUTER_LIST = "ONEAPP_VNF_ROUTER4_INTERFACES"
_LISTS = (vrrp.INTERFACES, balancers.INTERFACES, forwards.OUT, ROUTER_LIST)
_CHECKED = ("keepalived", "haproxy", "nat4", "router4")
AREAS = ("interfaces", "addresses", *_CHECKED)


_NO_GUESS = (
    "A wrong setting is named before anything is changed (design: parameters are checked all at"
    " once); the reference guesses, drops it without a message, or writes it on into a daemon's"
    " file."
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
        "haproxy": lambda: registrations.of_reference(inputs),
        "nat4": lambda: forwards.run(inputs),
        "router4": lambda: (
            inputs.call.get("action") == "stop"
            or read_list(context, env(context, ROUTER_LIST) or "")
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
    """Return why the agent refuses balancers; what does not fit counts where HAProxy is on."""
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
            "takes an address, mask, network or gateway that is none: a prefix is not checked, a"
            " network is only counted for zeros, texts are written on",
            "refuse it: four decimal octets, a prefix length from 0 to 32, a mask with its ones"
            " in front",
        ),
        "malformed-number": (
            lambda inputs: texts.has_bad_number(inputs.context),
            "writes numbers on unchecked, or reads what is none as 0; keepalived then refuses its"
            " file",
            "refuse what is no number or outside of the daemon's range",
        ),
        "unclear-switch": (
            lambda inputs: texts.has_bad_switch(inputs.context),
            "reads every word but YES and 1 as off",
            "refuse a word that is neither on (yes, true, on, 1) nor off (no, false, off, 0)",
        ),
        "unknown-source": (
            lambda inputs: registrations.has_unknown_source(inputs.context),
            "takes every other word than vrouter for auto",
            "refuse what is none of auto, service and vrouter",
        ),
        "list-unknown-item": (
            _with_problem(area, "unknown", "form"),
            "passes over items that name neither an interface nor an address; a list of nothing"
            " else selects nothing",
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
            "takes every ethN for an interface, brings the link up or writes a kernel setting for"
            " it, and fails or goes on without it",
            "refuse a list that names a NIC the VM does not have",
        )
        found["password-not-writable"] = (
            lambda inputs: texts.has_bad_password(inputs.context),
            "writes a password with a quote, backslash or control character unquoted into the file",
            "refuse it: it can not be written so that keepalived reads the same",
        )
        found["interval-beyond-vrrp-3"] = (
            lambda inputs: vrrp.has_too_long_interval(inputs.context),
            "writes an interval over 40 s beside one with a fraction; keepalived refuses VRRP 3"
            " with it",
            "refuse the combination",
        )
        found["malformed-forward"] = (
            _has_bad_forward,
            "drops a port forward it can not read without a message, or reads more into it than"
            " is said: C-style numbers, a prefix on the address, a fifth part",
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
            "writes hosts and ports on as they are; HAProxy then refuses the whole file, and no"
            " balancer is updated any more",
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
    "haproxy": ("unknown-source", *(one[0] for one in _BALANCER_REFUSALS), "balancer-text"),
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


def refusal_rules(area: str) -> Iterator[Rule]:
    shown = (*_SHOWN_EVERYWHERE, *_SHOWN.get(area, ()))
    shown += _SHOWN_WITH_LIST if area != "addresses" else ()
    for name, (predicate, theirs, own) in _refusals(area).items():
        if name in shown:
            yield Rule(area, name, theirs, own, _NO_GUESS, _where_it_works(area, predicate))


def _where_it_works(area: str, predicate: Predicate) -> Predicate:
    return lambda inputs: predicate(inputs) and not reference_fails(area, inputs)


def where_both_work(area: str, predicate: Predicate) -> Predicate:
    return lambda inputs: (
        not reference_fails(area, inputs) and not agent_refuses(area, inputs) and predicate(inputs)
    )


def stumbling_rule(area: str) -> Rule:
    return Rule(
        area,
        "reference-stumbles",
        "ends with an uncaught error: over a mask with a leading zero, a slash with nothing"
        " behind it, blanks around an address, an older name that is superseded anyway, a"
        " balancer without an address, a server without a balancer (any VM's registration does),"
        " a list of one that OneGate writes as a map, a forward that ends in a blank, a stop"
        " before any start",
        "read what can be read, take the default where there is one, and pass over what has no"
        " effect",
        "One doubtful text must not take every service of the gateway down; the agent either"
        " names it or can do with it.",
        lambda inputs: reference_fails(area, inputs) and not agent_refuses(area, inputs),
    )
