"""The types a parameter may have: text in, typed value out, or one sentence about what is accepted.

Every function takes the text (never empty) and the entry's limits, and raises `Rejected` with the
words that complete "KEY=value: ...". What a value means in the context of others (does that
interface exist?) is not decided here.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from ipaddress import (
    AddressValueError,
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    NetmaskValueError,
    ip_address,
    ip_network,
)
from typing import Protocol

from appliance.secret import Secret

_HOST_LABEL = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_HOST_NAME = re.compile(rf"{_HOST_LABEL}(?:\.{_HOST_LABEL})*\.?\Z")
_URL = re.compile(
    rf"https?://({_HOST_LABEL}(?:\.{_HOST_LABEL})*|\[[0-9A-Fa-f:.]+\])(?P<port>:[0-9]{{1,5}})?(/[!-?A-~]*)?\Z"
)
_PROXY = re.compile(
    r"(?:(?:https?|socks5h?)://)?"
    r"(?:(?:[A-Za-z0-9._~!$&'()*+,;=:@-]|%[0-9A-Fa-f]{2})+@)?"
    rf"(?:{_HOST_LABEL}(?:\.{_HOST_LABEL})*|\[[0-9A-Fa-f:.]+\])(?::(?P<port>[0-9]{{1,5}}))?/?\Z"
)
_HOST_AND_PORT = re.compile(
    r"(?:https://)?(?:\[(?P<ipv6>[^\]]*)\]|(?P<host>[^:/\[\]]+))(?::(?P<port>[^/]*))?/?\Z"
)
_PLACEHOLDER = re.compile(
    r"<(?:ETH[0-9]+_(?:IP|VIP|EP)[0-9]+|ONEAPP_VROUTER_ETH[0-9]+_VIP[0-9]+)>\Z"
)
_INTERFACE_NAME = re.compile(r"eth[0-9]{1,9}\Z")
_SEPARATORS = re.compile(r"[\s,;]+")

TRUE_WORDS = frozenset({"yes", "true", "on", "1"})
FALSE_WORDS = frozenset({"no", "false", "off", "0"})


class Rejected(Exception):
    """A text is not of the type; its message says what is accepted."""


class Limits(Protocol):
    """What an entry may demand beyond its type; None where it demands nothing."""

    @property
    def minimum(self) -> float | None:
        """The smallest number that is accepted."""

    @property
    def maximum(self) -> float | None:
        """The largest number that is accepted."""

    @property
    def choices(self) -> tuple[str, ...]:
        """The words that are accepted; empty where there is no list."""

    @property
    def pattern(self) -> str | None:
        """A regular expression that the whole text must match."""


@dataclass(frozen=True)
class AddressWithPrefix:
    """An IPv4 address with the prefix length that was given, if one was."""

    address: IPv4Address
    prefix: int | None = None

    def __str__(self) -> str:
        """Write it as it was given."""
        return str(self.address) if self.prefix is None else f"{self.address}/{self.prefix}"


@dataclass(frozen=True)
class Placeholder:
    """A reference to an address of this VM, such as ETH0_VIP0."""

    name: str

    def __str__(self) -> str:
        """Write it as it was given."""
        return f"<{self.name}>"


@dataclass(frozen=True)
class InterfaceItem:
    """One item of an interface list.

    Attributes:
        name: The interface as written, or None where only an address was given.
        address: The address as written, or None.
        port: The port behind @, or None.
        excluded: Whether the item began with an exclamation mark.
    """

    name: str | None
    address: str | None = None
    port: int | None = None
    excluded: bool = False

    def __str__(self) -> str:
        """Write it as it was given."""
        name, address = self.name or "", self.address or ""
        slash = "/" if name and address else ""
        port = "" if self.port is None else f"@{self.port}"
        return f"{'!' if self.excluded else ''}{name}{slash}{address}{port}"


@dataclass(frozen=True)
class PortForward:
    """A destination NAT: what arrives at `port` of `destination` goes to `to`.

    Attributes:
        destination: The address it arrives at; None for any.
        port: The port it arrives at.
        to: The new address.
        to_port: The new port; None to keep the port.
    """

    destination: IPv4Address | Placeholder | None
    port: int
    to: IPv4Address | Placeholder
    to_port: int | None = None


def parse_boolean(text: str, limits: Limits) -> bool:
    """Read YES or NO, true or false, on or off, 1 or 0, in any case."""
    word = text.strip().lower()
    if word in TRUE_WORDS:
        return True
    if word in FALSE_WORDS:
        return False
    raise Rejected("expected YES or NO")


def parse_integer(text: str, limits: Limits) -> int:
    """Read a decimal number within the limits."""
    expected = f"expected an integer{_range_words(limits)}"
    if not re.fullmatch(r"[+-]?[0-9]{1,18}", text.strip()):
        raise Rejected(expected)
    number = int(text.strip())
    _refuse_outside(number, limits, expected)
    return number


def parse_seconds(text: str, limits: Limits) -> float:
    """Read a number of seconds, with or without decimals."""
    expected = f"expected a number of seconds{_range_words(limits)}"
    if not re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,3})?", text.strip()):
        raise Rejected(expected)
    number = float(text.strip())
    _refuse_outside(number, limits, expected)
    return number


def parse_port(text: str, limits: Limits) -> int:
    """Read a TCP or UDP port."""
    return port_number(text)


def port_number(text: str) -> int:
    """Read a TCP or UDP port from whoever wrote it."""
    return _port(text.strip(), "expected a port from 1 to 65535")


def _port(text: str, expected: str) -> int:
    if not re.fullmatch(r"[0-9]{1,5}", text) or not 1 <= int(text) <= 65535:
        raise Rejected(expected)
    return int(text)


def parse_ipv4(text: str, limits: Limits) -> IPv4Address:
    """Read an IPv4 address."""
    return _ipv4(text.strip(), "expected an IPv4 address")


def _ipv4(text: str, expected: str) -> IPv4Address:
    try:
        return IPv4Address(text)
    except AddressValueError:
        raise Rejected(expected) from None


def parse_ipv4_with_prefix(text: str, limits: Limits) -> AddressWithPrefix:
    """Read an IPv4 address that may carry a prefix length."""
    return _ipv4_with_prefix(text)


def _ipv4_with_prefix(text: str) -> AddressWithPrefix:
    expected = "expected an IPv4 address, with or without a prefix length from 0 to 32"
    address, _, prefix = text.strip().partition("/")
    if prefix and (not re.fullmatch(r"[0-9]{1,2}", prefix) or int(prefix) > 32):
        raise Rejected(expected)
    return AddressWithPrefix(_ipv4(address, expected), int(prefix) if prefix else None)


def parse_netmask(text: str, limits: Limits) -> int:
    """Read a netmask, dotted or as a length, and return the prefix length."""
    mask = text.strip()
    try:
        if re.fullmatch(r"[0-9]{1,2}|[0-9]+\.[0-9]+\.[0-9]+\.[0-9]+", mask):
            if "." in mask and not _is_contiguous(int(IPv4Address(mask))):
                raise Rejected("expected a netmask with its ones in front, such as 255.255.255.0")
            return IPv4Network(f"0.0.0.0/{mask}").prefixlen
    except (AddressValueError, NetmaskValueError):
        pass
    raise Rejected("expected a netmask such as 255.255.255.0, or a prefix length from 0 to 32")


def _is_contiguous(mask: int) -> bool:
    inverted = mask ^ 0xFFFFFFFF
    return inverted & (inverted + 1) == 0


def parse_ipv4_or_placeholder(text: str, limits: Limits) -> AddressWithPrefix | Placeholder:
    """Read an IPv4 address or a placeholder such as `<ETH0_VIP0>`.

    A prefix length is allowed behind either.
    """
    return ipv4_or_placeholder(text)


def ipv4_or_placeholder(text: str) -> AddressWithPrefix | Placeholder:
    """Read an IPv4 address or a placeholder from whoever wrote it."""
    bare = text.strip()
    if bare.startswith("<"):
        return _placeholder(re.sub(r">/[0-9]{1,2}\Z", ">", bare))
    try:
        return _ipv4_with_prefix(bare)
    except Rejected:
        raise Rejected(
            "expected an IPv4 address or one of <ETH<n>_IP<m>>, <ETH<n>_VIP<m>>, <ETH<n>_EP<m>>"
        ) from None


def _placeholder(text: str) -> Placeholder:
    if not _PLACEHOLDER.match(text):
        raise Rejected("expected one of <ETH<n>_IP<m>>, <ETH<n>_VIP<m>>, <ETH<n>_EP<m>>")
    return Placeholder(text[1:-1].removeprefix("ONEAPP_VROUTER_"))


def parse_host(text: str, limits: Limits) -> str:
    """Read an IPv4 address or a host name."""
    host = text.strip()
    looks_like_address = re.fullmatch(r"[0-9.]+", host)
    if looks_like_address:
        return str(_ipv4(host, "expected an IPv4 address or a host name"))
    if len(host) > 253 or not _HOST_NAME.match(host):
        raise Rejected("expected an IPv4 address or a host name")
    return host


def parse_url(text: str, limits: Limits) -> str:
    """Read an http or https address without credentials or a trailing slash."""
    url = text.strip()
    found = _URL.match(url)
    if not found or not 0 < int((found["port"] or ":1")[1:]) <= 65535:
        raise Rejected("expected an address such as http://10.0.0.1:5030")
    return url.rstrip("/")


def parse_url_list(text: str, limits: Limits) -> tuple[str, ...]:
    """Read http or https addresses between blanks, commas or semicolons."""
    words = filter(None, _SEPARATORS.split(text))
    try:
        return tuple(dict.fromkeys(parse_url(word, limits) for word in words))
    except Rejected:
        raise Rejected("expected addresses such as https://registry.example.org:5000") from None


def parse_choice(text: str, limits: Limits) -> str:
    """Read one word of the entry's list, in any case."""
    for choice in limits.choices:
        if text.strip().lower() == choice.lower():
            return choice
    raise Rejected(f"expected one of {', '.join(limits.choices)}")


def parse_text(text: str, limits: Limits) -> str:
    """Read any text that matches the entry's pattern."""
    if limits.pattern and not re.fullmatch(limits.pattern, text):
        raise Rejected(f"expected a text of the form {limits.pattern}")
    return text


def parse_secret(text: str, limits: Limits) -> Secret:
    """Read a text that must not be seen; the pattern is not shown against the value."""
    if limits.pattern and not re.fullmatch(limits.pattern, text):
        raise Rejected(f"expected a secret of the form {limits.pattern}")
    return Secret(text)


def parse_base64_text(text: str, limits: Limits) -> str:
    """Read a text that may arrive in base64 (OneFlow encodes inputs of type text64) or as it is."""
    compact = "".join(text.split())
    if len(compact) % 4 == 0 and re.fullmatch(r"[A-Za-z0-9+/]+={0,2}", compact):
        try:
            return base64.b64decode(compact, validate=True).decode("utf-8")
        except (binascii.Error, UnicodeDecodeError):
            return text
    return text


def parse_secret_text(text: str, limits: Limits) -> Secret:
    """Read a text, plain or in base64, that must not be seen."""
    return Secret(parse_base64_text(text, limits))


@dataclass(frozen=True)
class Endpoint:
    """An IPv4 address with a port; None for the port that is usual there."""

    address: IPv4Address
    port: int | None = None


@dataclass(frozen=True)
class HostAndPort:
    """A host with a port; None for the port that is usual there.

    Attributes:
        host: A name or an address; an IPv6 address without brackets.
    """

    host: str
    port: int | None = None

    def __str__(self) -> str:
        """Write it as part of a URL, an IPv6 address in brackets."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port is None else f"{host}:{self.port}"


def parse_host_and_port(text: str, limits: Limits) -> HostAndPort:
    """Read a host name or address, with :port if wanted.

    It may be written as an https URL without a path.
    """
    expected = "expected a host name or address with a port, such as ep0.eth0.vr:9345"
    found = _HOST_AND_PORT.match(text.strip())
    if not found:
        raise Rejected(expected)
    if found["ipv6"] is not None:
        host = _ipv6(found["ipv6"], expected)
    else:
        try:
            host = parse_host(found["host"], limits)
        except Rejected:
            raise Rejected(expected) from None
    port = found["port"]
    return HostAndPort(host, None if port is None else _port(port, expected))


def _ipv6(text: str, expected: str) -> str:
    try:
        address = IPv6Address(text)
    except AddressValueError:
        raise Rejected(expected) from None
    if address.scope_id is not None:
        raise Rejected(expected)
    return str(address)


def parse_host_list(text: str, limits: Limits) -> tuple[str, ...]:
    """Read host names (`*.` in front allowed) and addresses between blanks, commas, semicolons."""
    hosts = []
    for word in filter(None, _SEPARATORS.split(text)):
        expected = f"{word!r}: expected a host name or an address"
        if ":" in word:
            hosts.append(_ipv6(word, expected))
            continue
        try:
            wildcard = "*." if word.startswith("*.") else ""
            hosts.append(wildcard + parse_host(word.removeprefix("*."), limits))
        except Rejected:
            raise Rejected(expected) from None
    return tuple(dict.fromkeys(hosts))


def parse_word_list(text: str, limits: Limits) -> tuple[str, ...]:
    """Read words between blanks, commas or semicolons."""
    return tuple(dict.fromkeys(filter(None, _SEPARATORS.split(text))))


def parse_network_pair(text: str, limits: Limits) -> tuple[IPv4Network | IPv6Network, ...]:
    """Read a network, or an IPv4 and an IPv6 one separated by a comma."""
    expected = "expected a network such as 10.42.0.0/16, or an IPv4 and an IPv6 one, and a comma"
    words = [word.strip() for word in text.split(",")]
    try:
        networks = tuple(ip_network(word) for word in words)
    except ValueError:
        raise Rejected(expected) from None
    if not all("/" in word for word in words) or len({n.version for n in networks}) < len(networks):
        raise Rejected(expected)
    return networks


def parse_proxy(text: str, limits: Limits) -> Secret:
    """Read the URL of a proxy, hidden because it may hold a password.

    What Go's HTTP client does not understand it ignores without a word, so that is refused here.
    Source: golang.org/x/net/http/httpproxy, parseProxy; net/url, validUserinfo.
    """
    url = text.strip()
    found = _PROXY.match(url)
    if not found or not 0 < int(found["port"] or 1) <= 65535:
        raise Rejected(
            "expected a URL such as http://proxy.example.org:3128; in a name or password characters"
            " like blanks, quotes, slashes and at signs are written as %20, %22, %2F and %40"
        )
    return Secret(url)


def parse_endpoint_list(text: str, limits: Limits) -> tuple[Endpoint, ...]:
    """Read IPv4 addresses, each with @port if wanted, between blanks, commas or semicolons."""
    endpoints = []
    for word in filter(None, _SEPARATORS.split(text)):
        expected = f"{word!r}: expected an IPv4 address, with @port if wanted"
        address, at, port = word.partition("@")
        endpoints.append(Endpoint(_ipv4(address, expected), _port(port, expected) if at else None))
    return tuple(endpoints)


def parse_network_list(text: str, limits: Limits) -> tuple[IPv4Network, ...]:
    """Read IPv4 networks such as 172.20.0.0/24 between blanks, commas or semicolons."""
    networks = []
    for word in filter(None, _SEPARATORS.split(text)):
        try:
            networks.append(IPv4Network(word))
        except ValueError:
            raise Rejected(f"{word!r}: expected a network such as 172.20.0.0/24") from None
    return tuple(networks)


Address = IPv4Address | IPv6Address


@dataclass(frozen=True)
class AddressRange:
    """Addresses from the first to the last, both included.

    Attributes:
        network: The network it was given as; None where it was given by its ends.
    """

    first: Address
    last: Address
    network: IPv4Network | IPv6Network | None = None

    def __str__(self) -> str:
        """Write it as a network or as first-last."""
        return str(self.network) if self.network else f"{self.first}-{self.last}"

    def overlaps(self, other: AddressRange) -> bool:
        """Say whether an address lies in both."""
        if self.first.version != other.first.version:
            return False
        return int(self.first) <= int(other.last) and int(other.first) <= int(self.last)


def range_of(network: IPv4Network | IPv6Network) -> AddressRange:
    """Return all addresses of a network."""
    return AddressRange(network[0], network[-1], network)


def parse_address_ranges(text: str, limits: Limits) -> tuple[AddressRange, ...]:
    """Read addresses, first-last and networks, IPv4 or IPv6, between commas or semicolons."""
    words = filter(None, (word.strip() for word in re.split("[,;]", text)))
    ranges = tuple(parse_address_range(word) for word in words)
    if not ranges:
        raise Rejected("expected addresses such as 198.51.100.40-198.51.100.60")
    return ranges


def parse_address_range(word: str) -> AddressRange:
    """Read an address, first-last or a network."""
    expected = f"{word!r}: expected an address, first-last, or a network such as 198.51.100.32/27"
    try:
        if "/" in word:
            if not re.fullmatch(r"[^/]+/[0-9]{1,3}", word):
                raise Rejected(expected)
            return range_of(ip_network(word))
        ends = [ip_address(end.strip()) for end in word.split("-")]
    except ValueError:
        raise Rejected(expected) from None
    if len(ends) > 2 or any(isinstance(end, IPv6Address) and end.scope_id for end in ends):
        raise Rejected(expected)
    first, last = ends[0], ends[-1]
    if first.version != last.version or int(first) > int(last):
        raise Rejected(f"{expected}; the first address comes first")
    return AddressRange(first, last)


def parse_interface_list(text: str, limits: Limits) -> tuple[InterfaceItem, ...]:
    """Read ethN, ethN/address, ethN@port, address or !item, between blanks, commas, semicolons.

    A lone exclamation mark, and a slash or at sign with nothing behind it, mean nothing.
    """
    items = []
    for word in filter(None, _SEPARATORS.split(text)):
        excluded = word.startswith("!")
        body = word.removeprefix("!")
        if not body:
            continue
        head, _, port = body.partition("@")
        name, slash, address = head.partition("/")
        if not slash and not _INTERFACE_NAME.match(name):
            name, address = "", name
        elif not _INTERFACE_NAME.match(name):
            raise Rejected(f"{word!r}: expected an interface such as eth0 before the slash")
        number = (
            _port(port, f"{word!r}: expected a port from 1 to 65535 behind @") if port else None
        )
        items.append(InterfaceItem(name or None, address or None, number, excluded))
    return tuple(items)


def parse_port_forward(text: str, limits: Limits) -> PortForward:
    """Read `[address:]port:new address[:new port]`.

    Blanks around the parts and an empty new port are allowed.
    """
    expected = "expected [address:]port:new address[:new port]"
    parts = [part.strip() for part in text.split(":")]
    destination: IPv4Address | Placeholder | None = None
    if parts and not re.fullmatch(r"[+-]?[0-9]+", parts[0]):
        destination = _forward_address(parts.pop(0), expected)
    if len(parts) not in (2, 3):
        raise Rejected(expected)
    port = _port(parts[0], f"{expected} with a port from 1 to 65535")
    to = _forward_address(parts[1], expected)
    to_port = parts[2] if len(parts) == 3 else ""
    return PortForward(
        destination,
        port,
        to,
        _port(to_port, f"{expected} with a new port from 1 to 65535") if to_port else None,
    )


def _forward_address(text: str, expected: str) -> IPv4Address | Placeholder:
    return _placeholder(text) if text.startswith("<") else _ipv4(text, expected)


def _range_words(limits: Limits) -> str:
    if limits.minimum is not None and limits.maximum is not None:
        return f" from {limits.minimum:g} to {limits.maximum:g}"
    if limits.minimum is not None:
        return f" of at least {limits.minimum:g}"
    if limits.maximum is not None:
        return f" of at most {limits.maximum:g}"
    return ""


def _refuse_outside(number: float, limits: Limits, expected: str) -> None:
    too_small = limits.minimum is not None and number < limits.minimum
    too_large = limits.maximum is not None and number > limits.maximum
    if too_small or too_large:
        raise Rejected(expected)


@dataclass(frozen=True)
class ValueType:
    """A type that entries may name.

    Attributes:
        parse: Text to value.
        oneflow: The type of a OneFlow user input that fits best.
        words: What documentation calls it.
    """

    parse: Callable[[str, Limits], object]
    oneflow: str
    words: str


# Types whose texts must not be shown.
SECRET_TYPES = frozenset({"secret", "secret_text", "proxy"})

TYPES: Mapping[str, ValueType] = {
    "boolean": ValueType(parse_boolean, "boolean", "YES or NO"),
    "integer": ValueType(parse_integer, "number", "integer"),
    "seconds": ValueType(parse_seconds, "number-float", "seconds"),
    "port": ValueType(parse_port, "number", "port"),
    "ipv4": ValueType(parse_ipv4, "text", "IPv4 address"),
    "ipv4_with_prefix": ValueType(parse_ipv4_with_prefix, "text", "IPv4 address, prefix optional"),
    "ipv4_or_placeholder": ValueType(
        parse_ipv4_or_placeholder, "text", "IPv4 address or placeholder"
    ),
    "netmask": ValueType(parse_netmask, "text", "netmask"),
    "host": ValueType(parse_host, "text", "IPv4 address or host name"),
    "url": ValueType(parse_url, "text", "URL"),
    "url_list": ValueType(parse_url_list, "text", "list of URLs"),
    "choice": ValueType(parse_choice, "list", "choice"),
    "text": ValueType(parse_text, "text", "text"),
    "secret": ValueType(parse_secret, "password", "secret"),
    "secret_text": ValueType(parse_secret_text, "text64", "secret text, plain or base64"),
    "base64_text": ValueType(parse_base64_text, "text64", "text, plain or base64"),
    "interface_list": ValueType(parse_interface_list, "text", "interface list"),
    "endpoint_list": ValueType(parse_endpoint_list, "text", "list of IPv4 addresses"),
    "host_and_port": ValueType(parse_host_and_port, "text", "host name or address, with port"),
    "host_list": ValueType(parse_host_list, "text", "list of host names and addresses"),
    "word_list": ValueType(parse_word_list, "text", "list of words"),
    "network_pair": ValueType(parse_network_pair, "text", "network, or an IPv4 and an IPv6 one"),
    "proxy": ValueType(parse_proxy, "text", "URL of a proxy, may hold a password"),
    "network_list": ValueType(parse_network_list, "text", "list of networks"),
    "address_ranges": ValueType(
        parse_address_ranges, "text", "addresses, ranges (first-last) and networks"
    ),
    "port_forward": ValueType(parse_port_forward, "text", "port forward"),
}
