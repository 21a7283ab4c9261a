"""What the reference accepts, as far as the rules need it.

The reference is a Ruby program; these functions accept, refuse and misread the same texts as the
few Ruby functions it rests on, and as its two central readers (addresses, interface lists). They
tell where the reference has no result, and what it selects; they never decide anything for the
agent.

Source: OpenNebula one-apps (Apache-2.0), read, not copied; Ruby 3.1 (String#undump, Integer(),
IPAddr, String#split).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv6Address
from typing import Any

Context = Mapping[str, str]

_DOTTED = re.compile(r"[0-9]+\.[0-9]+\.[0-9]+\.[0-9]+\Z")
_ALL_ONES = 0xFFFFFFFF
_NIC_KEY = re.compile(r"ETH([0-9]+)_IP\Z")
_NIC_WORD = re.compile(r"^!?eth[0-9]+$", re.MULTILINE)
_PURE_NIC = re.compile(r"eth([0-9]+)\Z")
_URI = re.compile(
    r"[A-Za-z][A-Za-z0-9+.-]*://(?:(?:%[0-9A-Fa-f]{2}|[!$&-.0-;=A-Z_a-z~])*@)?"
    r"(?P<host>\[[0-9A-Fa-f:.]+\]|(?:%[0-9A-Fa-f]{2}|[!$&-.0-9;=A-Z_a-z~])*)(?::[0-9]*)?"
    r"(?:/(?:%[0-9A-Fa-f]{2}|[!$&-.0-;=@-Z_a-z~])*)*(?:\?[^#\s\"<>]*)?(?:#[^\s\"<>]*)?\Z"
)
_SIMPLE_ESCAPES = dict(
    zip(
        '\\"#nrtfvbae',
        ("\\", '"', "#", "\n", "\r", "\t", "\f", "\v", "\b", "\a", "\x1b"),
        strict=True,
    )
)


class ReferenceFails(Exception):
    """The reference ends with an error here."""


def env(context: Context, name: str) -> str | None:
    """Return a variable, or None where it is unset or empty."""
    return context.get(name) or None


def is_on(text: str | None) -> bool:
    """Read a switch: YES or 1, and nothing else, is on."""
    return (text or "").upper() in ("YES", "1")


def to_i(text: str) -> int:
    """Read a number as String#to_i does: what is none counts as 0."""
    found = re.match(r"\s*([+-]?[0-9]+(?:_[0-9]+)*)", text)
    return int(found[1].replace("_", "")) if found else 0


def integer(text: str) -> int | None:
    """Read a number as Integer() does (0x, 0b, 0o, a leading 0 for octal); None where it raises."""
    word = text.strip().lower()
    sign = -1 if word.startswith("-") else 1
    body = word[1:] if word[:1] in ("+", "-") else word
    for pattern, base in (
        (r"0x([0-9a-f]+(?:_[0-9a-f]+)*)", 16),
        (r"0b([01]+(?:_[01]+)*)", 2),
        (r"0o?_?([0-7]+(?:_[0-7]+)*)", 8),
        (r"(?:0d)?(0|[1-9][0-9]*(?:_[0-9]+)*)", 10),
    ):
        found = re.fullmatch(pattern, body)
        if found:
            return sign * int(found[1].replace("_", ""), base)
    return None


def uri_host(text: str) -> str | None:
    """Return the host of a URI as URI.parse does (RFC 3986); None for an empty one.

    Raises:
        ReferenceFails: It is none.
    """
    found = _URI.match(text)
    if not found:
        raise ReferenceFails("URI::InvalidURIError")
    return found["host"] or None


def split(text: str, separator: str) -> list[str]:
    """Split as String#split does: empty parts at the end are dropped."""
    parts = text.split(separator)
    while parts and not parts[-1]:
        parts.pop()
    return parts


def dig(document: Any, *keys: str) -> Any:
    """Follow keys into a document as Hash#dig does: None where one is missing."""
    for key in keys:
        if document is None:
            return None
        if not isinstance(document, Mapping):
            raise ReferenceFails(f"TypeError: {key} of what is no map")
        document = document.get(key)
    return document


def each(collection: Any) -> list[Any]:
    """Go through a document as Enumerable does: a map is gone through as pairs."""
    if isinstance(collection, Mapping):
        return [list(pair) for pair in collection.items()]
    if isinstance(collection, list):
        return collection
    raise ReferenceFails(f"NoMethodError: each of {type(collection).__name__}")


@dataclass(frozen=True)
class Address:
    """What IPAddr makes of a text; `number` is 0 for IPv6, whose value nobody needs."""

    is_ipv4: bool
    number: int
    prefix: int


def ip_address(text: str) -> Address:
    """Read an address, with or without a prefix length or mask, as IPAddr.new does."""
    head, slash, mask = text.partition("/")
    if _DOTTED.match(head):
        octets = head.split(".")
        if any((len(octet) > 1 and octet.startswith("0")) or int(octet) > 255 for octet in octets):
            raise ReferenceFails(f"{text}: IPAddr::InvalidAddressError")
        number = int.from_bytes(bytes(map(int, octets)))
        return Address(True, number, _mask_length(mask, is_ipv4=True) if slash else 32)
    try:
        IPv6Address(head.removeprefix("[").removesuffix("]"))
    except AddressValueError:
        raise ReferenceFails(f"{text}: IPAddr::InvalidAddressError") from None
    return Address(False, 0, _mask_length(mask, is_ipv4=False) if slash else 128)


def _mask_length(mask: str, *, is_ipv4: bool) -> int:
    if re.fullmatch(r"[0-9]+", mask):
        if (len(mask) > 1 and mask.startswith("0")) or int(mask) > (32 if is_ipv4 else 128):
            raise ReferenceFails(f"{mask}: IPAddr::InvalidPrefixError")
        return int(mask)
    netmask = ip_address(mask)
    if not (is_ipv4 and netmask.is_ipv4):
        raise ReferenceFails(f"{mask}: IPAddr::InvalidPrefixError")
    own = _ALL_ONES << (32 - netmask.prefix) & _ALL_ONES
    kept = netmask.number & own
    if (kept ^ own) & ((kept ^ own) + 1):
        raise ReferenceFails(f"{mask}: IPAddr::InvalidPrefixError")
    return 32 - (kept ^ _ALL_ONES).bit_length()


def passes_as_ipv4(text: str | None) -> bool:
    """Say whether the reference takes a text for an address; a prefix or IPv6 passes too."""
    try:
        return text is not None and bool(ip_address(text))
    except ReferenceFails:
        return False


def with_prefix(context: Context, nic: str, text: str) -> str:
    """Give an address its prefix length: as given, mask, network, class, 24; 0 means 32."""
    parts = split(text, "/")
    head = parts[0] if parts else ""
    return f"{head}/{_prefix_length(context, nic, text, parts) or 32}"


def _prefix_length(context: Context, nic: str, text: str, parts: Sequence[str]) -> int:
    if len(parts) > 1:
        return to_i(parts[1])
    mask = env(context, f"ETH{nic}_MASK")
    if mask is not None:
        return ip_address(f"{text}/{mask}").prefix
    network = env(context, f"ETH{nic}_NETWORK")
    if network is not None:
        octets = [to_i(octet) for octet in split(network, ".")]
        while octets and octets[-1] == 0:
            octets.pop()
        return 32 - 8 * (len(split(network, ".")) - len(octets))
    address = ip_address(text)
    for block, ones, length in ((10 << 24, 8, 8), (0xAC10 << 16, 12, 16), (0xC0A8 << 16, 16, 24)):
        if address.is_ipv4 and address.number >> (32 - ones) == block >> (32 - ones):
            return length
    return 24


def nics(context: Context) -> list[str]:
    """Return the NICs of the context, in its order."""
    return [f"eth{found[1]}" for found in map(_NIC_KEY.match, context) if found]


def own_texts(context: Context) -> dict[str, str]:
    """Return NIC to the text of its own address, where there is one."""
    return {
        nic: context[f"ETH{nic[3:]}_IP"] for nic in nics(context) if context[f"ETH{nic[3:]}_IP"]
    }


def own_addresses(context: Context) -> dict[str, str]:
    """Return NIC to own address with prefix length; raises as the reference does."""
    return {nic: with_prefix(context, nic[3:], text) for nic, text in own_texts(context).items()}


def floating_addresses(context: Context) -> dict[str, dict[str, str]]:
    """Return NIC to index to floating address with prefix length; raises as the reference does."""
    found: dict[str, dict[str, str]] = {}
    for key, text in context.items():
        older = re.fullmatch(r"ETH([0-9]+)_VROUTER_IP", key)
        newer = re.fullmatch(r"ONEAPP_VROUTER_ETH([0-9]+)_VIP([0-9]+)", key)
        if text and older:
            of_nic = found.setdefault(f"eth{older[1]}", {})
            if "0" not in of_nic:
                of_nic["0"] = with_prefix(context, older[1], text)
        elif text and newer:
            of_nic = found.setdefault(f"eth{newer[1]}", {})
            of_nic[newer[2]] = with_prefix(context, newer[1], text)
    return found


def management(context: Context) -> set[str]:
    """Return the NICs that the reference takes for management NICs."""
    marked = (
        (re.fullmatch(r"ETH([0-9]+)_VROUTER_MANAGEMENT", key), text)
        for key, text in context.items()
    )
    return {f"eth{found[1]}" for found, text in marked if found and is_on(text)}


@dataclass(frozen=True)
class Mention:
    """One mention of a NIC in an interface list."""

    nic: str
    address: str | None
    port: str | None


def read_list(context: Context, spec: str | None) -> dict[str, list[Mention]]:
    """Read an interface list: NIC to mentions, in the reference's order (None: no list)."""
    if spec is None:
        return {}
    items = [item.strip() for item in re.split(r"[ ,;]", spec)]
    excluded = [item[1:] for item in items if item.startswith("!") and len(item) > 1]
    included = [item for item in items if item and not item.startswith("!")]
    without = _resolve(context, excluded)
    return {
        nic: mentions
        for nic, mentions in _resolve(context, _sort(included or nics(context))).items()
        if nic not in without
    }


def _sort(items: list[str]) -> list[str]:
    """Sort the plain NIC names among the items; as in the reference, a repeated one spoils it."""
    unsorted = [item for item in items if _PURE_NIC.match(item)]
    by_number = sorted(unsorted, key=lambda item: int(item[3:]))
    replacement = dict(zip(unsorted, by_number, strict=True))
    return [replacement.get(item, item) for item in items]


def _resolve(context: Context, items: Sequence[str]) -> dict[str, list[Mention]]:
    found: dict[str, list[Mention]] = {}
    for item in items:
        name = address = port = None
        for part in filter(None, re.split(r"(?=^!?eth[0-9]+$|[/@])", item, flags=re.MULTILINE)):
            if _NIC_WORD.search(part):
                name = part
            elif part.startswith("/"):
                address = part[1:] or address
            elif part.startswith("@"):
                port = part[1:] or port
            else:
                address = part
        names = [name] if name else nics_of(context, address)
        for nic in names:
            found.setdefault(nic, []).append(Mention(nic, address, port))
    return found


def nics_of(context: Context, address: str | None) -> list[str]:
    """Find the NICs of an address: own ones by their very text, else floating ones."""
    if address is None:
        return []
    own = [nic for nic, text in own_texts(context).items() if text == address.lower()]
    if own:
        return own
    return [
        nic
        for nic, by_index in floating_addresses(context).items()
        for floating in by_index.values()
        if floating.split("/")[0] == address.lower()
    ]


def undump(text: str) -> str:
    """Decode the inside of a quoted text as String#undump does.

    Bytes given as hexadecimal beyond ASCII become characters of the same number; nothing
    compares them.
    """
    if not text.isascii() or "\0" in text:
        raise ReferenceFails("RuntimeError: not ASCII")
    decoded, position, kinds = [], 0, set()
    while position < len(text):
        if text[position] == '"':
            raise ReferenceFails("RuntimeError: a bare quote")
        if text[position] != "\\":
            decoded.append(text[position])
            position += 1
            continue
        letter = text[position + 1 : position + 2]
        if not letter:
            raise ReferenceFails("RuntimeError: a backslash at the end")
        if letter in "ux":
            kinds.add(letter)
            character, position = _undump_number(text, position + 1)
            decoded.append(character)
        else:
            decoded.append(_SIMPLE_ESCAPES.get(letter, f"\\{letter}"))
            position += 2
    if len(kinds) > 1 or "\0" in "".join(decoded):
        raise ReferenceFails("RuntimeError: kinds of escapes mixed, or NUL")
    return "".join(decoded)


def _undump_number(text: str, position: int) -> tuple[str, int]:
    """Decode what follows a backslash: x and two digits, u and four, or u with digits in braces."""
    for pattern in (r"x([0-9A-Fa-f]{2})", r"u([0-9A-Fa-f]{4})"):
        found = re.compile(pattern).match(text, position)
        if found and not 0xD800 <= int(found[1], 16) <= 0xDFFF:
            return chr(int(found[1], 16)), found.end()
    braced = re.compile(r"u\{\s*((?:[0-9A-Fa-f]{1,6}\s*)*)\}").match(text, position)
    numbers = [int(word, 16) for word in braced[1].split()] if braced else [-1]
    if braced is None or any(n > 0x10FFFF or 0xD800 <= n <= 0xDFFF for n in numbers):
        raise ReferenceFails("RuntimeError: a bad escape")
    return "".join(map(chr, numbers)), braced.end()


def exports(text: str) -> list[tuple[str, str]]:
    """Cut a one_env into names and raw values, newlines written as in the reference: backslash, n.

    A chunk without a closing quote is passed over.
    """
    chunks: list[str] = []
    for line in text.split("\n"):
        if re.match(r"export [^=]+=\"", line) or not chunks:
            chunks.append(line)
        else:
            chunks[-1] += f"\\n{line}"
    matches = (re.match(r"export ([^=]+)=\"(.*)\"[^\"]*\Z", chunk, re.DOTALL) for chunk in chunks)
    return [(found[1], found[2]) for found in matches if found]
