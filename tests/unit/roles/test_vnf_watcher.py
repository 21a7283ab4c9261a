"""The daemon that follows OneGate, on a machine made of fakes with a small HAProxy in memory."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import pytest

from appliance.daemon import CycleOutcome, run_daemon
from appliance.errors import (
    OneGateMalformed,
    OneGatePassing,
    OneGateRefused,
    OneGateUnavailable,
    OnekeError,
    SocketError,
)
from appliance.identity import Identity
from appliance.report import Reporter
from appliance.system import System
from appliance.system.signals import Interrupted, Signals
from roles.vnf import haproxy, watcher
from roles.vnf.watcher import BackendsCycle
from tests.contexts import decide_gateway
from tests.fakes.clock import FakeClock
from tests.fakes.files import FakeFiles
from tests.fakes.log import FakeLog
from tests.fakes.machine import make_system
from tests.fakes.onegate import FakeOneGate
from tests.fakes.sockets import FakeSockets
from tests.fakes.units import FakeUnits

GATEWAY_VM = 365
COLUMNS = "# pxname,svname,scur,status,type,check_status,last_chk,addr,"


@dataclass
class FakeHaproxy:
    """HAProxy's runtime socket, as far as the daemon uses it."""

    backends: dict[str, dict[str, dict[str, str]]]
    told: list[str] = field(default_factory=list)
    refuses: str = ""

    def answer(self, question: str) -> str:
        words = question.split()
        if words[:2] == ["show", "stat"]:
            return "\n".join([COLUMNS, *self._rows()]) + "\n"
        if words[:2] == ["show", "backend"]:
            return "\n".join(["# name", *self.backends]) + "\n"
        self.told.append(question)
        if self.refuses and self.refuses in question:
            return "No such server.\n"
        return self._change(words)

    def _rows(self) -> Iterator[str]:
        for name, servers in self.backends.items():
            for server, facts in servers.items():
                values = (facts["sessions"], facts["status"], "2", "L4OK", "", facts["address"])
                yield ",".join((name, server, *values, ""))

    def _change(self, words: list[str]) -> str:
        verb = words[0]
        (where,) = (word for word in words if "/" in word and ":" not in word)
        backend, _, name = where.partition("/")
        servers = self.backends[backend]
        if verb == "add":
            servers[name] = {"address": words[3], "status": "MAINT", "sessions": "0"}
            return "New server registered.\n"
        if verb == "enable":
            servers[name]["status"] = "UP"
        if verb == "set":
            servers[name]["status"] = {"drain": "DRAIN", "maint": "MAINT", "ready": "UP"}[words[4]]
        if verb == "shutdown":
            servers[name]["sessions"] = "0"
        if verb == "del":
            assert servers[name]["status"] == "MAINT"
            if servers[name]["sessions"] != "0":
                return "Server still has connections attached to it, cannot remove it.\n"
            del servers[name]
            return "Server deleted.\n"
        return "\n"


class QuietSignals:
    """Nobody asks for anything, unless told otherwise."""

    def __init__(self, waits: int = 0) -> None:
        self.left = waits
        self.waited: list[float] = []
        self.reload = False

    @property
    def stop_requested(self) -> bool:
        return self.left < 0

    def take_reload(self) -> bool:
        asked, self.reload = self.reload, False
        return asked

    def wait(self, seconds: float) -> None:
        self.waited.append(seconds)
        self.left -= 1

    def interruptible(self) -> AbstractContextManager[None]:
        return nullcontext()


@dataclass
class Stage:
    """A gateway with its surroundings."""

    system: System
    clock: FakeClock
    files: FakeFiles
    onegate: FakeOneGate
    haproxy: FakeHaproxy
    units: FakeUnits
    log: FakeLog
    cycle: BackendsCycle

    def run(self) -> CycleOutcome:
        return self.cycle.run(QuietSignals())

    def look_again(self) -> CycleOutcome:
        self.clock.sleep(60)
        return self.run()

    def servers(self) -> list[str]:
        return sorted(one["address"] for one in self.haproxy.backends["lb3_80"].values())

    def last_cycle(self) -> dict[str, object]:
        document: dict[str, object] = json.loads(self.files.read(watcher.LAST_CYCLE) or "{}")
        return document


def worker(host: str = "172.20.0.110", **changes: str) -> dict[str, str]:
    keys = {"IP": "10.2.11.86", "PORT": "80", "SERVER_HOST": host, "SERVER_PORT": "32080"}
    return {
        "ROLE_NAME": "worker",
        **{f"ONEGATE_HAPROXY_LB3_{key}": value for key, value in {**keys, **changes}.items()},
    }


@pytest.fixture
def stage() -> Stage:
    decided = decide_gateway(ONEAPP_VNF_HAPROXY_ONEGATE_ENABLED="YES")
    names = ("lb0_9345", "lb1_6443", "lb3_80")
    balancer = FakeHaproxy({name: {} for name in names})
    clock, files, units, log = FakeClock(), FakeFiles(), FakeUnits(), FakeLog()
    onegate = FakeOneGate(GATEWAY_VM, {"ROLE_NAME": "vnf"})
    sockets = FakeSockets({str(haproxy.STATS_SOCKET): balancer.answer})
    system = make_system(clock=clock, files=files, units=units, onegate=onegate, sockets=sockets)
    reporter = Reporter(system, Identity(GATEWAY_VM, "vnf"), "vnf", log, lambda line: None)
    cycle = decided.role.make_cycle("backends", system, decided.params, reporter, log)
    assert isinstance(cycle, BackendsCycle)
    return Stage(system, clock, files, onegate, balancer, units, log, cycle)


STATIC = "172.20.0.102:32080"


def test_registered_servers_are_added_and_the_file_follows(stage: Stage) -> None:
    stage.onegate.add_vm(110, worker())
    stage.run()
    assert stage.servers() == [STATIC, "172.20.0.110:32080"]
    text = stage.files.read(haproxy.CONF) or ""
    assert "server lb3_172.20.0.110_32080 172.20.0.110:32080 check" in text
    assert not any("reload" in change for change in stage.units.tape.changes)


def test_one_request_is_one_cycle_and_nothing_changes_twice(stage: Stage) -> None:
    stage.onegate.add_vm(110, worker())
    stage.run()
    asked, told = stage.onegate.asked, len(stage.haproxy.told)
    stage.look_again()
    assert stage.onegate.asked == asked + 1
    assert len(stage.haproxy.told) == told


def test_a_server_that_vanishes_is_drained_and_deleted(stage: Stage) -> None:
    stage.onegate.add_vm(110, worker())
    stage.run()
    stage.onegate.forget(110)
    assert stage.look_again().pause_s <= 5
    stage.run()
    assert stage.servers() == [STATIC]
    assert "172.20.0.110" not in (stage.files.read(haproxy.CONF) or "")


def test_a_server_with_connections_stays_until_they_end(stage: Stage) -> None:
    stage.onegate.add_vm(110, worker())
    stage.run()
    (name,) = (n for n in stage.haproxy.backends["lb3_80"] if "110" in n)
    stage.haproxy.backends["lb3_80"][name]["sessions"] = "2"
    stage.onegate.forget(110)
    outcome = stage.look_again()
    assert stage.haproxy.backends["lb3_80"][name]["status"] == "DRAIN"
    assert outcome.pause_s <= 5
    assert stage.last_cycle()["leaving"] == [f"lb3_80/{name}"]
    stage.haproxy.backends["lb3_80"][name]["sessions"] = "0"
    stage.run()
    assert stage.servers() == [STATIC]


def test_after_ten_minutes_the_sessions_of_a_removed_server_are_closed(stage: Stage) -> None:
    stage.onegate.add_vm(110, worker())
    stage.run()
    (name,) = (n for n in stage.haproxy.backends["lb3_80"] if "110" in n)
    stage.haproxy.backends["lb3_80"][name]["sessions"] = "2"
    stage.onegate.forget(110)
    stage.look_again()
    stage.clock.sleep(599)
    stage.run()
    assert name in stage.haproxy.backends["lb3_80"]
    stage.clock.sleep(2)
    stage.run()
    assert name not in stage.haproxy.backends["lb3_80"]


FAILURES: list[OnekeError] = [
    OneGateUnavailable("OneGate GET /service: http://x: Connection refused"),
    OneGatePassing("OneGate GET /service: status 401: Not authorized", status=401),
    OneGatePassing("OneGate GET /service: status 404: Service 1 not found", status=404),
    OneGateRefused("OneGate GET /service: status 500: Internal server error", status=500),
    OneGateMalformed("OneGate GET /service: the answer is not JSON"),
]


@pytest.mark.parametrize("failure", FAILURES, ids=lambda failure: type(failure).__name__)
def test_onegate_failing_takes_no_server_away_and_is_told(
    stage: Stage, failure: OneGateUnavailable
) -> None:
    stage.onegate.add_vm(110, worker())
    stage.run()
    stage.onegate.go_down(failure)
    for _ in range(5):
        stage.look_again()
    assert stage.servers() == [STATIC, "172.20.0.110:32080"]
    assert stage.last_cycle()["onegate_error"] == str(failure)
    assert len(stage.log.find("onegate.failed")) == 1
    stage.onegate.go_down(None)
    stage.look_again()
    assert stage.last_cycle()["onegate_error"] == ""


def test_what_was_known_last_survives_a_restart_without_onegate(stage: Stage) -> None:
    stage.onegate.add_vm(110, worker())
    stage.run()
    decided = decide_gateway(ONEAPP_VNF_HAPROXY_ONEGATE_ENABLED="YES")
    stage.haproxy.backends["lb3_80"].clear()
    stage.onegate.go_down(FAILURES[0])
    reporter = Reporter(stage.system, Identity(GATEWAY_VM), "vnf", stage.log, lambda line: None)
    fresh = decided.role.make_cycle("backends", stage.system, decided.params, reporter, stage.log)
    fresh.run(QuietSignals())
    assert stage.servers() == [STATIC, "172.20.0.110:32080"]


def test_while_deploying_it_looks_fast_and_while_running_at_the_refresh_rate(
    stage: Stage,
) -> None:
    deploying = stage.run().pause_s
    stage.onegate.state = 2
    running = stage.look_again().pause_s
    assert deploying <= 1.5
    assert running == pytest.approx(30, abs=1)


def test_a_slow_onegate_is_left_alone_for_several_times_as_long(stage: Stage) -> None:
    stage.onegate.state = 2
    stage.onegate.answered = lambda: stage.clock.pass_time(20.0)
    stage.run()
    assert stage.look_again().pause_s >= 60


def test_while_deploying_a_slow_onegate_is_asked_again_within_the_bound(stage: Stage) -> None:
    stage.onegate.answered = lambda: stage.clock.pass_time(4.0)
    assert 1.0 < stage.run().pause_s <= 1.5


def test_a_refused_command_is_an_error_that_names_it(stage: Stage) -> None:
    stage.haproxy.refuses = "enable health"
    with pytest.raises(SocketError, match="HAProxy refuses 'enable health"):
        stage.run()


def test_a_backend_that_haproxy_lacks_is_an_error_that_says_what_helps(stage: Stage) -> None:
    del stage.haproxy.backends["lb1_6443"]
    with pytest.raises(SocketError, match="oneke-agent configure"):
        stage.run()


def test_a_stranger_is_reported_once_and_taken_back_when_it_is_gone(stage: Stage) -> None:
    stage.units.words["keepalived.service"] = (
        "(ETH0) ip address associated with VRID 24 not present in MASTER advert: 10.2.11.86\n"
    )
    stage.run()
    stage.look_again()
    assert "virtual router id 24 on eth0" in str(stage.onegate.own["ONEKE_ERROR"])
    assert stage.log.events().count("vrrp.stranger") == 1
    stage.units.words.clear()
    stage.look_again()
    assert stage.onegate.own["ONEKE_ERROR"] == ""


# ---- The skeleton


class CountingCycle:
    def __init__(self, failures: int = 0) -> None:
        self.runs = 0
        self.failures = failures
        self.told: list[str] = []

    def run(self, signals: Signals) -> CycleOutcome:
        self.runs += 1
        if self.runs <= self.failures:
            raise SocketError("the socket is gone")
        return CycleOutcome(7.0, "fine")

    def failed(self, error: str) -> None:
        self.told.append(error)


def shortest(low: float, high: float) -> float:
    return low


def test_a_daemon_runs_cycles_until_it_is_asked_to_stop() -> None:
    cycle, signals, sockets = CountingCycle(), QuietSignals(waits=2), FakeSockets()
    run_daemon(make_system(sockets=sockets), signals, FakeLog(), lambda: cycle, jitter=shortest)
    assert cycle.runs == 3
    assert signals.waited == [7.0, 7.0, 7.0]
    assert sockets.notified[0] == "READY=1"
    assert sockets.notified[1] == "WATCHDOG=1\nSTATUS=fine"
    assert sockets.notified[-1] == "STOPPING=1"


def test_a_failing_cycle_is_followed_by_others_later_and_later() -> None:
    cycle, signals, log = CountingCycle(failures=6), QuietSignals(waits=6), FakeLog()
    run_daemon(make_system(), signals, log, lambda: cycle, jitter=shortest)
    assert signals.waited == [1.0, 2.0, 4.0, 8.0, 15.0, 15.0, 7.0]
    assert log.events().count("cycle.failed") == 1
    assert cycle.told == ["the socket is gone"] * 6


def test_a_bug_in_a_cycle_does_not_end_the_daemon() -> None:
    class Buggy(CountingCycle):
        def run(self, signals: Signals) -> CycleOutcome:
            self.runs += 1
            if self.runs == 1:
                raise KeyError("oops")
            return CycleOutcome(1.0, "fine")

    cycle = Buggy()
    run_daemon(make_system(), QuietSignals(waits=1), FakeLog(), lambda: cycle, jitter=shortest)
    assert cycle.runs == 2


def test_an_interrupted_look_is_no_failure() -> None:
    class Interrupting(CountingCycle):
        def run(self, signals: Signals) -> CycleOutcome:
            self.runs += 1
            if self.runs == 1:
                raise Interrupted
            return CycleOutcome(1.0, "fine")

    cycle, log = Interrupting(), FakeLog()
    run_daemon(make_system(), QuietSignals(waits=0), log, lambda: cycle, jitter=shortest)
    assert cycle.runs == 2
    assert "cycle.failed" not in log.events()


def test_settings_that_became_bad_leave_the_daemon_with_those_it_had() -> None:
    cycle, signals, log = CountingCycle(), QuietSignals(waits=0), FakeLog()
    signals.reload = True
    made = iter([cycle])

    def begin() -> CountingCycle:
        try:
            return next(made)
        except StopIteration:
            raise OnekeError("the context is gone") from None

    run_daemon(make_system(), signals, log, begin, jitter=shortest)
    assert cycle.runs == 1
    assert "daemon.not_reloaded" in log.events()


def test_a_daemon_needs_a_gateway_that_follows_onegate() -> None:
    decided = decide_gateway(ONEAPP_VNF_HAPROXY_ONEGATE_ENABLED="NO")
    system = make_system()
    reporter = Reporter(system, Identity(), "vnf", FakeLog(), lambda line: None)
    for name in ("backends", "other"):
        with pytest.raises(OnekeError):
            decided.role.make_cycle(name, system, decided.params, reporter, FakeLog())
