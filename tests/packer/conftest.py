"""What tests of the image share: baked layers, and the wheels that the agent is installed from."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.bake import Cache, Image, bake, fill_wheels, this_release
from tests.lab.basics import REPOSITORY
from tests.lab.conftest import lab, lab_image, pytest_runtest_makereport
from tests.packer.roots import Root

__all__ = ["baked", "lab", "lab_image", "pytest_runtest_makereport", "root", "wheels"]


@pytest.fixture(scope="session")
def baked() -> Image:
    """The image of the working tree, which the lab's nodes boot from too."""
    if os.geteuid() != 0:
        pytest.fail("the image is baked by root only; `pytest -m 'not bake'` leaves this out")
    return bake()


@pytest.fixture(scope="session")
def wheels(baked: Image, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All that 80-agent.sh installs on the baked image, in a folder of that name."""
    folder = tmp_path_factory.mktemp("build") / "wheels"
    folder.mkdir()
    for source in fill_wheels(REPOSITORY, Cache.default(), this_release()):
        for file in source.iterdir():
            shutil.copy(file, folder)
    return folder


@pytest.fixture
def root(baked: Image) -> Iterator[Root]:
    """The baked image to work in; each script begins with it as it was baked."""
    cache = Cache.default()
    held = cache.hold()
    # Not below pytest's folder: that may lie on an overlay, where no other can.
    with tempfile.TemporaryDirectory(dir=cache.root, prefix="root-") as folder:
        yield Root(baked, Path(folder))
    os.close(held)
