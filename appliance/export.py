"""Parameters for readers: text and Markdown for people, JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict

from appliance.parameters import Entry
from appliance.service import Service
from appliance.values import TYPES


def _chosen(services: Iterable[Service], role: str | None) -> Iterator[tuple[Service, Entry]]:
    for service in services:
        for entry in service.entries:
            roles = entry.roles or service.roles
            if role is None or not roles or role in roles:
                yield service, entry


def default_in_words(entry: Entry) -> str:
    """Say what an unset parameter means; empty for nothing."""
    words = entry.default or entry.default_from or ""
    if entry.implied_before is not None:
        before = entry.implied_before or "nothing"
        words = f"{words}; {before} in templates of the 1.24 generation".lstrip("; ")
    if entry.implied_by:
        words = f"{words}; YES where {' or '.join(entry.implied_by)} is set".lstrip("; ")
    return words


def type_in_words(entry: Entry) -> str:
    """Say what is accepted."""
    words = TYPES[entry.type].words
    if entry.choices:
        return f"one of {', '.join(entry.choices)}"
    if entry.minimum is not None and entry.maximum is not None:
        words = f"{words}, {entry.minimum:g} to {entry.maximum:g}"
    return words


def to_text(services: Iterable[Service], role: str | None) -> str:
    """List names with their meaning, one paragraph each."""
    paragraphs = []
    for _, entry in _chosen(services, role):
        default = default_in_words(entry)
        facts = f"{type_in_words(entry)}{f'; default: {default}' if default else ''}"
        older = ", ".join(alias.name for alias in entry.aliases)
        more = f"    older names: {older}\n" if older else ""
        paragraphs.append(f"{entry.name}\n    {entry.description}\n    {facts}\n{more}")
    return "\n".join(paragraphs)


def to_markdown(services: Iterable[Service], role: str | None) -> str:
    """Write a table per drop-in."""
    lines = ["# Parameters", "", "Made by `oneke-agent params --format markdown`.", ""]
    chosen = list(_chosen(services, role))
    for service in dict.fromkeys(service.name for service, _ in chosen):
        entries = [(s, entry) for s, entry in chosen if s.name == service]
        lines += [f"## {service}", "", entries[0][0].summary, ""]
        lines += ["| parameter | accepted | default | meaning |", "| --- | --- | --- | --- |"]
        lines += [_row(entry) for _, entry in entries]
        lines.append("")
    return "\n".join(lines)


def _row(entry: Entry) -> str:
    older = "".join(f"<br>older: `{alias.name}`" for alias in entry.aliases)
    cells = (
        f"`{entry.name}`{older}",
        type_in_words(entry),
        default_in_words(entry),
        entry.description,
    )
    return f"| {' | '.join(_cell(cell) for cell in cells)} |"


def _cell(text: str) -> str:
    inside_code = text.startswith("`")
    return text if inside_code else text.replace("|", "\\|").replace("<", "&lt;")


def to_json(services: Iterable[Service], role: str | None) -> str:
    """Write every declared fact."""
    documents = [
        {"service": service.name, **asdict(entry)} for service, entry in _chosen(services, role)
    ]
    return json.dumps(documents, indent=1) + "\n"


FORMATS: dict[str, Callable[[Iterable[Service], str | None], str]] = {
    "text": to_text,
    "markdown": to_markdown,
    "json": to_json,
}
