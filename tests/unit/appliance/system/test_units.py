"""systemctl's answers as values."""

from __future__ import annotations

from appliance.system.units import RealUnits
from tests.fakes.commands import Call, FakeCommands

PROPERTIES = "--property=LoadState,ActiveState,SubState,Result,UnitFileState,NRestarts,Job"
RUNNING = """\
Job=0
Result=success
NRestarts=2
LoadState=loaded
ActiveState=active
SubState=running
UnitFileState=enabled
"""
MISSING = """\
Job=0
LoadState=not-found
ActiveState=inactive
SubState=dead
UnitFileState=
"""


def test_several_units_are_asked_for_at_once_and_told_apart_by_their_order() -> None:
    argv = ("systemctl", "show", "haproxy.service", "gone.service", PROPERTIES)
    units = RealUnits(FakeCommands([Call(argv, stdout=f"{RUNNING}\n{MISSING}")]))

    found = units.show_all(("haproxy.service", "gone.service"))

    running, missing = found["haproxy.service"], found["gone.service"]
    assert (running.active, running.sub, running.restarts) == ("active", "running", "2")
    assert running.is_enabled
    assert (missing.load, missing.active, missing.enabled) == ("not-found", "inactive", "")


def test_nothing_is_run_where_no_unit_is_asked_for() -> None:
    assert RealUnits(FakeCommands()).show_all(()) == {}
