"""What the outside is told: nothing twice, READY until it arrives, no secrets, no storm."""

from __future__ import annotations

import json

import pytest

from appliance import __version__, paths
from appliance.errors import OneGateRefused, OneGateUnavailable
from appliance.identity import Identity, read_identity
from appliance.report import CONFIGURING, WAITING, Reporter
from tests.fakes import (
    FakeClock,
    FakeFiles,
    FakeLog,
    FakeNetwork,
    FakeOneGate,
    make_link,
    make_system,
)

DOWN = OneGateUnavailable("refused")


class Desk:
    """A reporter with all that it reports to."""

    def __init__(self, identity: Identity | None = None, *, with_onegate: bool = True) -> None:
        """Report for VM 7."""
        self.files, self.clock, self.log = FakeFiles(), FakeClock(), FakeLog()
        self.onegate = FakeOneGate(7)
        self.told: list[str] = []
        self.system = make_system(
            files=self.files,
            clock=self.clock,
            network=FakeNetwork(
                [
                    make_link("lo", "127.0.0.1/8"),
                    make_link("eth0", "10.0.0.7/24"),
                    make_link("eth1"),
                ]
            ),
            onegate=self.onegate if with_onegate else None,
        )
        self.identity = identity or Identity(7, "vnf")
        self.reporter = self.new()

    def new(self) -> Reporter:
        """Return the reporter of another run."""
        identity = read_identity(self.system, 7) if self.files.kept else self.identity
        return Reporter(self.system, identity, "vnf", self.log, self.told.append)


@pytest.fixture
def desk() -> Desk:
    return Desk()


def test_progress_is_told_in_all_places(desk: Desk) -> None:
    desk.reporter.progress(WAITING, "the other gateway")
    assert desk.told == ["OneKE vnf: WAITING: the other gateway"]
    assert desk.onegate.own == {
        "ONEKE_STATE": "WAITING",
        "ONEKE_STEP": "the other gateway",
        "ONEKE_ERROR": "",
        "ONEKE_AGENT_VERSION": __version__,
    }
    progress = json.loads(desk.files.text(paths.PROGRESS))
    assert (progress["state"], progress["step"], progress["error"]) == (
        "WAITING",
        "the other gateway",
        "",
    )
    for console in (paths.ISSUE, paths.MOTD):
        assert desk.files.text(console).startswith(desk.told[0])
        assert "eth0 10.0.0.7/24" in desk.files.text(console)
        assert "127.0.0.1" not in desk.files.text(console)
    assert "oneke-agent status" in desk.files.text(paths.MOTD)


def test_what_is_stored_already_is_not_sent_again(desk: Desk) -> None:
    desk.reporter.progress(WAITING, "a")
    desk.reporter.progress(WAITING, "a")
    assert desk.onegate.asked == 1
    desk.reporter.progress(WAITING, "b")
    assert desk.onegate.updates[1] == {"ONEKE_STEP": "b"}
    desk.new().progress(WAITING, "b")
    assert desk.onegate.asked == 2


def test_where_there_is_no_time_for_onegate_progress_is_told_here(desk: Desk) -> None:
    desk.reporter.progress(WAITING, "a", only_here=True)
    assert desk.onegate.asked == 0
    assert desk.told[-1].endswith("WAITING: a")


def test_a_failure_is_told_readably_and_cut(desk: Desk) -> None:
    desk.reporter.failed('A=1: expected [x, y], not "READY=YES"\nand ' + "z" * 300)
    error = str(desk.onegate.own["ONEKE_ERROR"])
    assert error.startswith("A:1: expected (x; y); not 'READY:YES' and zzz")
    assert len(error) <= 200
    assert desk.onegate.own["ONEKE_STATE"] == "FAILED"


def test_a_new_start_takes_the_old_failure_back(desk: Desk) -> None:
    desk.reporter.failed("the moon")
    desk.new().progress(CONFIGURING, "1 of 2 to do")
    assert desk.onegate.own["ONEKE_ERROR"] == ""
    assert desk.onegate.own["ONEKE_STATE"] == "CONFIGURING"


def test_a_backslash_does_not_start_an_escape_on_the_console(desk: Desk) -> None:
    desk.reporter.failed(r"bad \e{red} value")
    assert "\\" not in desk.files.text(paths.ISSUE)


def test_onegate_is_left_alone_for_a_minute_after_a_failure(desk: Desk) -> None:
    desk.onegate.go_down(DOWN)
    for number in range(30):
        desk.reporter.progress(WAITING, f"step {number}")
        desk.clock.pass_time(1)
    assert desk.onegate.asked == 1
    assert desk.log.events() == ["progress.unpublished"]
    desk.clock.pass_time(31)
    desk.onegate.go_down(None)
    desk.reporter.progress(WAITING, "last")
    assert desk.onegate.own["ONEKE_STEP"] == "last"


def test_a_console_that_can_not_be_written_does_not_stop_the_run(desk: Desk) -> None:
    desk.files.fail(paths.ISSUE, "Read-only file system")
    desk.reporter.progress(WAITING, "a")
    assert desk.onegate.own["ONEKE_STEP"] == "a"
    assert desk.log.events() == ["progress.unwritten"]


# --- READY ----------------------------------------------------------------------------------------


def test_ready_is_sent_once_with_the_rest(desk: Desk) -> None:
    desk.reporter.ready(report_ready=True)
    assert len(desk.onegate.updates) == 1
    assert desk.onegate.own["READY"] == "YES"
    assert desk.onegate.own["ONEKE_STATE"] == "READY"
    assert read_identity(desk.system, 7).published["READY"] == "YES"


def test_ready_that_arrived_at_an_earlier_boot_is_not_sent_again(desk: Desk) -> None:
    desk.reporter.ready(report_ready=True)
    desk.onegate.go_down(DOWN)
    reporter = desk.new()
    reporter.progress(CONFIGURING, "x")
    reporter.ready(report_ready=True)
    assert desk.clock.slept == []


def test_ready_is_tried_again_until_it_arrives(desk: Desk) -> None:
    desk.onegate.go_down(DOWN)
    desk.clock.after(200, lambda: desk.onegate.go_down(None))
    desk.reporter.ready(report_ready=True)
    assert desk.onegate.own["READY"] == "YES"
    assert desk.onegate.asked > 3


def test_ready_is_not_held_back_by_the_quiet_minute(desk: Desk) -> None:
    desk.onegate.fail(DOWN)
    desk.reporter.progress(WAITING, "a")
    desk.reporter.ready(report_ready=True)
    assert desk.onegate.own["READY"] == "YES"
    assert desk.clock.slept == []


def test_ready_that_never_arrives_is_an_error_in_the_end(desk: Desk) -> None:
    desk.onegate.go_down(DOWN)
    begun = desk.clock.monotonic()
    with pytest.raises(OneGateUnavailable):
        desk.reporter.ready(report_ready=True)
    assert desk.clock.monotonic() - begun <= 600
    assert "READY" not in read_identity(desk.system, 7).published


def test_ready_that_is_refused_is_an_error_at_once(desk: Desk) -> None:
    desk.onegate.go_down(OneGateRefused("no", status=403))
    with pytest.raises(OneGateRefused):
        desk.reporter.ready(report_ready=True)
    assert desk.clock.slept == []


def test_ready_without_being_asked_for_is_worth_one_try(desk: Desk) -> None:
    desk.onegate.go_down(DOWN)
    desk.reporter.ready(report_ready=False)
    assert desk.onegate.asked == 1
    assert desk.clock.slept == []


def test_ready_without_onegate_is_logged() -> None:
    desk = Desk(with_onegate=False)
    desk.reporter.ready(report_ready=True)
    assert desk.log.events() == ["ready.unreported"]
    assert desk.told == ["OneKE vnf: READY: the node does its job"]
