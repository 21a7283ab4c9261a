"""Commands that an image's build runs: what they see of its environment, and how they are ended."""

from __future__ import annotations

import threading
import time

import pytest

from appliance.errors import CommandError
from appliance.system.commands import RealCommands


def test_a_command_sees_only_what_is_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example:3128")
    monkeypatch.setenv("SECRET", "hidden")
    monkeypatch.delenv("NO_PROXY", raising=False)
    clean = RealCommands().run(["env"]).stdout
    builders = RealCommands(("HTTPS_PROXY", "NO_PROXY")).run(["env"]).stdout
    assert "HTTPS_PROXY" not in clean
    assert "HTTPS_PROXY=http://proxy.example:3128\n" in builders
    assert "NO_PROXY" not in builders
    assert "hidden" not in clean + builders


def test_a_command_of_another_thread_can_be_ended_with_all_it_started() -> None:
    commands = RealCommands()
    errors: list[CommandError] = []

    def run() -> None:
        try:
            commands.run(["bash", "-c", "sleep 300 & wait"], timeout_s=300)
        except CommandError as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    end = time.monotonic() + 60
    while thread.is_alive():
        # It takes a moment until there is something to end.
        commands.end_all()
        thread.join(timeout=0.1)
        assert time.monotonic() < end
    assert [error.rc for error in errors] == [-15]
    commands.end_all()
