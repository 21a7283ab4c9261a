"""How the agent reads an interface list, as far as it can differ from the reference."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass

from tests.conformance.reference import Context, Mention, nics, own_texts, read_list
from tests.conformance.rules.base import is_ipv4, is_port, our_floating


@dataclass(frozen=True)
class Word:
    """An item of a list, cut the way the agent cuts it.

    Attributes:
        nic: The NIC it names, or None for a bare address.
        problem: `form`, `port`, `unknown` or `missing`: why the agent refuses it; None where it
        does not.
        links: The NICs the agent takes it for.
    """

    text: str
    excluded: bool
    nic: str | None
    address: str | None
    port: str | None
    problem: str | None
    links: tuple[str, ...]


def words(context: Context, spec: str) -> list[Word]:
    """Cut a list into what the agent takes for its items."""
    found = []
    for text in filter(None, re.split(r"[\s,;]+", spec)):
        body = text.removeprefix("!")
        if body:
            found.append(_word(context, text, body))
    return found


def _word(context: Context, text: str, body: str) -> Word:
    head, _, port = body.partition("@")
    name, slash, address = head.partition("/")
    excluded = text.startswith("!")
    if re.fullmatch(r"eth[0-9]+", name):
        is_known = name in nics(context) or excluded
        problem = "port" if port and not is_port(port) else None if is_known else "missing"
        return Word(text, excluded, name, address or None, port or None, problem, (name,))
    links = our_nics_of(context, head)
    problem = (
        "form" if slash else "port" if port and not is_port(port) else None if links else "unknown"
    )
    return Word(text, excluded, None, head, port or None, problem, tuple(links))


def our_nics_of(context: Context, address: str) -> list[str]:
    """Find the NICs of an address the way the agent does: by value, own ones first, each once."""
    if not is_ipv4(address):
        return []
    own = {nic: text.strip().split("/")[0] for nic, text in own_texts(context).items()}
    found = [nic for nic, text in own.items() if text == address]
    floating = our_floating(context)
    others = [nic for (nic, _), text in floating.items() if text.strip().split("/")[0] == address]
    return sorted(found or list(dict.fromkeys(others)), key=lambda nic: int(nic[3:]))


def problems(context: Context, spec: str | None) -> set[str]:
    """Return why the agent refuses a list; a NIC that is named and then excluded is not missing."""
    found = words(context, spec or "")
    left_out = {nic for word in found if word.excluded for nic in word.links}
    return {
        word.problem
        for word in found
        if word.problem and not (word.problem == "missing" and left_out.issuperset(word.links))
    }


def read_ours(context: Context, spec: str | None) -> list[Mention]:
    """Read a list the way the agent does: NICs by number, mentions of one NIC in their order."""
    if spec is None:
        return []
    found = words(context, spec)
    included = [
        Mention(nic, word.address, word.port)
        for word in found
        if not word.excluded
        for nic in word.links
    ]
    if all(word.excluded for word in found):
        included = [Mention(nic, None, None) for nic in nics(context)]
    excluded = {nic for word in found if word.excluded for nic in word.links}
    kept = [mention for mention in included if mention.nic not in excluded]
    return sorted(kept, key=lambda mention: int(mention.nic[3:]))


def selected(mentions: Collection[Mention], management: set[str]) -> set[str]:
    """Return the NICs that are left."""
    return {mention.nic for mention in mentions} - management


def mentions_of_reference(context: Context, spec: str | None) -> list[Mention]:
    """Return the reference's mentions, NICs by number."""
    found = [mention for of_nic in read_list(context, spec).values() for mention in of_nic]
    return sorted(found, key=lambda mention: (len(mention.nic), mention.nic))
