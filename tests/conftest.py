"""What all tests share: the guard around unit tests, a machine of fakes, the packaged drop-ins."""

from __future__ import annotations

import gc
import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest
from hypothesis import HealthCheck, settings

from appliance import paths
from appliance.service import Service, load_services
from appliance.system import System
from tests.fakes import FakeCommands, make_system

# How fast cases are made depends on the machine, not on what they are to show. They are the same in
# every run, so that what passed here passes elsewhere; ONEKE_EXPLORE=1 makes up others.
settings.register_profile(
    "any-machine",
    deadline=None,
    derandomize=not os.environ.get("ONEKE_EXPLORE"),
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("any-machine")

_UNIT = Path(__file__).parent / "unit"
# The tests of the lab's own tools start what they are tools for.
_UNGUARDED = (_UNIT / "lab", _UNIT / "lab_tools")
_FORBIDDEN: tuple[tuple[Any, str], ...] = (
    (subprocess.Popen, "__init__"),
    (os, "system"),
    (os, "fork"),
    (os, "posix_spawn"),
    (socket.socket, "__init__"),
    (time, "sleep"),
)


def _refuse(name: str) -> Callable[..., NoReturn]:
    def refuse(*args: object, **kwargs: object) -> NoReturn:
        pytest.fail(f"a unit test starts no process, opens no socket and does not sleep: {name}")

    return refuse


@pytest.fixture(autouse=True)
def no_outside_world(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail a unit test that starts a process, opens a socket or sleeps."""
    path = request.node.path
    is_guarded = path.is_relative_to(_UNIT) and not any(map(path.is_relative_to, _UNGUARDED))
    if is_guarded:
        for owner, name in _FORBIDDEN:
            monkeypatch.setattr(owner, name, _refuse(f"{owner.__name__}.{name}"))


@pytest.fixture
def no_collection() -> Iterator[None]:
    """Collect no garbage meanwhile: a finalizer fails where nesting has left it no stack."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.fixture
def commands() -> Iterator[FakeCommands]:
    """Commands whose script has to be empty at the end of the test."""
    scripted = FakeCommands()
    yield scripted
    scripted.assert_done()


@pytest.fixture
def system(commands: FakeCommands) -> System:
    """A machine of fakes with nothing on it."""
    return make_system(commands=commands)


@pytest.fixture(scope="session")
def services() -> dict[str, Service]:
    """The packaged drop-ins."""
    return load_services((paths.packaged_services(),))
