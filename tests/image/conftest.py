"""Fixtures of the tests that boot a whole machine; the lab's own serve here as well."""

from __future__ import annotations

import pytest

from tests.image.disk import BootDisk, current_disk
from tests.lab.basics import LabError
from tests.lab.conftest import lab, lab_image, pytest_runtest_makereport

__all__ = ["boot_disk", "lab", "lab_image", "pytest_runtest_makereport"]


@pytest.fixture(scope="session")
def boot_disk() -> BootDisk:
    """The disk that was made of the working tree."""
    try:
        return current_disk()
    except LabError as error:
        pytest.fail(str(error), pytrace=False)
