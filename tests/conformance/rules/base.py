"""What a rule is, and what the agent accepts, in small grammars apart from its own."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import wraps
from typing import TypeVar

from tests.conformance.reference import Context, env, is_on, nics
from tests.conformance.vectors import Inputs

Predicate = Callable[[Inputs], bool]
_T = TypeVar("_T")

_OUR_ON = frozenset({"yes", "true", "on", "1"})
_OUR_OFF = frozenset({"no", "false", "off", "0"})
_OCTET = r"(?:0|[1-9][0-9]?|1[0-9]{2}|2[0-4][0-9]|25[0-5])"
_IPV4 = re.compile(rf"{_OCTET}(?:\.{_OCTET}){{3}}\Z")
_PLACEHOLDER = re.compile(
    r"<(?:ETH[0-9]+_(?:IP|VIP|EP)[0-9]+|ONEAPP_VROUTER_ETH[0-9]+_VIP[0-9]+)>\Z"
)


@dataclass(frozen=True)
class Rule:
    """A declared deviation from the reference.

    Attributes:
        name: Unique within its area.
        reference: What the reference does.
        ours: What the agent does instead.
        reason: Why.
        predicate: Whether it concerns given inputs; it sees nothing else of a vector.
        example: Inputs it concerns, where no vector of the data does.
    """

    area: str
    name: str
    reference: str
    ours: str
    reason: str
    predicate: Predicate
    example: Inputs | None = None


def is_ipv4(text: str) -> bool:
    """Say whether the agent takes a text for an IPv4 address."""
    return bool(_IPV4.match(text))


def is_ipv4_with_prefix(text: str) -> bool:
    """Say whether the agent takes a text for an address that may have a prefix length."""
    address, _, prefix = text.strip().partition("/")
    fits = not prefix or (bool(re.fullmatch(r"[0-9]{1,2}", prefix)) and int(prefix) <= 32)
    return is_ipv4(address) and fits


def is_placeholder(text: str) -> bool:
    """Say whether the agent takes a text for a placeholder."""
    return bool(_PLACEHOLDER.match(text))


def is_netmask(text: str) -> bool:
    """Say whether the agent takes a text for a netmask."""
    mask = text.strip()
    if re.fullmatch(r"[0-9]{1,2}", mask):
        return int(mask) <= 32
    bits = "".join(f"{int(octet):08b}" for octet in mask.split(".")) if is_ipv4(mask) else "01"
    return "01" not in bits


def is_port(text: str) -> bool:
    """Say whether the agent takes a text for a port."""
    return bool(re.fullmatch(r"[0-9]{1,5}", text)) and 1 <= int(text) <= 65535


def is_word(text: str) -> bool:
    """Say whether the agent takes a text for a switch."""
    return text.strip().lower() in _OUR_ON | _OUR_OFF


def is_on_for_us(text: str | None) -> bool:
    """Read a switch as the agent does."""
    return (text or "").strip().lower() in _OUR_ON


def reads_differ(text: str | None) -> bool:
    """Say whether agent and reference read a switch differently."""
    return is_on_for_us(text) != is_on(text)


def our_management(context: Context) -> set[str]:
    """Return the NICs that the agent takes for management NICs; only those it has can be that."""
    found: dict[str, bool] = {}
    for pattern in (r"ETH([0-9]+)_VROUTER_MANAGEMENT", r"ONEAPP_VROUTER_ETH([0-9]+)_MANAGEMENT"):
        for key, text in context.items():
            match = re.fullmatch(pattern, key)
            if match and text:
                found.setdefault(f"eth{match[1]}", is_on_for_us(text))
    return {nic for nic in nics(context) if found.get(nic)}


def once_per_context(read: Callable[[Context], _T]) -> Callable[[Context], _T]:
    """Read a context once; many rules ask of the same one in turn, and none of them changes it."""
    last: list[tuple[Context, _T]] = []

    @wraps(read)
    def remembered(context: Context) -> _T:
        if not last or last[0][0] is not context:
            last[:] = [(context, read(context))]
        return last[0][1]

    return remembered


@once_per_context
def our_floating(context: Context) -> dict[tuple[str, str], str]:
    """Return NIC and index to the text of each floating address, as the agent takes it."""
    found: dict[tuple[str, str], str] = {}
    for pattern in (r"ONEAPP_VROUTER_ETH([0-9]+)_VIP([0-9]+)", r"ETH([0-9]+)_VROUTER_IP()"):
        for key, text in context.items():
            match = re.fullmatch(pattern, key)
            if match and text:
                found.setdefault((f"eth{match[1]}", match[2] or "0"), text)
    older = older_address(context)
    if older:
        found.setdefault(("eth0", "0"), older)
    return found


def told_service(inputs: Inputs) -> str | None:
    """Return the service's id where OneGate tells one that the agent takes."""
    document = inputs.onegate.get("service")
    service = document.get("SERVICE") if isinstance(document, Mapping) else None
    number = whole(service.get("id")) if isinstance(service, Mapping) else None
    return None if number is None or number < 0 else str(number)


def whole(value: object) -> int | None:
    """Read a number of a document as the agent does."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    is_number = isinstance(value, str) and re.fullmatch(r"-?[0-9]{1,18}", value)
    return int(str(value)) if is_number else None


def older_address(context: Context) -> str | None:
    """Return the control plane's address under the name it had in the 1.23 generation."""
    has_servers = any(re.match(r"ONEAPP_VNF_LB0_SERVER[0-9]+_HOST\Z", key) for key in context)
    if has_servers or is_on_for_us(context.get("ONEAPP_VNF_LB_ENABLED")):
        return None
    return (env(context, "ONEAPP_VNF_LB0_IP") or "").split(":")[0] or None
