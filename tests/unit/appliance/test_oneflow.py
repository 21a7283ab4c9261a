"""What drop-ins say to OneFlow: read, put in order, and refused where it does not fit."""

from __future__ import annotations

from pathlib import Path

import pytest

from appliance.errors import ServiceDefinitionError
from appliance.oneflow import Blueprint, build_blueprint
from appliance.service import load_services

SHAPE = """\
kubernetes: '1.35'
networks: {Net: A network}
order: [second]
roles:
  - {name: one, networks: [Net], cpu: 1, vcpu: 1, memory_mb: 512, min_vms: 1}
  - {name: two, networks: [Net], cpu: 1, vcpu: 1, memory_mb: 512, parents: [one]}
"""
ENTRIES = {
    "first": [
        ("ONEAPP_COUNT", "integer", "min: 1, max: 9, default: '3'"),
        ("ONEAPP_NUMBER", "integer", "min: 1"),
        ("ONEAPP_RANGE<any>", "text", ""),
        ("ONEAPP_MUTE", "text", "ignored: true"),
        ("ONEAPP_NEVER", "boolean", "refused: it is not there"),
    ],
    "second": [
        ("ONEAPP_SWITCH", "boolean", "default: 'NO', roles: [two]"),
        ("ONEAPP_SECRET", "secret", "default: pl4nt3d"),
        ("VMID", "integer", "min: 0"),
    ],
}


def _declaration(number: int, name: str, kind: str, more: str) -> str:
    example = "'5'" if kind == "integer" else "'NO'"
    told = f"name: '{name}', field: f{number}, type: {kind}, description: It | is"
    return f"{{{told}, example: {example}{', ' if more else ''}{more}}}"


def drop_in(folder: Path, name: str, flow: str = "") -> None:
    """Write a drop-in."""
    own = folder / name
    own.mkdir(parents=True, exist_ok=True)
    (own / "service.yaml").write_text("summary: It is.\n")
    declared = ENTRIES.get(name, [])
    lines = [_declaration(number, *entry) for number, entry in enumerate(declared)]
    (own / "parameters.yaml").write_text(f"parameters: [{', '.join(lines)}]\n")
    if flow:
        (own / "oneflow.yaml").write_text(flow)


def build(folder: Path, *, shape: str = SHAPE, first: str = "", second: str = "") -> Blueprint:
    """Write drop-ins with these sayings and put them together."""
    drop_in(folder, "shape", shape)
    drop_in(folder, "first", first)
    drop_in(folder, "second", second)
    return build_blueprint(load_services((folder,)).values())


def texts(blueprint: Blueprint) -> dict[str, str]:
    """The questions by name, in order."""
    return {one.name: one.text for one in blueprint.inputs}


def test_questions_come_in_the_order_that_is_told(tmp_path: Path) -> None:
    made = build(
        tmp_path,
        first="inputs: [{name: ONEAPP_COUNT}]",
        second="inputs: [{name: ONEAPP_SWITCH, value: 'YES'}, {name: ONEAPP_SECRET}]",
    )
    assert texts(made) == {
        "ONEAPP_SWITCH": "O|boolean|It / is||YES",
        "ONEAPP_SECRET": "O|password|It / is||",
        "ONEAPP_COUNT": "O|range|It / is|1..9|3",
    }
    assert [one.name for one in made.inputs_of(made.find_role("one"))] == [
        "ONEAPP_SECRET",
        "ONEAPP_COUNT",
    ]


def test_a_number_without_default_is_asked_for_as_text(tmp_path: Path) -> None:
    made = build(tmp_path, first="inputs: [{name: ONEAPP_NUMBER}]")
    assert texts(made) == {"ONEAPP_NUMBER": "O|text|It / is||"}


def test_a_member_of_a_family_is_asked_for_in_words_of_its_own(tmp_path: Path) -> None:
    made = build(tmp_path, first="inputs: [{name: ONEAPP_RANGE_A, description: The first}]")
    assert texts(made) == {"ONEAPP_RANGE_A": "O|text|The first||"}
    assert made.contexts["two"]["ONEAPP_RANGE_A"] == "$ONEAPP_RANGE_A"


def test_a_context_holds_what_acts_on_the_role_and_what_is_fixed(tmp_path: Path) -> None:
    made = build(tmp_path, second="fixed: {ONEAPP_SWITCH: 'YES'}")
    one, two = made.contexts["one"], made.contexts["two"]
    assert two.keys() - one.keys() == {"ONEAPP_SWITCH"}
    assert two["ONEAPP_SWITCH"] == "YES"
    assert one["ONEAPP_SECRET"] == "$ONEAPP_SECRET"
    # What OpenNebula itself puts there, and what must not be there.
    assert not {"VMID", "ONEAPP_MUTE", "ONEAPP_NEVER"} & one.keys()


@pytest.mark.parametrize(
    ("said", "complaint"),
    [
        ({"first": "inputs: [{name: ONEAPP_COUNTS}]"}, "ONEAPP_COUNTS is no parameter of first"),
        ({"first": "inputs: [{name: ONEAPP_MUTE}]"}, "ONEAPP_MUTE is no parameter"),
        ({"first": "inputs: [{name: ONEAPP_NEVER}]"}, "ONEAPP_NEVER is no parameter"),
        ({"first": "inputs: [{name: ONEAPP_COUNT, value: '10'}]"}, "ONEAPP_COUNT=10: "),
        ({"first": "inputs: [{name: ONEAPP_COUNT, value: 3}]"}, "expected a name and texts"),
        ({"first": "inputs: [{value: '3'}]"}, "expected a name and texts"),
        ({"first": "inputs: ONEAPP_COUNT"}, "inputs must be a list"),
        ({"first": "inputs: [{name: ONEAPP_COUNT, default: '3'}]"}, "default not understood"),
        ({"first": "asks: []"}, "asks not understood"),
        ({"second": "fixed: {ONEAPP_SWITCH: true}"}, "fixed: expected texts by name"),
        (
            {"first": "inputs: [{name: ONEAPP_RANGE}, {name: ONEAPP_RANGE_A}]"},
            "ONEAPP_RANGE_A begins with ONEAPP_RANGE",
        ),
        ({"first": SHAPE}, "expected roles in one drop-in, not in 2"),
        ({"shape": "inputs: []"}, "expected roles in one drop-in, not in 0"),
        ({"shape": SHAPE.replace("parents: [one]", "parents: [three]")}, "parent three"),
        ({"shape": SHAPE.replace("networks: [Net]", "networks: [Nat]")}, "Nat is no network"),
        (
            {"shape": SHAPE.replace("memory_mb: 512", "memory_mb: lots")},
            "memory_mb: expected a whole",
        ),
        ({"shape": SHAPE.replace("min_vms: 1", "min_vms: true")}, "min_vms: expected a whole"),
        ({"shape": SHAPE.replace("cpu: 1", "cpus: 1")}, "cpus"),
        ({"shape": SHAPE.replace("parents: [one]", "parents: one")}, "parents must be a list"),
        ({"shape": SHAPE.replace("parents: [one]", "parents: [1]")}, "parents must be a list of t"),
        ({"shape": "roles: [one]"}, "roles: expected a mapping"),
        ({"shape": "roles: {one: 1}"}, "roles must be a list"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path: Path, said: dict[str, str], complaint: str) -> None:
    with pytest.raises(ServiceDefinitionError, match=complaint):
        build(tmp_path, **said)


def test_a_role_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ServiceDefinitionError, match="role three: expected one of one, two"):
        build(tmp_path).find_role("three")


def test_a_folder_of_the_administrator_asks_too(tmp_path: Path) -> None:
    build(tmp_path / "packaged", first="inputs: [{name: ONEAPP_COUNT}]")
    added = tmp_path / "own"
    drop_in(added, "first", "inputs: [{name: ONEAPP_COUNT, value: '7'}]")
    services = load_services((added, tmp_path / "packaged"))
    [one] = build_blueprint(services.values()).inputs
    assert one.value == "7"
