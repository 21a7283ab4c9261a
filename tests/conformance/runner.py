"""Runs vectors against the adapters, and judges differences by the declared rules."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from appliance.errors import OnekeError
from tests.conformance.areas import AREAS, NOT_APPLYING, NOT_DUE, Area
from tests.conformance.rules import RULES, Rule
from tests.conformance.vectors import Inputs, Vector


class Verdict(Enum):
    """What became of a vector."""

    PASSED = "passed"
    DEVIATING = "deviating"
    FAILED = "failed"


@dataclass(frozen=True)
class Result:
    """The verdict on one vector.

    Attributes:
        rules: Names of the rules that concern it.
        differences: What differs, or what is wrong with a rule, for people.
    """

    vector: Vector
    verdict: Verdict
    rules: tuple[str, ...] = ()
    differences: tuple[str, ...] = ()


@dataclass(frozen=True)
class NoResult:
    """What a decision that ended in one of the agent's own errors came to."""

    reason: str = field(compare=False)


def judge(vector: Vector, area: Area, rules: Iterable[Rule] = RULES) -> Result:
    """Run a vector: it passes, deviates as a rule declares, or fails.

    A rule that concerns a vector which passes is wrong, and the vector fails with its name.
    """
    matching: tuple[str, ...] = ()
    try:
        matching = tuple(
            rule.name
            for rule in rules
            if rule.area == vector.area and rule.predicate(vector.inputs)
        )
        differences = tuple(compare(vector.expected, decide(area, vector.inputs), area))
    except Exception as error:  # an accident, in the agent or in a rule, is a finding
        return Result(vector, Verdict.FAILED, matching, (f"an accident: {error!r}",))
    if not differences:
        wrong = tuple(f"rule {name} concerns this vector, which passes" for name in matching)
        return Result(vector, Verdict.FAILED if wrong else Verdict.PASSED, matching, wrong)
    return Result(vector, Verdict.DEVIATING if matching else Verdict.FAILED, matching, differences)


def decide(area: Area, inputs: Inputs) -> object:
    """Return our decision in a form that compares, or that there is none."""
    try:
        return area.normal(area.decide(inputs))
    except OnekeError as error:
        return NoResult(str(error))


def compare(expected: Mapping[str, Any], ours: object, area: Area) -> Iterator[str]:
    """Yield the differences between what was recorded and our decision."""
    if "error" in expected:
        if not isinstance(ours, NoResult):
            yield f"expected no result ({expected['error'].get('detail')}), decided {shown(ours)}"
    elif isinstance(ours, NoResult):
        yield f"expected a result, refused: {ours.reason}"
    else:
        yield from differences_of(area.normal(expected), ours)


def differences_of(expected: object, ours: object, where: str = "") -> Iterator[str]:
    """Yield where two decisions differ, as paths."""
    if isinstance(expected, Mapping) and isinstance(ours, Mapping):
        for key in sorted({*expected, *ours}):
            path = f"{where}.{key}" if where else str(key)
            if key not in ours:
                yield f"{path}: expected {shown(expected[key])}, decided nothing"
            elif key not in expected:
                yield f"{path}: expected nothing, decided {shown(ours[key])}"
            else:
                yield from differences_of(expected[key], ours[key], path)
    elif expected != ours:
        yield f"{where}: expected {shown(expected)}, decided {shown(ours)}"


def shown(value: object) -> str:
    """Write a value for people."""
    return json.dumps(value, ensure_ascii=False, default=repr)


def run(vectors: Mapping[str, Sequence[Vector]], only: str | None = None) -> list[Result]:
    """Judge every vector of the areas that are due."""
    return [
        judge(vector, AREAS[name])
        for name in AREAS
        if name in vectors and only in (None, name)
        for vector in vectors[name]
    ]


def unknown_areas(vectors: Iterable[str]) -> list[str]:
    """Return the areas nobody has heard of."""
    return sorted(set(vectors) - {*AREAS, *NOT_DUE, *NOT_APPLYING})


def table(results: Sequence[Result], vectors: Mapping[str, Sequence[Vector]]) -> Iterator[str]:
    """Yield the figures, one line an area, rules below."""
    yield f"{'area':24}{'passed':>8}{'deviating':>11}{'failed':>8}"
    for name in [*AREAS, "total"]:
        own = [result for result in results if name in (result.vector.area, "total")]
        if not own:
            continue
        counts = Counter(result.verdict for result in own)
        figures = "".join(
            f"{counts[verdict]:>{width}}"
            for verdict, width in zip(Verdict, (8, 11, 8), strict=True)
        )
        yield f"{name:24}{figures}"
        by_rule = Counter(rule for result in own for rule in result.rules if name != "total")
        for rule, count in sorted(by_rule.items()):
            yield f"    {rule}: {count}"
    for kind, areas in (("not due", NOT_DUE), ("does not apply", NOT_APPLYING)):
        for name, reason in areas.items():
            if name in vectors:
                yield f"{name:24}{len(vectors[name])} vectors, {kind}: {reason}"


def failures(results: Iterable[Result]) -> Iterator[str]:
    """Yield what is to be said about vectors that failed."""
    for result in results:
        if result.verdict is Verdict.FAILED:
            yield f"FAILED {result.vector.vector_id}: {result.vector.name}"
            if result.vector.quirk:
                yield f"    quirk: {result.vector.quirk}"
            yield from (f"    {difference}" for difference in result.differences)
