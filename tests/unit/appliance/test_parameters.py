"""From a context to values: families, aliases, precedence, defaults, problems, near misses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest

from appliance.context import Context
from appliance.errors import ParameterProblems, Problem
from appliance.parameters import (
    Alias,
    Entry,
    ParsedParameters,
    build_view,
    compile_name,
    find_near_misses,
    parse_parameters,
)
from appliance.secret import Secret

SECRET = "pl4nt3d"


def entry(name: str = "KEY", type_: str = "text", **more: Any) -> Entry:
    """Return an entry whose field is `it`."""
    return Entry(name=name, field="it", type=type_, description="Is it.", example="1", **more)


def parse(
    one: Entry,
    values: Mapping[str, str],
    *,
    legacy: bool = False,
    role: str | None = None,
) -> ParsedParameters:
    """Parse a context for one entry."""
    return parse_parameters({"a": [one]}, Context(values, "file"), legacy=legacy, role=role)


def value(one: Entry, values: Mapping[str, str], *, legacy: bool = False) -> object:
    """Return the value of one entry in a context without a problem."""
    parsed = parse(one, values, legacy=legacy)
    assert parsed.problems == ()
    return parsed.values["a"]["it"]


# --- defaults -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "unset", "unset_in_1_24"),
    [
        (entry(), None, None),
        (entry(type_="integer", default="7"), 7, 7),
        (entry(type_="boolean", default="NO", implied_before="YES"), False, True),
        (entry(type_="integer", implied_before="1"), None, 1),
        (entry(type_="interface_list"), None, None),
        (entry(type_="interface_list", default=""), (), ()),
        (entry(name="KEY<n>", type_="integer"), {}, {}),
    ],
)
def test_unset_and_empty_mean_the_default(one: Entry, unset: object, unset_in_1_24: object) -> None:
    for values in ({}, {"KEY": "", "KEY0": ""}):
        assert value(one, values) == unset
        assert value(one, values, legacy=True) == unset_in_1_24


def test_an_explicit_value_wins_over_an_implied_one() -> None:
    one = entry(type_="boolean", default="NO", implied_before="YES")
    assert value(one, {"KEY": "NO"}, legacy=True) is False


def test_a_missing_mandatory_parameter_is_a_problem() -> None:
    for values in ({}, {"KEY": ""}):
        parsed = parse(entry(required=True), values)
        assert parsed.problems == (Problem("KEY", None, "required: Is it.", "file"),)


# --- families -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "values", "found"),
    [
        ("ETH<n>_IP", {"ETH0_IP": "a", "ETH10_IP": "b", "ETH2_IP": "c"}, {0: "a", 2: "c", 10: "b"}),
        ("E<n>_V<m>", {"E1_V0": "a", "E0_V1": "b", "E0_V": "c"}, {(0, 1): "b", (1, 0): "a"}),
        ("A_<any>", {"A_0": "x", "A_B": "y", "A": "z"}, {0: "x", "B": "y"}),
        ("ETH<n>_IP", {"ETHX_IP": "a", "XETH0_IP": "b", "ETH0_IP6": "c", "ETH-1_IP": "d"}, {}),
        ("ETH<n>_IP", {"ETH\u0667_IP": "a", "ETH" + "9" * 5000 + "_IP": "b"}, {}),
        ("A_<any>", {"A_" + "9" * 5000: "x"}, {"9" * 5000: "x"}),
        ("ETH<n>_IP", {"ETH007_IP": "a"}, {7: "a"}),
    ],
)
def test_a_family_is_one_mapping_by_its_numbers(
    name: str, values: dict[str, str], found: dict[object, str]
) -> None:
    assert value(entry(name=name), values) == found


def test_the_members_of_a_family_come_in_the_order_of_their_numbers() -> None:
    values = {f"K{number}": "x" for number in (10, 9, 2, 1)}
    found = value(entry(name="K<n>"), values)
    assert isinstance(found, dict)
    assert list(found) == [1, 2, 9, 10]


def test_a_name_listed_in_full_is_not_a_member_of_a_family() -> None:
    entries = [
        Entry("A_ENABLED", "enabled", "boolean", "Is it.", "YES"),
        Entry("A_<any>", "others", "text", "Are they.", "x"),
    ]
    context = Context({"A_ENABLED": "YES", "A_B": "x"}, "file")
    parsed = parse_parameters({"a": entries}, context, legacy=False)
    assert parsed.values["a"] == {"enabled": True, "others": {"B": "x"}}


@pytest.mark.parametrize(("keep", "found"), [(True, {0: None, 1: "x"}), (False, {1: "x"})])
def test_an_empty_member_counts_only_where_its_presence_means_something(
    keep: bool, found: dict[int, str | None]
) -> None:
    one = entry(name="K<n>", keep_empty=keep)
    assert value(one, {"K0": "", "K1": "x"}) == found


def test_a_wrong_member_of_a_family_does_not_hide_the_others() -> None:
    parsed = parse(entry(name="K<n>", type_="integer"), {"K0": "x", "K1": "1", "K2": "y"})
    assert parsed.values["a"]["it"] == {1: 1}
    assert parsed.bad_keys == {"K0", "K2"}


@pytest.mark.parametrize(
    ("name", "matching", "other"),
    [
        ("A.B", "A.B", "AxB"),
        ("A<n>", "A12", "A"),
        ("A<n>", "A1", "A1\n"),
        ("A<n>_<any>", "A1_", "A_x"),
    ],
)
def test_a_name_matches_itself_and_nothing_else(name: str, matching: str, other: str) -> None:
    assert compile_name(name).match(matching)
    assert not compile_name(name).match(other)


# --- aliases --------------------------------------------------------------------------------------

OLDER = entry(type_="integer", aliases=(Alias("OLD"), Alias("OLDEST")))


@pytest.mark.parametrize(
    ("values", "found"),
    [
        ({"OLD": "2"}, 2),
        ({"OLDEST": "3"}, 3),
        ({"KEY": "1", "OLD": "1"}, 1),
        ({"KEY": "", "OLD": "2"}, 2),
        ({"KEY": "1", "OLD": ""}, 1),
    ],
)
def test_an_older_name_counts_where_the_current_one_is_not_set(
    values: dict[str, str], found: int
) -> None:
    parsed = parse(OLDER, values)
    assert parsed.values["a"]["it"] == found
    assert parsed.warnings == ()


@pytest.mark.parametrize(
    ("values", "found", "names"),
    [
        ({"OLD": "2", "KEY": "1"}, 1, ("KEY", "OLD")),
        ({"OLDEST": "3", "OLD": "2"}, 2, ("OLD", "OLDEST")),
    ],
)
def test_two_names_that_differ_are_warned_about_and_the_newer_wins(
    values: dict[str, str], found: int, names: tuple[str, str]
) -> None:
    parsed = parse(OLDER, values)
    assert parsed.values["a"]["it"] == found
    (warning,) = parsed.warnings
    assert all(name in warning for name in names)
    assert f"{names[0]} is taken" in warning


def test_a_warning_about_secrets_shows_none() -> None:
    one = entry(type_="secret", aliases=(Alias("OLD"),))
    parsed = parse(one, {"KEY": f"1{SECRET}", "OLD": f"2{SECRET}"})
    assert parsed.values["a"]["it"] == Secret(f"1{SECRET}")
    (warning,) = parsed.warnings
    assert SECRET not in warning
    assert SECRET not in repr(parsed)


def test_an_alias_of_a_family_fills_in_the_numbers_it_does_not_have() -> None:
    one = entry(
        name="VR_ETH<nic>_VIP<index>",
        aliases=(Alias("ETH<nic>_VR", {"index": 0}), Alias("LB_IP", {"nic": 0, "index": 1})),
    )
    values = {"ETH1_VR": "b", "LB_IP": "c", "VR_ETH0_VIP0": "a"}
    assert value(one, values) == {(0, 0): "a", (1, 0): "b", (0, 1): "c"}


@pytest.mark.parametrize(
    ("others", "found"),
    [
        ({}, "10.0.0.1"),
        ({"LB_ENABLED": "NO"}, "10.0.0.1"),
        ({"LB_ENABLED": ""}, "10.0.0.1"),
        ({"LB_ENABLED": "YES"}, None),
        ({"LB_ENABLED": " on "}, None),
        ({"LB0_SERVER3_HOST": "x"}, None),
        ({"LB1_SERVER3_HOST": "x"}, "10.0.0.1"),
    ],
)
def test_a_conditional_alias_counts_only_under_its_conditions(
    others: dict[str, str], found: str | None
) -> None:
    alias = Alias(
        "LB0_IP",
        unless_true="LB_ENABLED",
        unless_any="LB0_SERVER<n>_HOST",
        transform="before_colon",
    )
    assert value(entry(aliases=(alias,)), {"LB0_IP": "10.0.0.1:6443", **others}) == found


@pytest.mark.parametrize(
    ("transform", "text", "found"),
    [
        ("before_colon", "10.0.0.1:6443", "10.0.0.1"),
        ("after_colon", "10.0.0.1:6443", "6443"),
        ("before_colon", "10.0.0.1", "10.0.0.1"),
        ("after_colon", "10.0.0.1", None),
        (None, "10.0.0.1:6443", "10.0.0.1:6443"),
    ],
)
def test_an_alias_may_be_a_part_of_the_text(
    transform: str | None, text: str, found: str | None
) -> None:
    assert value(entry(aliases=(Alias("OLD", transform=transform),)), {"OLD": text}) == found


# --- problems -------------------------------------------------------------------------------------


def test_every_problem_is_told_and_not_only_the_first() -> None:
    entries = [
        Entry(f"K{letter}", f"k{letter.lower()}", "integer", "Is it.", "1") for letter in "ABC"
    ]
    context = Context({"KA": "x", "KB": "1", "KC": "y"}, "file")
    parsed = parse_parameters({"a": entries[:2], "b": entries[2:]}, context, legacy=False)
    assert {problem.key for problem in parsed.problems} == {"KA", "KC"}
    error = ParameterProblems(parsed.problems)
    assert error.exit_code == 78
    assert str(error).startswith("2 parameters are wrong: KA=x: expected an integer (file); KC=y")


def test_a_problem_names_the_key_that_was_used() -> None:
    (problem,) = parse(OLDER, {"OLD": "x"}).problems
    assert (problem.key, problem.found, problem.source) == ("OLD", "x", "file")
    assert str(problem) == "OLD=x: expected an integer (file)"


def test_a_problem_with_a_secret_masks_it() -> None:
    (problem,) = parse(entry(type_="secret", pattern="[a-c]+"), {"KEY": SECRET}).problems
    assert problem.found == "***"
    assert SECRET not in str(problem)


@pytest.mark.parametrize("url", ["http://user:pl4nt3d@one:5030", "ftp://pl4nt3d@one"])
def test_a_problem_with_credentials_in_an_address_masks_them(url: str) -> None:
    (problem,) = parse(entry(type_="url"), {"KEY": url}).problems
    assert SECRET not in str(problem)
    assert "one" in str(problem)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\nb\tc\x1b[31m", "a b c [31m"),
        ("x" * 81, "x" * 80 + "... (81 characters)"),
        ("x" * 1_000_000, "x" * 80 + "... (1000000 characters)"),
    ],
)
def test_a_problem_shows_a_hostile_value_in_one_short_line(text: str, shown: str) -> None:
    (problem,) = parse(entry(type_="integer"), {"KEY": text}).problems
    assert problem.found == shown


@pytest.mark.parametrize(
    ("text", "is_refused"), [("YES", True), ("1", True), ("NO", False), ("", False)]
)
def test_a_switch_that_must_stay_off_is_refused_with_its_reason(
    text: str, is_refused: bool
) -> None:
    parsed = parse(entry(type_="boolean", refused="not part of this agent"), {"KEY": text})
    assert [problem.accepted for problem in parsed.problems] == (
        ["not part of this agent"] if is_refused else []
    )


def test_a_parameter_without_effect_may_have_any_text() -> None:
    assert value(entry(type_="integer", ignored=True), {"KEY": "anything"}) == "anything"


def test_one_problem_is_told_in_the_singular() -> None:
    assert str(ParameterProblems([Problem("K", None, "missing")])).startswith(
        "1 parameter is wrong"
    )


# --- roles ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("roles", "role", "found", "problems"),
    [
        (("vnf",), "vnf", 1, 1),
        (("vnf",), "worker", 1, 0),
        (("vnf", "worker"), "worker", 1, 1),
        ((), "worker", 1, 1),
        (("vnf",), None, 1, 1),
    ],
)
def test_what_another_role_acts_on_is_left_alone(
    roles: tuple[str, ...], role: str | None, found: int, problems: int
) -> None:
    one = entry(type_="integer", default="1", roles=roles)
    parsed = parse(one, {"KEY": "wrong"}, role=role)
    assert parsed.values["a"]["it"] == found
    assert len(parsed.problems) == problems


def test_a_family_of_another_role_is_empty() -> None:
    parsed = parse(entry(name="K<n>", roles=("vnf",)), {"K0": "x"}, role="worker")
    assert parsed.values["a"]["it"] == {}


# --- near misses ----------------------------------------------------------------------------------

NAMES = ["ONEAPP_VNF_KEEPALIVED_PASSWORD", "ONEAPP_VROUTER_ETH<nic>_VIP<index>", "ONEAPP_K8S_<any>"]


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("ONEAPP_VNF_KEEPALIVED_PASWORD", NAMES[0]),
        ("ONEAPP_VNF_KEEPALIVED_PASSWORDS", NAMES[0]),
        ("ONEAPP_VROUTER_ETH12_VIPS0", NAMES[1]),
        ("ONEAPP_VROUTER_ETH0_VPI0", NAMES[1]),
        ("ONEAPP_VNF_KEEPALIVED_PASSWORD", None),
        ("ONEAPP_VROUTER_ETH12_VIP345", None),
        ("ONEAPP_K8S_ANYTHING", None),
        ("ONEAPP_SOMETHING_ELSE_ALTOGETHER", None),
        ("VNF_KEEPALIVED_PASWORD", None),
        ("ONEAPP_" + "X" * 100_000, None),
    ],
)
def test_a_key_that_looks_like_a_misspelt_one_is_warned_about(key: str, meant: str | None) -> None:
    warnings = find_near_misses(NAMES, Context({key: SECRET}, "file"))
    if meant is None:
        assert warnings == ()
    else:
        (warning,) = warnings
        assert key in warning
        assert f"did you mean {meant}?" in warning
        assert SECRET not in warning


# --- views ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Inner:
    """One service."""

    port: int


@dataclass(frozen=True)
class Outer:
    """All of them."""

    inner: Inner
    names: Mapping[int, str]


def test_a_view_is_filled_from_the_values_of_its_services() -> None:
    values = {"inner": {"port": 1, "unused": 2}, "names": {0: "x"}}
    assert build_view(Outer, values) == Outer(Inner(1), {0: "x"})
