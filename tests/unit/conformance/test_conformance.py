"""No vector fails, every rule is right and concerns something, the page is current."""

from __future__ import annotations

import dataclasses
import inspect
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from appliance.errors import OnekeError
from tests.conformance.__main__ import main
from tests.conformance.areas import AREAS, NOT_APPLYING, NOT_DUE, addresses_of_route, decide_router4
from tests.conformance.deviations import write_deviations
from tests.conformance.rules import RULES, Rule
from tests.conformance.runner import Result, Verdict, judge, run, table
from tests.conformance.vectors import (
    DEFAULT_FOLDER,
    Inputs,
    Vector,
    VectorError,
    load_vectors,
    read_inputs,
)
from tests.unit.conformance import oracle

_REPOSITORY = Path(__file__).resolve().parents[3]
_VECTORS = load_vectors(DEFAULT_FOLDER)
_BY_DESIGN = (
    ("bound-without-servers",),
    ("joins-on-a-token",),
    ("supervisor-in-certificate",),
    ("proxy-exceptions",),
)
_DUE = {
    "one_env",
    "interfaces",
    "addresses",
    "keepalived",
    "haproxy",
    "nat4",
    "router4",
    "external_ipv4s",
    "node_network",
    "detect_node",
    "oneke_endpoints",
    "node_config",
    "backend_registration",
    "cleaner",
    "metallb",
    "cilium",
}


@pytest.fixture(scope="module")
def results() -> list[Result]:
    return run(_VECTORS)


def test_no_vector_fails_and_no_rule_concerns_one_that_passes(results: list[Result]) -> None:
    failed = [
        f"{result.vector.vector_id} {result.vector.name}: {result.differences}"
        for result in results
        if result.verdict is Verdict.FAILED
    ]
    assert not failed, "\n".join(failed)


def test_every_area_that_is_due_has_vectors_that_were_run(results: list[Result]) -> None:
    assert set(AREAS) == _DUE
    assert {result.vector.area for result in results} == _DUE
    assert len(results) == sum(len(_VECTORS[area]) for area in _DUE)


def test_only_doubtful_vectors_are_met_differently_or_by_design(results: list[Result]) -> None:
    assert [
        r.vector.name
        for r in results
        if r.verdict is Verdict.DEVIATING and not r.vector.quirk and r.rules not in _BY_DESIGN
    ] == []


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: f"{rule.area}-{rule.name}")
def test_a_rule_concerns_a_vector_or_its_example(rule: Rule, results: list[Result]) -> None:
    concerned = [r for r in results if r.vector.area == rule.area and rule.name in r.rules]
    assert concerned or rule.example is not None


@pytest.mark.parametrize(
    "rule", [rule for rule in RULES if rule.example], ids=lambda rule: f"{rule.area}-{rule.name}"
)
def test_an_example_deviates_from_what_the_reference_decides_under_its_rule(rule: Rule) -> None:
    assert rule.example is not None
    recorded = oracle.decide(rule.area, rule.example)
    result = judge(_vector(rule.area, rule.example, recorded), AREAS[rule.area])
    assert result.verdict is Verdict.DEVIATING, result.differences
    assert rule.name in result.rules
    if rule.ours.startswith("refuse"):
        assert "error" not in recorded
        with pytest.raises(OnekeError):
            AREAS[rule.area].decide(rule.example)


def test_rules_are_named_once_and_say_everything() -> None:
    names = [(rule.area, rule.name) for rule in RULES]
    assert len(set(names)) == len(names)
    assert all(rule.reference and rule.ours and rule.reason for rule in RULES)


def test_a_rule_can_not_see_what_was_expected_nor_which_vector_it_is() -> None:
    assert {field.name for field in dataclasses.fields(Inputs)} == {
        "context",
        "call",
        "onegate",
        "previous",
    }
    inputs = read_inputs({"id": "x", "name": "y", "expected": {}, "previous": [{"expected": 1}]})
    assert inputs == Inputs(previous=(Inputs(),))
    assert all(len(inspect.signature(rule.predicate).parameters) == 1 for rule in RULES)


def _vector(area: str, inputs: Inputs, expected: dict[str, Any]) -> Vector:
    return Vector(area, "made up", f"{area}-0", inputs, expected, None)


def _rule(area: str, predicate: Callable[[Inputs], bool]) -> Rule:
    return Rule(area, "made-up", "does", "do", "because", predicate)


_ROUTER = Inputs({"ETH0_IP": "10.77.0.10", "ONEAPP_VNF_ROUTER4_ENABLED": "YES"})


def test_a_difference_without_a_rule_fails_and_names_the_place() -> None:
    expected = {**decide_router4(_ROUTER), "enabled": False}
    result = judge(_vector("router4", _ROUTER, expected), AREAS["router4"], rules=())
    assert result.verdict is Verdict.FAILED
    assert result.differences == ("enabled: expected false, decided true",)


def test_a_difference_under_a_rule_deviates() -> None:
    expected = {**decide_router4(_ROUTER), "enabled": False}
    rules = (_rule("router4", lambda inputs: True), _rule("nat4", lambda inputs: True))
    result = judge(_vector("router4", _ROUTER, expected), AREAS["router4"], rules)
    assert (result.verdict, result.rules) == (Verdict.DEVIATING, ("made-up",))


def test_a_rule_that_concerns_a_vector_which_passes_is_an_error() -> None:
    vector = _vector("router4", _ROUTER, decide_router4(_ROUTER))
    result = judge(vector, AREAS["router4"], (_rule("router4", lambda inputs: True),))
    assert result.verdict is Verdict.FAILED
    assert "which passes" in result.differences[0]


def test_an_accident_in_the_agent_fails_even_where_no_result_was_expected() -> None:
    def stumble(inputs: Inputs) -> dict[str, Any]:
        raise KeyError("nobody thought of this")

    area = dataclasses.replace(AREAS["router4"], decide=stumble)
    vector = _vector("router4", _ROUTER, {"error": {"kind": "uncaught"}})
    assert judge(vector, area, rules=()).verdict is Verdict.FAILED


def test_a_refusal_meets_every_vector_without_a_result() -> None:
    inputs = Inputs({"ETH0_IP": "nowhere"})
    vector = _vector("addresses", inputs, {"error": {"kind": "uncaught"}})
    assert judge(vector, AREAS["addresses"], rules=()).verdict is Verdict.PASSED


@pytest.mark.parametrize(
    "route",
    [
        "0.0.0.0/0 via 198.51.100.1",
        "default via 198.51.100.1 dev eth0",
        {"dst": "0.0.0.0/0", "via": "198.51.100.1"},
        {"to": "default", "gateway": "198.51.100.1", "dev": "eth0"},
    ],
)
def test_a_route_compares_however_it_is_written(route: object) -> None:
    assert addresses_of_route(route) == ["0.0.0.0/0", "198.51.100.1"]


def test_the_page_of_deviations_is_current() -> None:
    page = (_REPOSITORY / "docs" / "deviations.md").read_text(encoding="utf-8")
    assert page == write_deviations(), "make docs writes it anew"


def test_the_command_prints_the_figures_and_succeeds(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    printed = capsys.readouterr().out
    for area in (*AREAS, *NOT_DUE, *NOT_APPLYING):
        assert f"\n{area} " in printed


def test_the_command_fails_where_a_vector_fails(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (DEFAULT_FOLDER / "router4.yaml").read_text(encoding="utf-8")
    changed = text.replace("ip_forward: 0", "ip_forward: 1", 1)
    (tmp_path / "router4.yaml").write_text(changed, encoding="utf-8")
    assert main([str(tmp_path)]) == 1
    assert "sysctl.net.ipv4.ip_forward: expected" in capsys.readouterr().out


def test_an_unknown_area_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copy(DEFAULT_FOLDER / "router4.yaml", tmp_path)
    (tmp_path / "weather.yaml").write_text("area: weather\nformat: 1\nvectors: []\n")
    assert main([str(tmp_path)]) == 2
    assert "unknown areas: weather" in capsys.readouterr().err


def test_a_folder_without_vectors_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(VectorError, match="no area file"):
        load_vectors(tmp_path)
    assert main([str(tmp_path)]) == 2


def test_one_area_can_be_run_alone() -> None:
    results = run(_VECTORS, "nat4")
    assert {result.vector.area for result in results} == {"nat4"}
    assert any(line.startswith("nat4") for line in table(results, _VECTORS))
