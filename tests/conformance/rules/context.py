"""What the agent refuses in any context: addresses, numbers, switches and texts it can not read."""

from __future__ import annotations

import re
from collections.abc import Callable

from tests.conformance.reference import Context, env, nics
from tests.conformance.rules.base import (
    is_ipv4,
    is_ipv4_with_prefix,
    is_netmask,
    is_port,
    is_word,
    our_floating,
)

Check = Callable[[str], bool]

_KEEPALIVED = "ONEAPP_VNF_KEEPALIVED_"
_HOST_LABEL = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"


def has_bad_address(context: Context) -> bool:
    """An address, mask, network or gateway that is none."""
    checks: dict[str, Check] = {
        r"ETH[0-9]+_IP": is_ipv4_with_prefix,
        r"ETH[0-9]+_MASK": is_netmask,
        r"ETH[0-9]+_(NETWORK|GATEWAY)|FALLBACK_GW": _is_bare_address,
        r"ETH[0-9]+_MAC": _is_mac,
    }
    return any(
        not is_sound(text)
        for pattern, is_sound in checks.items()
        for key, text in context.items()
        if text and re.fullmatch(pattern, key)
    ) or not all(map(is_ipv4_with_prefix, our_floating(context).values()))


def _is_bare_address(text: str) -> bool:
    return is_ipv4(text.strip())


def _is_mac(text: str) -> bool:
    return bool(re.fullmatch(r"([0-9A-Fa-f]{2}:){5}[0-9A-Fa-f]{2}", text))


def has_bad_number(context: Context) -> bool:
    """A number that is none, or outside of what is accepted."""
    whole = {"VMID": "VM_ID", "SERVICE_ID": "", "VROUTER_ID": ""}
    ids = (env(context, name) or env(context, older) for name, older in whole.items())
    return (
        any(text is not None and not _is_whole(text, 0, 10**18) for text in ids)
        or not all(_is_whole(text, 1, 255) for text in vrids(context).values())
        or not all(_is_whole(text, 1, 255) for text in _own_and_common(context, "PRIORITY"))
        or not all(_is_seconds(text, 0.01, 255) for text in _own_and_common(context, "INTERVAL"))
        or not _is_seconds(env(context, "ONEAPP_VNF_HAPROXY_REFRESH_RATE") or "30", 1, 3600)
    )


def vrids(context: Context) -> dict[str, str]:
    """Return NIC (empty for all of them) to the text of the router id that is given."""
    common = env(context, f"{_KEEPALIVED}VRID") or env(context, "VROUTER_KEEPALIVED_ID")
    own = _own(context, "VRID")
    return own if common is None else {"": common, **own}


def _own(context: Context, ending: str) -> dict[str, str]:
    found = (
        (re.fullmatch(rf"{_KEEPALIVED}ETH([0-9]+)_{ending}", key), text)
        for key, text in context.items()
    )
    return {f"eth{match[1]}": text for match, text in found if match and text}


def _own_and_common(context: Context, ending: str) -> list[str]:
    common = env(context, f"{_KEEPALIVED}{ending}")
    return [*([common] if common else []), *_own(context, ending).values()]


def _is_whole(text: str, smallest: int, largest: int) -> bool:
    word = text.strip()
    return bool(re.fullmatch(r"[+-]?[0-9]{1,18}", word)) and smallest <= int(word) <= largest


def _is_seconds(text: str, smallest: float, largest: float) -> bool:
    word = text.strip()
    is_number = bool(re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,3})?", word))
    return is_number and smallest <= float(word) <= largest


def has_bad_switch(context: Context) -> bool:
    """A switch that is neither on nor off."""
    patterns = (
        r"ETH[0-9]+_VROUTER_MANAGEMENT|ONEAPP_ONEGATE_TLS_VERIFY|REPORT_READY",
        r"ONEAPP_VNF_(KEEPALIVED|HAPROXY|HAPROXY_ONEGATE|NAT4|ROUTER4)_ENABLED",
        rf"{_KEEPALIVED}ETH[0-9]+_SKIP",
    )
    return any(
        not is_word(text)
        for key, text in context.items()
        if text and re.fullmatch("|".join(patterns), key)
    ) or any(
        not is_word(text)
        for key, text in context.items()
        if text
        and (match := re.fullmatch(r"ONEAPP_VROUTER_ETH([0-9]+)_MANAGEMENT", key))
        and not env(context, f"ETH{match[1]}_VROUTER_MANAGEMENT")
    )


def has_bad_password(context: Context) -> bool:
    """A password with a quote, a backslash or a control character."""
    common = env(context, f"{_KEEPALIVED}PASSWORD") or env(context, "VROUTER_KEEPALIVED_PASSWORD")
    texts = [*([common] if common else []), *_own(context, "PASSWORD").values()]
    return any(re.search(r'["\\\x00-\x1f\x7f]', text) for text in texts)


def has_odd_balancer_text(context: Context) -> bool:
    """A balancer's port, or a server's host or port, that is none."""
    checks = {
        r"ONEAPP_VNF_HAPROXY_LB[0-9]+_(SERVER[0-9]+_)?PORT": lambda text: is_port(text.strip()),
        r"ONEAPP_VNF_HAPROXY_LB[0-9]+_SERVER[0-9]+_HOST": _is_host,
    }
    return any(
        not is_sound(text)
        for pattern, is_sound in checks.items()
        for key, text in context.items()
        if text and re.fullmatch(pattern, key)
    )


def _is_host(text: str) -> bool:
    host = text.strip()
    if re.fullmatch(r"[0-9.]+", host):
        return is_ipv4(host)
    return len(host) <= 253 and bool(re.fullmatch(rf"{_HOST_LABEL}(\.{_HOST_LABEL})*\.?", host))


def has_floating_address_without_nic(context: Context) -> bool:
    """A floating address of a NIC that this VM does not have."""
    return any(nic not in nics(context) for nic, _ in our_floating(context))
