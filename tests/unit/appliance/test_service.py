"""Drop-ins: what must be in them, and what is said where it is not."""

from __future__ import annotations

from pathlib import Path

import pytest

from appliance.context import Context
from appliance.errors import ServiceDefinitionError
from appliance.parameters import Alias
from appliance.service import all_names, find_legacy_mark, load_services

ALIASES = "[OLD, {name: OLDER, with: {}, unless_true: X}]"
ENTRY = f"""\
  - name: ONEAPP_A_PORT
    field: port
    type: integer
    min: 1
    max: 9
    default: '1'
    aliases: {ALIASES}
    roles: [vnf]
    description: A port.
    example: '2'
"""
GOOD = f"parameters:\n{ENTRY}"


def write(folder: Path, name: str, service: str | None, parameters: str | None) -> Path:
    """Write a drop-in."""
    own = folder / name
    own.mkdir(parents=True)
    if service is not None:
        (own / "service.yaml").write_text(service, encoding="utf-8")
    if parameters is not None:
        (own / "parameters.yaml").write_text(parameters, encoding="utf-8")
    return own


def test_a_drop_in_is_read(tmp_path: Path) -> None:
    own = write(tmp_path, "a", "summary: It.\nroles: [vnf]\n", GOOD)
    service = load_services([tmp_path])["a"]
    assert (service.name, service.summary, service.roles) == ("a", "It.", ("vnf",))
    (entry,) = service.entries
    assert (entry.minimum, entry.maximum, entry.default) == (1, 9, "1")
    assert entry.aliases == (Alias("OLD"), Alias("OLDER", {}, "X"))
    assert service.folders == (own,)
    assert all_names([service]) == ["ONEAPP_A_PORT", "OLD", "OLDER"]


def test_a_drop_in_without_parameters_is_fine(tmp_path: Path) -> None:
    write(tmp_path, "a", "summary: It.\n", None)
    assert load_services([tmp_path])["a"].entries == ()


def test_folders_that_are_not_there_hold_nothing(tmp_path: Path) -> None:
    assert load_services([tmp_path / "none"]) == {}


def changed(old: str, new: str) -> str:
    """Return the good parameters with a change."""
    assert old in GOOD
    return GOOD.replace(old, new)


ENTRY_ERRORS = [
    (changed("type: integer", "type: number"), "type number: expected one of .*integer"),
    (changed("    type: integer\n", ""), "A_PORT: lacks type"),
    (changed("    example: '2'\n", ""), "A_PORT: lacks example"),
    (changed("example: '2'", "example: ''"), "A_PORT: lacks example"),
    (changed("example: '2'", "example: 0"), "example must be a quoted text"),
    (changed("field: port", "field: Port"), "field 'Port'"),
    (changed("field: port", "field: po-rt"), "field 'po-rt'"),
    (changed("field: port", "field: 3"), "field must be a quoted text"),
    (changed("field: port", "field:"), "A_PORT: lacks field"),
    (changed("min: 1", "mini: 1"), "mini not understood; known are"),
    (changed("min: 1", "min: one"), "min"),
    (changed("min: 1", "minimum: 1"), "minimum not understood"),
    (changed("default: '1'", "default: 1"), "default must be a quoted text"),
    (changed("default: '1'", "default: YES"), "default must be a quoted text"),
    (changed("default: '1'", "default: '10'"), "default '10': expected an integer from 1 to 9"),
    (changed("default: '1'", "implied_before: '10'"), "implied_before '10': expected an integer"),
    (changed("example: '2'", "example: x"), "example 'x': expected an integer"),
    (changed("roles: [vnf]", "roles:"), "roles"),
    (changed("roles: [vnf]", "roles: vnf"), "roles"),
    (changed("roles: [vnf]", "choices: 5"), "choices"),
    (changed("[OLD,", "[5,"), "alias"),
    (changed("name: OLDER, ", ""), "alias"),
    (changed("name: OLDER, ", "name: OLDER, wiht: {}, "), "wiht not understood"),
    (changed(f"aliases: {ALIASES}", "aliases:"), "aliases must be a list"),
    (changed(f"aliases: {ALIASES}", "aliases: OLD"), "aliases must be a list"),
    (changed("unless_true: X", "transform: backwards"), "transform"),
    (changed("type: integer", "type: text\n    pattern: '['"), "pattern '\\['"),
    (changed("    min: 1\n", "    5: 1\n"), "5 not understood"),
    (changed("    description: A port.\n    example: '2'\n", ""), "lacks description, example"),
    (f"{GOOD}{ENTRY}", "declared twice"),
    (f"{GOOD}{ENTRY.replace('ONEAPP_A_PORT', 'ONEAPP_B')}", "field port"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "words"), ENTRY_ERRORS)
def test_what_is_wrong_with_an_entry_names_file_and_entry(
    tmp_path: Path, text: str, words: str
) -> None:
    own = write(tmp_path, "a", "summary: It.\n", text)
    with pytest.raises(ServiceDefinitionError, match=words) as caught:
        load_services([tmp_path])
    assert str(own / "parameters.yaml") in str(caught.value)
    assert "ONEAPP_" in str(caught.value)
    assert caught.value.exit_code == 78


@pytest.mark.parametrize(
    ("service", "parameters", "file", "words"),
    [
        (None, GOOD, "", "has no service.yaml"),
        ("", None, "service.yaml", "expected a mapping"),
        ("[]", None, "service.yaml", "expected a mapping"),
        ("a: [", None, "service.yaml", "line 2"),
        ("summary: x\nrole: [vnf]\n", None, "service.yaml", "role not understood"),
        ("roles: vnf\n", None, "service.yaml", "roles"),
        ("roles:\n", None, "service.yaml", "roles"),
        ("legacy_marks:\n", None, "service.yaml", "legacy_marks"),
        ("legacy_marks: [{roles: [vnf]}]\n", None, "service.yaml", "legacy_marks"),
        ("summary: x\n", "parameters:\n", "parameters.yaml", "parameters"),
        ("summary: x\n", "parameters: 5\n", "parameters.yaml", "parameters"),
        ("summary: x\n", "parameters: {a: b}\n", "parameters.yaml", "must be a list"),
        ("summary: x\n", "parameters: [5]\n", "parameters.yaml", "entries with a name"),
        ("summary: x\n", "parameters: [{field: x}]\n", "parameters.yaml", "entries with a name"),
        ("summary: x\n", "params: []\n", "parameters.yaml", "params not understood"),
        ("summary: x\n", "- x\n", "parameters.yaml", "expected a mapping"),
        ("summary: x\n", "!!python/object/apply:os.system [id]\n", "parameters.yaml", "tag"),
    ],
)
def test_what_is_wrong_with_a_file_names_it(
    tmp_path: Path, service: str | None, parameters: str | None, file: str, words: str
) -> None:
    own = write(tmp_path, "a", service, parameters)
    with pytest.raises(ServiceDefinitionError, match=words) as caught:
        load_services([tmp_path])
    assert str(own / file) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_no_text_is_named(tmp_path: Path) -> None:
    own = write(tmp_path, "a", "summary: x\n", None)
    (own / "parameters.yaml").write_bytes(b"\xff\xfe")
    with pytest.raises(ServiceDefinitionError, match=r"a/parameters\.yaml"):
        load_services([tmp_path])


def test_a_parameter_of_two_drop_ins_is_refused(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write(tmp_path, name, "summary: x\n", GOOD)
    with pytest.raises(ServiceDefinitionError, match="ONEAPP_A_PORT: declared by a and by b"):
        load_services([tmp_path])


def test_the_administrators_files_win_one_by_one(tmp_path: Path) -> None:
    packaged, own = tmp_path / "packaged", tmp_path / "own"
    write(packaged, "a", "summary: packaged\n", GOOD)
    write(packaged, "b", "summary: packaged\n", None)
    write(own, "a", None, GOOD.replace("default: '1'", "default: '7'"))
    write(own, "c", "summary: own\n", None)
    services = load_services([own, packaged])
    assert {name: one.summary for name, one in services.items()} == {
        "a": "packaged",
        "b": "packaged",
        "c": "own",
    }
    assert services["a"].entries[0].default == "7"
    assert services["a"].folders == (own / "a", packaged / "a")


MARKS = """\
summary: x
legacy_marks:
  - key: LB<n>_IP
    without: HAPROXY_ENABLED
    roles: [vnf]
  - key: RANGE
"""


@pytest.mark.parametrize(
    ("values", "role", "mark"),
    [
        ({}, "vnf", None),
        ({"LB0_IP": "x"}, "vnf", "LB0_IP"),
        ({"LB0_IP": ""}, "vnf", "LB0_IP"),
        ({"LB0_IP": "x", "HAPROXY_ENABLED": ""}, "vnf", None),
        ({"LB0_IP": "x", "HAPROXY_ENABLED": "NO"}, "vnf", None),
        ({"LB0_IP": "x"}, "master", None),
        ({"LB0_IP": "x"}, None, None),
        ({"RANGE": ""}, "master", "RANGE"),
        ({"RANGE": "", "HAPROXY_ENABLED": "YES"}, "vnf", "RANGE"),
    ],
)
def test_a_template_of_the_1_24_generation_is_told_by_its_marks(
    tmp_path: Path, values: dict[str, str], role: str | None, mark: str | None
) -> None:
    write(tmp_path, "a", MARKS, None)
    services = load_services([tmp_path])
    assert find_legacy_mark(services.values(), Context(values, "file"), role) == mark
