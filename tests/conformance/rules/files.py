"""The rules of the areas that read a file or OneGate's answer."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from tests.conformance.reference import ReferenceFails, exports, undump
from tests.conformance.rules.base import Rule
from tests.conformance.vectors import Inputs

_START = re.compile(r"^export ([^=\s]+)=\"", re.MULTILINE)


def their_env(text: str) -> dict[str, str] | None:
    """Return what the reference reads from a one_env; None where it ends with an error."""
    try:
        return {name: undump(raw) for name, raw in exports(text)}
    except ReferenceFails:
        return None


def our_env(text: str) -> dict[str, str] | str:
    """Return what the agent reads, or why it refuses: `nothing`, `open` or `other`."""
    starts = list(_START.finditer(text))
    if not starts and any(
        line.strip() and not line.lstrip().startswith("#") for line in text.splitlines()
    ):
        return "nothing"
    if "\0" in text:
        return "other"
    found = {}
    problems = []
    for position, start in enumerate(starts):
        end = starts[position + 1].start() if position + 1 < len(starts) else len(text)
        value, quote, _ = text[start.end() : end].rpartition('"')
        if not quote:
            problems.append("open")
        elif not re.fullmatch(r'(?:[^"\\]|\\["\\]|\\(?!["\\])(?!\Z))*', value):
            problems.append("other")
        found[start[1]] = re.sub(r'\\(["\\])', r"\1", value)
    return problems[0] if problems else found


def _one_env_rules() -> Iterator[Rule]:
    def text(inputs: Inputs) -> str:
        return str(inputs.call.get("text") or "")

    yield Rule(
        "one_env",
        "no-closing-quote",
        "loses a variable whose value has no closing quote, without a message",
        "refuse the file and name line and variable; the context disc's own file is read instead",
        "A lost variable is worse than none: it may be the one that keeps a disk from being"
        " formatted.",
        lambda inputs: their_env(text(inputs)) is not None and our_env(text(inputs)) == "open",
    )
    yield Rule(
        "one_env",
        "no-export-at-all",
        "reads a file without any export line as an empty context",
        "refuse it: it is not the file it should be",
        "An empty context would make a node of defaults.",
        lambda inputs: their_env(text(inputs)) is not None and our_env(text(inputs)) == "nothing",
    )
    yield Rule(
        "one_env",
        "otherwise-refused",
        "reads on where a value can be taken in more than one way: a name with a blank in it",
        "refuse the file",
        "A doubtful value is decided by the context disc's own file, not by a guess.",
        lambda inputs: their_env(text(inputs)) is not None and our_env(text(inputs)) == "other",
    )
    yield Rule(
        "one_env",
        "reads-on",
        "refuses the whole file for one character outside of ASCII, or for a backslash that"
        " begins no escape of Ruby's",
        "read such values as they are",
        "Values are written into the file as they are; names of people and places are not ASCII"
        " only.",
        lambda inputs: (
            their_env(text(inputs)) is None and not isinstance(our_env(text(inputs)), str)
        ),
    )
    yield Rule(
        "one_env",
        "escapes",
        "decodes Ruby's escapes (backslash n, t, x41, #, ...) although nobody encoded the value,"
        " and a backslash before a line end; takes a name with a blank for a variable",
        "decode a protected quote and a protected backslash only; every other backslash stays"
        " itself",
        "The packages write values unescaped: a Windows path or a regular expression must come"
        " out as it went in.",
        _reads_differ,
    )


def _reads_differ(inputs: Inputs) -> bool:
    text = str(inputs.call.get("text") or "")
    theirs, ours = their_env(text), our_env(text)
    return theirs is not None and not isinstance(ours, str) and theirs != ours


def their_ipv4s(inputs: Inputs) -> list[str] | None:
    """Return what the reference finds configured; None where it ends without a result."""
    try:
        return _their_ipv4s(inputs.onegate["vm"], inputs.call.get("ip_addr") or []) or None
    except (KeyError, TypeError, AttributeError):
        return None


def _their_ipv4s(document: Mapping[str, Any], links: list[Mapping[str, Any]]) -> list[str]:
    nics = document["VM"]["TEMPLATE"]["NIC"]
    found = []
    for nic in nics if links else ():
        if not isinstance(nic, dict):
            raise TypeError("a NIC that is none: a single one given as a map")
        for link in links:
            if link["address"].lower() == nic["MAC"].lower() and any(
                info.get("family") == "inet" and info.get("local") == nic.get("IP")
                for info in link["addr_info"]
            ):
                found.append(nic["IP"])
                break
    return found


def our_ipv4s(inputs: Inputs) -> list[str] | None:
    """Return what the agent finds configured; None where it has no result."""
    vm = (inputs.onegate.get("vm") or {}).get("VM")
    if not isinstance(vm, dict) or not re.fullmatch(r"-?[0-9]{1,18}", str(vm.get("ID"))):
        return None
    template = vm.get("TEMPLATE")
    nics = template.get("NIC") if isinstance(template, dict) else None
    nics = [nics] if isinstance(nics, dict) else nics if isinstance(nics, list) else []
    links = [
        link
        for link in inputs.call.get("ip_addr") or ()
        if link.get("ifname") not in (None, "", "lo")
    ]
    found = [
        nic["IP"]
        for nic in nics
        if isinstance(nic, dict) and nic.get("MAC") and nic.get("IP")
        for link in links
        if str(link.get("address") or "").lower() == str(nic["MAC"]).lower()
        for info in link.get("addr_info") or ()
        if info.get("family") == "inet" and info.get("local") == nic["IP"]
    ]
    return list(dict.fromkeys(found)) or None


def _external_rules() -> Iterator[Rule]:
    yield Rule(
        "external_ipv4s",
        "reads-on",
        "ends with an uncaught error over a single NIC given as a map, an interface without"
        " hardware address (a tunnel), or one without addresses",
        "take a map for a list of one, and pass over interfaces that can not be meant",
        "OneGate writes lists of one as a map at times, and nodes have tunnels.",
        lambda inputs: their_ipv4s(inputs) is None and our_ipv4s(inputs) is not None,
    )
    yield Rule(
        "external_ipv4s",
        "not-of-this-machine",
        "takes a VM without a number, an interface without a name, and the loopback, for good;"
        " names an address twice where two NICs have it",
        "name an address once, pass over such interfaces, and refuse an answer that is of no VM",
        "An answer of OneGate's is input to check.",
        lambda inputs: their_ipv4s(inputs) is not None and their_ipv4s(inputs) != our_ipv4s(inputs),
    )


def file_rules() -> tuple[Rule, ...]:
    """Return every rule of these areas."""
    return (*_one_env_rules(), *_external_rules())
