"""The guard around unit tests: it is loud, and it is there."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Callable

import pytest


@pytest.mark.parametrize(
    "forbidden",
    [
        lambda: subprocess.run(["true"]),
        lambda: subprocess.Popen(["true"]),
        lambda: os.system("true"),
        lambda: socket.socket(),
        lambda: socket.create_connection(("127.0.0.1", 1)),
        lambda: time.sleep(0),
    ],
)
def test_a_unit_test_can_not_reach_the_outside_world(forbidden: Callable[[], object]) -> None:
    with pytest.raises(pytest.fail.Exception, match="a unit test starts no process"):
        try:
            forbidden()
        except Exception:
            pytest.fail("it must not be caught by what catches every error", pytrace=False)
