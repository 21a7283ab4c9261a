"""Port forwards: how the reference reads and applies them, and what the agent accepts."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from tests.conformance.reference import (
    Context,
    ReferenceFails,
    env,
    floating_addresses,
    integer,
    management,
    own_addresses,
    own_texts,
    passes_as_ipv4,
    read_list,
    split,
)
from tests.conformance.rules.base import is_ipv4, is_placeholder, is_port, our_floating
from tests.conformance.vectors import Inputs

OUT = "ONEAPP_VNF_NAT4_INTERFACES_OUT"
_FORWARD = re.compile(r"ONEAPP_VNF_NAT4_PORT_FWD([0-9]+)\Z")


@dataclass(frozen=True)
class Forward:
    """A forward with its parts as texts: a destination (None for any), port, target, its port."""

    destination: str | None
    port: int
    to: str
    to_port: int | None


@dataclass
class State:
    """What the reference has put into the packet filter."""

    forwards: list[Forward] = field(default_factory=list)
    masquerade: list[str] = field(default_factory=list)
    has_chains: bool = False


def texts(context: Context) -> Iterator[tuple[int, str]]:
    """Yield number and text of every forward that is set, in the context's order."""
    for key, text in context.items():
        match = _FORWARD.match(key)
        if match and text:
            yield int(match[1]), text


def placeholders(context: Context) -> dict[str, str]:
    """Map placeholder names to addresses; raises as the reference does."""
    found: dict[str, str] = {}
    own, floating = own_addresses(context), floating_addresses(context)
    for nic, address in own.items():
        found[f"{nic.upper()}_IP0"] = found[f"{nic.upper()}_EP0"] = address
    for nic, by_index in floating.items():
        for index, address in by_index.items():
            found[f"{nic.upper()}_VIP{index}"] = found[f"{nic.upper()}_EP{index}"] = address
    return {name: address.split("/")[0] for name, address in found.items()}


def read_by_reference(context: Context) -> list[tuple[str | None, str, str, str | None]]:
    """Return the forwards the reference does not drop, as texts, in the context's order."""
    known = placeholders(context)
    numbered: dict[int, tuple[str | None, str, str, str | None]] = {}
    for number, text in texts(context):
        parts: list[str | None] = [part.strip() for part in split(text, ":")]
        first = parts[0] if parts else ""
        if not first or len(parts) > 4:
            continue
        if re.fullmatch(r"<ETH[0-9]+_(?:IP|EP|VIP)[0-9]+>", first):
            parts[0] = known.get(first[1:-1], first)
        elif not passes_as_ipv4(first):
            if integer(first) is None:
                continue
            parts.insert(0, None)
        destination, port, to, to_port = [*parts, None, None, None][:4]
        sound = (
            (not destination or passes_as_ipv4(destination))
            and bool(port)
            and integer(port or "") is not None
            and bool(to)
            and passes_as_ipv4(to)
            and (not to_port or integer(to_port) is not None)
        )
        if sound:
            numbered[number] = (destination, port or "", to or "", to_port)
    return list(numbered.values())


def apply_forward(read: tuple[str | None, str, str, str | None]) -> Forward:
    """Do what iptables does with a forward's texts.

    Source: iptables 1.8.9 (nf_tables) asked in a network namespace of its own: ports from 0 to
    65535 in C's notations, a plus sign too; the new address must be a plain one.
    """
    destination, port, to, to_port = read
    number = _strtoui(port)
    if number is None or "/" in to or ":" in to:
        raise ReferenceFails("iptables refuses the forward")
    new = None if to_port is None else _strtoui(to_port)
    if to_port is not None and new is None:
        raise ReferenceFails("iptables refuses the new port")
    return Forward(destination, number, to, new)


def _strtoui(text: str) -> int | None:
    """Read a port the way xtables_strtoui does: C's bases, no minus, no underscores."""
    match = re.fullmatch(r"\+?(0[xX][0-9a-fA-F]+|0[0-7]*|[1-9][0-9]*)", text)
    if not match:
        return None
    digits = match[1].lower()
    base = 16 if digits.startswith("0x") else 8 if digits.startswith("0") else 10
    number = int(digits, base)
    return number if number <= 65535 else None


def start(state: State, context: Context) -> None:
    """Do what a start does; a chain is emptied only if something is put into it."""
    state.has_chains = True
    masquerade = [
        nic for nic in read_list(context, env(context, OUT)) if nic not in management(context)
    ]
    read = read_by_reference(context)
    if read:
        state.forwards = []
        for forward in read:
            state.forwards.append(apply_forward(forward))
    if masquerade:
        state.masquerade = masquerade


def run(inputs: Inputs) -> State:
    """Do what the reference did: earlier applications, then this one.

    Raises:
        ReferenceFails: This application has no result.
    """
    state = State()
    for earlier in inputs.previous:
        try:
            _step(state, earlier)
        except ReferenceFails:
            continue
    _step(state, inputs)
    return state


def _step(state: State, inputs: Inputs) -> None:
    if inputs.call.get("action") != "stop":
        start(state, inputs.context)
        return
    if not state.has_chains:
        raise ReferenceFails("there are no chains to empty")
    state.forwards, state.masquerade = [], []


def our_placeholders(context: Context) -> dict[str, str]:
    """Map placeholder names to addresses, as the agent does."""
    own = {nic.upper(): text.strip().split("/")[0] for nic, text in own_texts(context).items()}
    found = {f"{nic}_{kind}0": address for nic, address in own.items() for kind in ("IP", "EP")}
    for (nic, index), text in our_floating(context).items():
        address = text.strip().split("/")[0]
        found[f"{nic.upper()}_VIP{index}"] = found[f"{nic.upper()}_EP{index}"] = address
    return found


def read_by_us(context: Context, text: str) -> Forward | None:
    """Read a forward the way the agent does; None where it refuses it."""
    parts = [part.strip() for part in text.split(":")]
    destination = None
    if not re.fullmatch(r"[+-]?[0-9]+", parts[0]):
        destination = _our_address(context, parts.pop(0))
        if destination is None:
            return None
    if len(parts) not in (2, 3) or not is_port(parts[0]):
        return None
    to, to_port = _our_address(context, parts[1]), parts[2] if len(parts) == 3 else ""
    if to is None or (to_port and not is_port(to_port)):
        return None
    return Forward(destination, int(parts[0]), to, int(to_port) if to_port else None)


def _our_address(context: Context, text: str) -> str | None:
    if is_placeholder(text):
        return our_placeholders(context).get(text[1:-1].removeprefix("ONEAPP_VROUTER_"))
    return text if is_ipv4(text) else None


def ours(context: Context) -> list[Forward | None]:
    """Return the forwards by number; None for one the agent refuses."""
    return [read_by_us(context, text) for _, text in sorted(texts(context))]


def by_port(forwards: list[Forward]) -> dict[int, list[Forward]]:
    """Group forwards by port: only within one does their order matter."""
    grouped: dict[int, list[Forward]] = {}
    for forward in forwards:
        grouped.setdefault(forward.port, []).append(forward)
    return grouped
