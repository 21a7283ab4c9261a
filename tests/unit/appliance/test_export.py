"""Parameters for readers."""

from __future__ import annotations

import json
import re

import pytest

from appliance.export import FORMATS, to_json, to_markdown, to_text
from appliance.parameters import Alias, Entry
from appliance.service import Service
from appliance.values import TYPES


def entry(name: str, type_: str, **more: object) -> Entry:
    """Return an entry."""
    arguments = {"description": "Is it | or not.", "example": "x", **more}
    return Entry(name=name, field=name.lower(), type=type_, **arguments)


ENTRIES = (
    entry("BOOL", "boolean", default="YES"),
    entry("COUNT", "integer", minimum=1, maximum=9, default="3", required=True),
    entry("AT_LEAST", "integer", minimum=1),
    entry("WORD", "choice", choices=("a", "b"), default="b"),
    entry("PASSWORD", "secret", default="pl4nt3d"),
    entry("TEXT", "base64_text"),
    entry("PERIOD", "seconds", default="0.5", implied_before="1"),
    entry("FAMILY<n>", "text"),
    entry("IGNORED", "text", ignored=True),
    entry("OWN", "text"),
    entry("OTHER", "text", roles=("worker",), aliases=(Alias("OLDER"),)),
)
SERVICES = [Service("a", "It | does.", (), ENTRIES, (), ())]


@pytest.mark.parametrize("form", sorted(FORMATS))
def test_a_role_sees_its_own_parameters_only(form: str) -> None:
    assert "OTHER" in FORMATS[form](SERVICES, "worker")
    assert "OTHER" not in FORMATS[form](SERVICES, "vnf")
    assert "COUNT" in FORMATS[form](SERVICES, "vnf")


@pytest.mark.parametrize("form", sorted(FORMATS))
def test_every_form_ends_in_one_newline(services: dict[str, Service], form: str) -> None:
    text = FORMATS[form](services.values(), None)
    assert text.endswith("\n")
    assert not text.endswith("\n\n")


def test_every_row_of_the_markdown_has_four_cells(services: dict[str, Service]) -> None:
    for chosen in (services.values(), SERVICES):
        rows = [line for line in to_markdown(chosen, None).splitlines() if line.startswith("|")]
        assert rows
        for row in rows:
            assert len(re.findall(r"(?<!\\)\|", row)) == 5, row


def test_the_markdown_names_every_parameter_and_every_older_name(
    services: dict[str, Service],
) -> None:
    text = to_markdown(services.values(), None)
    for service in services.values():
        for one in service.entries:
            assert f"`{one.name}`" in text
            for alias in one.aliases:
                assert f"`{alias.name}`" in text


def test_text_tells_type_default_and_older_names() -> None:
    text = to_text(SERVICES, None)
    assert "integer, 1 to 9; default: 3" in text
    assert "older names: OLDER" in text
    assert "0.5; 1 in templates of the 1.24 generation" in text


def test_json_holds_every_entry_as_declared(services: dict[str, Service]) -> None:
    documents = json.loads(to_json(services.values(), None))
    declared = [one.name for service in services.values() for one in service.entries]
    assert [document["name"] for document in documents] == declared
    assert all(document["type"] in TYPES for document in documents)
