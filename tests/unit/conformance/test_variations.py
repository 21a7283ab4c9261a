"""Rules hold beyond the vectors: a variation agrees with the oracle, or a rule concerns it."""

from __future__ import annotations

from collections import Counter
from functools import cache

import pytest

from tests.conformance.areas import AREAS
from tests.conformance.runner import Result, Verdict, judge
from tests.conformance.vectors import DEFAULT_FOLDER, Vector, load_vectors
from tests.unit.conformance import oracle
from tests.unit.conformance.variations import variations

_COUNT = 600
_VARIED = tuple(AREAS)
# Servers recorded as whole lines, for they can not be taken apart.
_RECORDED_AS_LINES = ("10.77.1.2 backup", "option srvtcpka")


@cache
def _vectors(area: str) -> list[Vector]:
    return load_vectors(DEFAULT_FOLDER)[area]


def judge_variations(area: str, count: int) -> list[Result]:
    bases = [vector.inputs for vector in _vectors(area)]
    return [
        judge(
            Vector(
                area, "a variation", f"{area}-{number}", inputs, oracle.decide(area, inputs), None
            ),
            AREAS[area],
        )
        for number, inputs in enumerate(variations(area, bases, count))
    ]


@pytest.mark.parametrize("area", _VARIED)
def test_the_oracle_decides_every_vector_as_it_was_recorded(area: str) -> None:
    for vector in _vectors(area):
        decided = oracle.decide(area, vector.inputs)
        assert ("error" in decided) == ("error" in vector.expected), vector.name
        if "error" not in decided:
            normal = AREAS[area].normal
            if any(mark in str(vector.inputs) for mark in _RECORDED_AS_LINES):
                continue
            assert normal(decided) == normal(vector.expected), vector.name


@pytest.mark.parametrize("area", _VARIED)
def test_a_variation_agrees_with_the_oracle_or_falls_under_a_rule_never_both(area: str) -> None:
    results = judge_variations(area, _COUNT)
    wrong = [
        f"{result.vector.inputs}: {result.rules} {result.differences}"
        for result in results
        if result.verdict is Verdict.FAILED
    ]
    assert not wrong, "\n".join(wrong[:5])
    verdicts = Counter(result.verdict for result in results)
    assert verdicts[Verdict.PASSED] > _COUNT / 10
    assert verdicts[Verdict.DEVIATING] > _COUNT / 10
