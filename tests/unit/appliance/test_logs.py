"""Log lines: one each, data in keys, JSON where nobody reads."""

from __future__ import annotations

import io
import json

from appliance.logs import make_logger
from appliance.secret import Secret


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        """Say so."""
        return True


def test_lines_for_the_journal_are_json() -> None:
    out = io.StringIO()
    log = make_logger(out).bind(vm_id=7)
    log.info("file.written", path="/etc/x")
    log.warning("wait.reason", reason="line one\nline two")
    first, second = (json.loads(line) for line in out.getvalue().splitlines())
    assert (first["event"], first["level"], first["vm_id"]) == ("file.written", "info", 7)
    assert first["timestamp"].endswith("Z")
    assert second["reason"] == "line one\nline two"


def test_lines_for_a_terminal_are_readable() -> None:
    out = Terminal()
    make_logger(out).error("run.failed", reason="x")
    assert "run.failed" in out.getvalue()
    assert not out.getvalue().startswith("{")


def test_a_secret_is_masked_in_either_form() -> None:
    for out in (io.StringIO(), Terminal()):
        make_logger(out).info("x", password=Secret("pl4nt3d"), more={"it": Secret("pl4nt3d")})
        assert "***" in out.getvalue()
        assert "pl4nt3d" not in out.getvalue()
