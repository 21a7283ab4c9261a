"""Fixtures of the tests that boot nodes, and what is added to the report when one of them fails."""

from __future__ import annotations

from collections.abc import Generator, Iterator

import pytest

from tests.lab.bake import Image, current_image
from tests.lab.basics import LabError, inside_box
from tests.lab.lab import Lab


@pytest.fixture(scope="session")
def lab_image() -> Image:
    """The baked image of the working tree."""
    if not inside_box():
        pytest.fail(
            "tests that boot nodes run in the lab's box only: python3 -m tests.lab bake, then "
            "python3 -m tests.lab box -- .venv/bin/pytest -m lab",
            pytrace=False,
        )
    try:
        return current_image()
    except LabError as error:
        pytest.fail(str(error), pytrace=False)


@pytest.fixture
def lab(lab_image: Image) -> Iterator[Lab]:
    """A lab with its networks and OneGate, and no node yet."""
    with Lab(lab_image) as made:
        yield made


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add the nodes' journals to the report of a failed test."""
    report = yield
    made = getattr(item, "funcargs", {}).get("lab")
    if report.when == "call" and report.failed and isinstance(made, Lab):
        try:
            report.sections.append(("lab", made.diagnose()))
        except Exception as error:
            report.sections.append(("lab", f"nothing could be read of the nodes: {error}"))
    return report
