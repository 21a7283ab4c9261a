"""The rules of the area `node_network`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Interface

from tests.conformance.reference import Context, env, is_on, passes_as_ipv4, with_prefix
from tests.conformance.rules.base import (
    Predicate,
    Rule,
    is_ipv4,
    is_ipv4_with_prefix,
    is_on_for_us,
    is_word,
)

_AREA = "node_network"
_VIP = "ONEAPP_VROUTER_ETH1_VIP0"
_GATEWAY, _RESOLVER = "FALLBACK_GW", "FALLBACK_DNS"
_SWITCH = "ONEAPP_VNF_DNS_ENABLED"
_VIP_KEYS = re.compile(r"ONEAPP_VROUTER_ETH[0-9]+_VIP[0-9]+|ETH[0-9]+_IP")
_BARE_KEYS = re.compile(rf"{_GATEWAY}|{_RESOLVER}|ETH[0-9]+_(NETWORK|GATEWAY)")
_NAMED_BEFORE = (
    "A wrong setting is named before anything is changed (design: parameters are checked all at"
    " once); a node without a gateway waits for its cluster for ever and does not say why."
)


def _has_bad_address(context: Context) -> bool:
    given = {key: text for key, text in context.items() if text}
    return any(
        not is_ipv4_with_prefix(text) for key, text in given.items() if _VIP_KEYS.fullmatch(key)
    ) or any(not is_ipv4(text.strip()) for key, text in given.items() if _BARE_KEYS.fullmatch(key))


def _has_bad_switch(context: Context) -> bool:
    return not is_word(env(context, _SWITCH) or "YES")


def _bare(text: str | None) -> str | None:
    return text.strip().partition("/")[0] if text else None


def _is_out_of_reach(context: Context) -> bool:
    """Say whether the gateway is in no network of the VM, or the VM itself; all else is sound."""
    gateway = _bare(env(context, _VIP) or env(context, _GATEWAY))
    texts = {key[3:-3]: t for key, t in context.items() if re.fullmatch("ETH[0-9]+_IP", key)}
    if gateway is None or not texts or not all(texts.values()):
        own = [_bare(text) for text in texts.values()]
        return gateway is not None and gateway in own
    interfaces = [IPv4Interface(with_prefix(context, n, t.strip())) for n, t in texts.items()]
    address = IPv4Address(gateway)
    return not any(address in one.network for one in interfaces) or any(
        address == one.ip for one in interfaces
    )


def _refuses(context: Context) -> bool:
    return _has_bad_address(context) or _has_bad_switch(context) or _is_out_of_reach(context)


def _reading(context: Context, *, our_switch: bool, our_texts: bool) -> tuple[str | None, ...]:
    """Return gateway and name server, with switch and addresses read our way or theirs."""
    switch = env(context, _SWITCH) or "YES"
    is_used = is_on_for_us(switch) if our_switch else is_on(switch)
    found = []
    for text in (
        env(context, _VIP) or env(context, _GATEWAY),
        (env(context, _VIP) or env(context, _RESOLVER)) if is_used else None,
    ):
        theirs = text if passes_as_ipv4(text) else None
        found.append(_bare(text) if our_texts else theirs)
    return tuple(found)


def _matters(context: Context, *, switch: bool) -> bool:
    """Say whether reading the switch (or else the addresses) our way changes what is decided."""
    theirs = _reading(context, our_switch=False, our_texts=False)
    ours = _reading(context, our_switch=True, our_texts=True)
    alone = _reading(context, our_switch=switch, our_texts=not switch)
    others = _reading(context, our_switch=not switch, our_texts=switch)
    return theirs not in (ours, alone) or (theirs != ours and others != ours)


def _where_it_works(predicate: Predicate) -> Predicate:
    return lambda inputs: not _refuses(inputs.context) and predicate(inputs)


def node_network_rules() -> Iterator[Rule]:
    """Yield the rules of the area."""
    yield Rule(
        _AREA,
        "malformed-address",
        "takes an IPv6 address for gateway and name server; one that is none hides a usable"
        " fallback and leaves the node without a gateway, without a message",
        "refuse what is no IPv4 address; the floating one may carry a prefix length from 0 to 32",
        _NAMED_BEFORE,
        lambda inputs: _has_bad_address(inputs.context),
    )
    yield Rule(
        _AREA,
        "unclear-switch",
        "reads every word but YES and 1 as off",
        "refuse a word that is neither on (yes, true, on, 1) nor off (no, false, off, 0)",
        _NAMED_BEFORE,
        lambda inputs: _has_bad_switch(inputs.context),
    )
    yield Rule(
        _AREA,
        "gateway-out-of-reach",
        "sets a default route to an address that is in no network of the VM, which the kernel"
        " refuses, or to the VM itself",
        "refuse it, where the context gives every interface its address",
        _NAMED_BEFORE,
        lambda inputs: not _has_bad_address(inputs.context) and _is_out_of_reach(inputs.context),
    )
    yield Rule(
        _AREA,
        "switch-words",
        "reads yes, YES and 1 as on, and true and on as off",
        "read all of them as on",
        "The documents say YES and NO, OneFlow and people write true and false.",
        _where_it_works(lambda inputs: _matters(inputs.context, switch=True)),
    )
    yield Rule(
        _AREA,
        "address-text",
        "writes a floating address on with its prefix length, and drops one with blanks around it",
        "take the address itself",
        "A route goes through an address, and a gateway is no network.",
        _where_it_works(lambda inputs: _matters(inputs.context, switch=False)),
    )
