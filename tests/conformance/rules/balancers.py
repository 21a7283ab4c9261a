"""Static balancers as the reference reads them, and as the agent does."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from tests.conformance.reference import (
    Context,
    ReferenceFails,
    env,
    floating_addresses,
    management,
    own_addresses,
    own_texts,
    read_list,
    split,
)
from tests.conformance.rules.base import (
    is_ipv4_with_prefix,
    is_on_for_us,
    is_placeholder,
    once_per_context,
    our_floating,
    our_management,
)
from tests.conformance.rules.forwards import our_placeholders, placeholders
from tests.conformance.rules.lists import read_ours, selected

INTERFACES = "ONEAPP_VNF_HAPROXY_INTERFACES"

_PREFIX = "ONEAPP_VNF_HAPROXY_LB"
_OPTION = re.compile(rf"{_PREFIX}([0-9]+)_(IP|PORT|PROTOCOL|METHOD|SCHEDULER)\Z")
_SERVER = re.compile(rf"{_PREFIX}([0-9]+)_SERVER([0-9]+)_(HOST|PORT|WEIGHT|ULIMIT|LLIMIT)\Z")
_DEFAULT_PORTS = {0: "9345", 1: "6443", 2: "443", 3: "80"}

Options = dict[int, dict[str, str]]
Servers = dict[tuple[int, int], dict[str, str]]


@dataclass(frozen=True)
class Balancer:
    """A balancer with its parts as texts."""

    address: str
    port: str
    servers: frozenset[tuple[str, str]]


def declared(context: Context) -> tuple[Options, Servers]:
    """Return what is set, empty texts too, for balancers and for servers."""
    options: Options = {}
    servers: Servers = {}
    for key, text in context.items():
        if match := _OPTION.match(key):
            options.setdefault(int(match[1]), {})[match[2]] = text
        elif match := _SERVER.match(key):
            servers.setdefault((int(match[1]), int(match[2])), {})[match[3]] = text
    return options, servers


def of_reference(context: Context) -> dict[int, Balancer]:
    """Return the balancers the reference serves as soon as they have servers, with static ones.

    Raises:
        ReferenceFails: It ends with an error.
    """
    own_addresses(context)
    known, (options, servers) = placeholders(context), declared(context)
    if any(number not in options for number, _ in servers):
        raise ReferenceFails("NoMethodError: a server without a balancer")
    if any("IP" not in option for option in options.values()):
        raise ReferenceFails("NoMethodError: a balancer without an address")
    allowed = _allowed(context)
    found = {}
    for number, option in options.items():
        complete = frozenset(
            (server["HOST"], server["PORT"])
            for (balancer, _), server in servers.items()
            if balancer == number and "HOST" in server and "PORT" in server
        )
        address = resolved(known, option["IP"])
        if "PORT" in option and address in allowed:
            found[number] = Balancer(address, option["PORT"], complete)
    return found


def resolved(known: Mapping[str, str], text: str) -> str:
    """Put an address for a placeholder and drop the prefix length, as the reference does."""
    name = re.fullmatch(r"<(.+)>", text)
    return next(iter(split(known.get(name[1], text) if name else text, "/")), "")


def _allowed(context: Context) -> set[str]:
    chosen = set(read_list(context, env(context, INTERFACES) or "")) - management(context)
    own = {text for nic, text in own_texts(context).items() if nic in chosen}
    floating = floating_addresses(context).values()
    return own | {address.split("/")[0] for of_nic in floating for address in of_nic.values()}


@dataclass(frozen=True)
class Reading:
    """How the agent takes a declared balancer.

    Attributes:
        problem: Why it is refused: `form`, `unknown` placeholder, `foreign` address, missing
        `address` or missing `port`; None where it is not.
        balancer: What is served, None where it is refused or left out.
    """

    problem: str | None
    balancer: Balancer | None


@once_per_context
def of_agent(context: Context) -> dict[int, Reading]:
    """Return how the agent takes each balancer of which anything is set."""
    options, servers = declared(context)
    numbers = {n for n, option in options.items() if option.get("IP") or option.get("PORT")}
    numbers |= {n for (n, _), one in servers.items() if one.get("HOST") or one.get("PORT")}
    older_port = _older_port(context)
    if older_port:
        numbers.add(1)
    return {
        number: _reading(context, number, options.get(number, {}), servers, older_port)
        for number in sorted(numbers)
    }


def _older_port(context: Context) -> str | None:
    if env(context, "ONEAPP_K8S_PORT"):
        return env(context, "ONEAPP_K8S_PORT")
    has_servers = any(re.match(r"ONEAPP_VNF_LB0_SERVER[0-9]+_HOST\Z", key) for key in context)
    if has_servers or is_on_for_us(context.get("ONEAPP_VNF_LB_ENABLED")):
        return None
    return (context.get("ONEAPP_VNF_LB0_IP") or "").partition(":")[2] or None


def _reading(
    context: Context, number: int, option: dict[str, str], servers: Servers, older_port: str | None
) -> Reading:
    port = option.get("PORT") or (older_port if number == 1 else None) or _DEFAULT_PORTS.get(number)
    text = option.get("IP", "").strip() or ("<ETH0_VIP0>" if number in _DEFAULT_PORTS else "")
    if option.get("IP") and not option["IP"].strip():
        return Reading("form", None)
    if not text or port is None:
        return Reading("address" if not text else "port", None)
    if text.startswith("<"):
        bare = re.sub(r">/[0-9]{1,2}\Z", ">", text)
        if not is_placeholder(bare):
            return Reading("form", None)
        address = our_placeholders(context).get(bare[1:-1].removeprefix("ONEAPP_VROUTER_"))
        if address is None:
            return Reading("unknown" if option.get("IP") else "address", None)
    elif is_ipv4_with_prefix(text):
        address = text.split("/")[0]
    else:
        return Reading("form", None)
    links = our_links(context, address)
    if not links:
        return Reading("foreign", None)
    spec = env(context, INTERFACES) or ""
    if not links & selected(read_ours(context, spec), our_management(context)):
        return Reading(None, None)
    complete = frozenset(
        (one["HOST"].strip(), as_number(one["PORT"]))
        for (balancer, _), one in servers.items()
        if balancer == number and one.get("HOST") and one.get("PORT")
    )
    return Reading(None, Balancer(address, as_number(port), complete))


def as_number(port: str) -> str:
    """Write a port as the agent does; what is no number stays, and is refused elsewhere."""
    return str(int(port)) if port.strip().isdecimal() else port


def our_links(context: Context, address: str) -> set[str]:
    """Return the NICs that have an address as their own, else as a floating one."""
    own = {nic for nic, text in own_texts(context).items() if text.strip().split("/")[0] == address}
    floating = our_floating(context)
    return own or {
        nic for (nic, _), text in floating.items() if text.strip().split("/")[0] == address
    }


def has_half_server(context: Context) -> bool:
    """A server with a host and no port, or a port and no host."""
    _, servers = declared(context)
    return any(bool(one.get("HOST")) != bool(one.get("PORT")) for one in servers.values())


def has_shared_endpoint(context: Context) -> bool:
    """Two balancers the agent would serve on one address and port."""
    served = [one.balancer for one in of_agent(context).values() if one.balancer]
    endpoints = [(one.address, one.port) for one in served]
    return len(set(endpoints)) < len(endpoints)
