"""The one API server of a run."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.api.apiserver import ApiServer, running


@pytest.fixture(scope="session")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """A real API server, of the program that KUBE_APISERVER names."""
    program = os.environ.get("KUBE_APISERVER", "")
    if not Path(program).is_file():
        pytest.fail(
            f"KUBE_APISERVER={program}: no such program; tests/api/build.sh FOLDER builds one"
        )
    with running(Path(program), tmp_path_factory.mktemp("api")) as server:
        yield server
