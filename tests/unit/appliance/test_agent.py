"""The whole run on a gateway made of fakes: the real role, the real drop-ins."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path, PurePosixPath

import pytest

from appliance import paths
from appliance.agent import RunResult, describe_readiness, run
from appliance.apply import read_journal
from appliance.errors import (
    AlreadyRunning,
    ConfigurationRefused,
    ContextError,
    FileError,
    NotReady,
    OneGateMalformed,
    OneGateRefused,
    OneGateUnavailable,
    OnekeError,
    ParameterProblems,
    StillDifferent,
    UnitFailed,
    UnknownRole,
)
from appliance.service import Service
from appliance.waiting import Failed, NotYet, Ready
from tests.fakes import Call, FakeOneGate, PowerCut, Tape
from tests.unit.appliance.machine import BOOKKEEPING, HAPROXY, KEEPALIVED, ONE_ENV, Gateway

DOWN = OneGateUnavailable("OneGate GET /vm: http://203.0.113.40:5030: Connection refused")
Disturbance = Callable[[Gateway], None]
TOKEN = "cGxhbnRlZC10b2tlbi0wMQ=="
PASSWORD = "pl4nt3d!"


# --- a run that goes well -------------------------------------------------------------------------


def test_a_first_run_makes_the_machine_a_gateway_and_reports_it() -> None:
    gateway = Gateway()
    result = gateway.run()
    assert result.role == "vnf"
    assert result.readiness == Ready()
    assert result.changes > 0
    assert gateway.units.states[HAPROXY].is_active
    assert gateway.units.states[KEEPALIVED].is_active
    assert not gateway.units.states[KEEPALIVED].is_enabled
    assert gateway.network.settings["net.ipv4.conf.eth0.forwarding"] == "1"
    assert gateway.network.settings["net.ipv4.conf.eth1.forwarding"] == "1"
    assert gateway.network.settings["net.ipv4.conf.default.forwarding"] == "0"
    assert ("ip", "oneke") in gateway.packet_filter.tables
    assert gateway.onegate.own["READY"] == "YES"
    assert gateway.onegate.own["ONEKE_STATE"] == "READY"


def test_a_second_run_changes_nothing_and_sends_nothing() -> None:
    gateway = Gateway()
    gateway.run()
    so_far, asked, shape = len(gateway.tape.changes), gateway.onegate.asked, gateway.shape()
    result = gateway.run()
    assert result.changes == 0
    assert gateway.changes_of_the_machine(so_far) == []
    assert gateway.onegate.asked == asked
    assert gateway.shape() == shape


def test_a_reboot_needs_no_onegate_and_rewrites_no_file() -> None:
    gateway = Gateway()
    gateway.run()
    gateway.restart()
    gateway.onegate.go_down(DOWN)
    so_far = len(gateway.tape.changes)
    result = gateway.run()
    assert result.role == "vnf"
    written = [one for one in gateway.changes_of_the_machine(so_far) if "files.write /etc" in one]
    assert written == []
    assert gateway.units.states[HAPROXY].is_active


def test_a_dry_run_changes_nothing_at_all() -> None:
    gateway = Gateway()
    gateway.run(dry_run=True)
    assert gateway.tape.changes == []
    assert gateway.onegate.updates == []
    assert gateway.commands.ran == []


def _summaries(result: RunResult) -> list[tuple[str, str]]:
    return [
        (action.name, change.summary)
        for outcome in result.outcomes
        for action, change in outcome.changes
    ]


def _nothing(gateway: Gateway) -> None:
    """The machine as it is."""


def _edit_haproxy(gateway: Gateway) -> None:
    gateway.files.put("/etc/haproxy/haproxy.cfg", "edited\n", mode=0o640, group="haproxy")


def _open_haproxy(gateway: Gateway) -> None:
    gateway.files.change_mode("/etc/haproxy/haproxy.cfg", 0o666)


def _open_keepalived(gateway: Gateway) -> None:
    gateway.files.change_mode("/etc/keepalived/keepalived.conf", 0o644)


def _garble_keepalived(gateway: Gateway) -> None:
    gateway.files.put("/etc/keepalived/keepalived.conf", b"\xff\xfe", mode=0o600)


def _stop_haproxy(gateway: Gateway) -> None:
    gateway.units.stop(HAPROXY)


def _disable_keepalived(gateway: Gateway) -> None:
    gateway.units.disable(KEEPALIVED)


def _flush_table(gateway: Gateway) -> None:
    gateway.packet_filter.tables.clear()


def _switch_forwarding_off(gateway: Gateway) -> None:
    gateway.network.write_setting("net.ipv4.ip_forward", "0")


def _switch_forwarding_on(gateway: Gateway) -> None:
    gateway.network.write_setting("net.ipv4.ip_forward", "1")


def _change_context(gateway: Gateway) -> None:
    gateway.set_context(
        ONEAPP_VNF_HAPROXY_LB3_PORT="8080",
        ONEAPP_VNF_NAT4_PORT_FWD0=None,
        ONEAPP_VNF_KEEPALIVED_PRIORITY="150",
    )


def _restart(gateway: Gateway) -> None:
    gateway.restart()


DISTURBANCES: list[Disturbance] = [
    _nothing,
    _edit_haproxy,
    _open_haproxy,
    _open_keepalived,
    _garble_keepalived,
    _stop_haproxy,
    _disable_keepalived,
    _flush_table,
    _switch_forwarding_off,
    _switch_forwarding_on,
    _change_context,
    _restart,
]


@pytest.mark.parametrize("disturb", DISTURBANCES, ids=lambda one: one.__name__.strip("_"))
def test_a_dry_run_foretells_exactly_what_the_run_changes(disturb: Disturbance) -> None:
    gateway = Gateway()
    gateway.run()
    disturb(gateway)
    foretold = _summaries(gateway.run(dry_run=True))
    assert _summaries(gateway.run()) == foretold
    assert gateway.run().changes == 0


def test_a_dry_run_on_a_new_machine_foretells_the_first_run() -> None:
    gateway = Gateway()
    foretold = _summaries(gateway.run(dry_run=True))
    assert foretold
    assert _summaries(gateway.run()) == foretold


@pytest.mark.parametrize("disturb", DISTURBANCES, ids=lambda one: one.__name__.strip("_"))
def test_whatever_was_disturbed_is_as_it_should_be_after_a_run(disturb: Disturbance) -> None:
    other = Gateway()
    other.run()
    if disturb is _change_context:
        _change_context(other)
        other.run()
    gateway = Gateway()
    gateway.run()
    disturb(gateway)
    gateway.run()
    assert gateway.shape() == other.shape()


def test_what_is_switched_off_later_is_taken_back() -> None:
    gateway = Gateway()
    gateway.run()
    gateway.set_context(ONEAPP_VNF_HAPROXY_ENABLED="NO", ONEAPP_VNF_NAT4_ENABLED="NO")
    gateway.run()
    assert not gateway.units.states[HAPROXY].is_active
    assert not gateway.units.states[HAPROXY].is_enabled
    assert gateway.packet_filter.tables == {}
    assert gateway.run().changes == 0


# --- a run that is cut ----------------------------------------------------------------------------


@pytest.mark.parametrize("reboots", [False, True], ids=["killed", "power lost"])
def test_a_run_cut_before_any_one_of_its_changes_is_made_good_by_the_next(reboots: bool) -> None:
    whole = Gateway()
    whole.run()
    for cut_before, change in enumerate(whole.tape.changes):
        if reboots and change.startswith(BOOKKEEPING):
            continue  # they say the same again at the next run
        gateway = Gateway(tape=Tape(cut_before))
        with pytest.raises(PowerCut):
            gateway.run()
        gateway.tape.cut_before = None
        gateway.files.locked.clear()
        if reboots:
            gateway.restart()
        result = gateway.run()
        assert result.readiness == Ready(), f"cut before {change}"
        assert gateway.run(dry_run=True).changes == 0, f"cut before {change}"
        assert gateway.onegate.own["READY"] == "YES"
        if not reboots:
            assert gateway.shape() == whole.shape(), f"cut before {change}"


def test_a_change_of_configuration_cut_anywhere_ends_up_loaded_by_the_daemons() -> None:
    def prepared(cut_before: int | None) -> Gateway:
        gateway = Gateway()
        gateway.run()
        gateway.set_context(ONEAPP_VNF_HAPROXY_LB3_PORT="8080")
        if cut_before is not None:
            gateway.tape.cut_before = len(gateway.tape.changes) + cut_before
        return gateway

    whole = prepared(None)
    before = len(whole.tape.changes)
    whole.run()
    for cut_before in range(len(whole.tape.changes) - before):
        gateway = prepared(cut_before)
        with pytest.raises(PowerCut):
            gateway.run()
        gateway.tape.cut_before = None
        gateway.files.locked.clear()
        gateway.run()
        assert ("10.2.11.86", 8080) in gateway.network.listening(), f"cut before {cut_before}"
        assert gateway.shape() == whole.shape()


def test_the_next_run_says_in_what_the_run_before_was_cut() -> None:
    gateway = Gateway()
    gateway.run()
    start = next(
        number
        for number, change in enumerate(gateway.tape.changes)
        if change == f"units.start {HAPROXY}"
    )
    cut = Gateway(tape=Tape(start))
    with pytest.raises(PowerCut):
        cut.run()
    cut.tape.cut_before = None
    cut.files.locked.clear()
    cut.run()
    assert [HAPROXY in line["reason"] for line in cut.log.find("run.resumed")] == [True]
    events = read_journal(cut.system)
    assert events[-1]["event"] == "run.end"
    assert len({event["run"] for event in events}) == 2


# --- bad input ------------------------------------------------------------------------------------


def test_bad_parameters_are_told_all_at_once_and_nothing_is_configured(
    services: dict[str, Service],
) -> None:
    refused = next(
        entry.name for one in services.values() for entry in one.entries if entry.refused
    )
    gateway = Gateway(
        **{refused: "YES"},
        ONEAPP_VNF_KEEPALIVED_VRID="300",
        ONEAPP_VNF_NAT4_ENABLED="maybe",
        ONEAPP_VNF_HAPROXY_LB1_PORT="0",
        ETH1_GATEWAY="nowhere",
    )
    with pytest.raises(ParameterProblems) as caught:
        gateway.run()
    assert caught.value.exit_code == 78
    assert {problem.key for problem in caught.value.problems} == {
        "ONEAPP_VNF_KEEPALIVED_VRID",
        "ONEAPP_VNF_NAT4_ENABLED",
        refused,
        "ONEAPP_VNF_HAPROXY_LB1_PORT",
        "ETH1_GATEWAY",
    }
    told = "onegate.update ONEKE_AGENT_VERSION ONEKE_ERROR ONEKE_STATE"
    assert gateway.changes_of_the_machine() == [told]
    assert gateway.onegate.own["ONEKE_STATE"] == "FAILED"
    assert "5 parameters are wrong: ETH1_GATEWAY" in str(gateway.onegate.own["ONEKE_ERROR"])
    assert "READY" not in gateway.onegate.own


def test_problems_name_the_file_the_context_was_read_from() -> None:
    gateway = Gateway(ONEAPP_VNF_KEEPALIVED_VRID="300")
    with pytest.raises(ParameterProblems, match=rf"VRID=300: expected .* \({ONE_ENV}\)"):
        gateway.run()


def test_a_dry_run_with_bad_parameters_writes_nothing() -> None:
    gateway = Gateway(ONEAPP_VNF_KEEPALIVED_VRID="300")
    with pytest.raises(ParameterProblems):
        gateway.run(dry_run=True)
    assert gateway.tape.changes == []


def test_a_consequence_of_a_wrong_value_is_not_told_as_a_problem_of_its_own() -> None:
    gateway = Gateway(ONEAPP_VROUTER_ETH0_VIP0="10.2.11.860")
    with pytest.raises(ParameterProblems) as caught:
        gateway.run()
    assert [problem.key for problem in caught.value.problems] == ["ONEAPP_VROUTER_ETH0_VIP0"]


def test_a_malformed_onegate_endpoint_is_named_although_the_role_is_unknown() -> None:
    gateway = Gateway(ONEGATE_ENDPOINT="gopher://203.0.113.40")
    system = replace(gateway.system, onegate=None)
    with pytest.raises(ParameterProblems, match="ONEGATE_ENDPOINT=gopher"):
        run(system, gateway.options, gateway.log, gateway.told.append)
    assert "ONEGATE_ENDPOINT" in gateway.files.text(paths.ISSUE)


@pytest.mark.parametrize(
    ("role", "words"),
    [("butler", "role 'butler'"), (None, "ROLE_NAME")],
)
def test_an_unknown_role_ends_the_run_with_78(role: str | None, words: str) -> None:
    gateway = Gateway()
    gateway.onegate = FakeOneGate(365, {"ROLE_NAME": role} if role else {}, tape=gateway.tape)
    with pytest.raises(UnknownRole, match=words) as caught:
        gateway.run()
    assert caught.value.exit_code == 78
    assert caught.value.hint
    assert gateway.units.states[HAPROXY].active == "inactive"
    assert gateway.onegate.own["ONEKE_STATE"] == "FAILED"


def test_a_role_given_by_hand_is_taken_without_asking_onegate() -> None:
    gateway = Gateway()
    gateway.onegate = FakeOneGate(365, {"ROLE_NAME": "butler"}, tape=gateway.tape)
    assert gateway.run(role="vnf").role == "vnf"


@pytest.mark.parametrize("by_hand", [True, False])
def test_a_role_that_no_handler_exists_for_is_not_kept(by_hand: bool) -> None:
    gateway = Gateway()
    if by_hand:
        with pytest.raises(UnknownRole):
            gateway.run(role="vfn")
    else:
        right = gateway.onegate
        gateway.onegate = FakeOneGate(365, {"ROLE_NAME": "vfn"}, tape=gateway.tape)
        with pytest.raises(UnknownRole):
            gateway.run()
        gateway.onegate = right
    assert gateway.run().role == "vnf"


def test_without_onegate_a_role_by_hand_is_enough() -> None:
    gateway = Gateway(ONEGATE_ENDPOINT=None, TOKENTXT=None)
    system = replace(gateway.system, onegate=None)
    options = replace(gateway.options, role="vnf")
    result = run(system, options, gateway.log, gateway.told.append)
    assert result.readiness == Ready()
    assert gateway.log.find("ready.unreported")


def test_a_missing_context_is_told_on_the_console_too() -> None:
    gateway = Gateway()
    del gateway.files.kept[PurePosixPath(ONE_ENV)]
    gateway.commands.expect(Call(("blkid", "-L", "CONTEXT"), rc=2))
    with pytest.raises(ContextError, match="no context"):
        gateway.run()
    assert "FAILED" in gateway.files.text(paths.ISSUE)
    assert json.loads(gateway.files.text(paths.PROGRESS))["state"] == "FAILED"


def test_a_drop_in_that_is_not_well_formed_is_told_on_the_console_too(tmp_path: Path) -> None:
    gateway = Gateway()
    (tmp_path / "nat4").mkdir()
    (tmp_path / "nat4" / "parameters.yaml").write_text("parameters: [{}]\n")
    gateway.give_folder(tmp_path)
    with pytest.raises(OnekeError, match=r"nat4/parameters\.yaml"):
        gateway.run()
    assert "FAILED" in gateway.files.text(paths.ISSUE)


def test_context_warnings_are_logged_and_part_of_the_result() -> None:
    gateway = Gateway(ONEAPP_VNF_KEEPALIVED_PASWORD="x")
    result = gateway.run()
    assert any("ONEAPP_VNF_KEEPALIVED_PASSWORD?" in warning for warning in result.warnings)
    logged = [line["reason"] for line in gateway.log.find("context.warning")]
    assert set(logged) == set(result.warnings)


# --- OneGate --------------------------------------------------------------------------------------


def test_a_node_that_never_learnt_its_role_says_so_when_onegate_stays_away() -> None:
    gateway = Gateway()
    gateway.onegate.go_down(DOWN)
    with pytest.raises(OneGateUnavailable) as caught:
        gateway.run()
    assert caught.value.exit_code == 75
    assert gateway.units.states[HAPROXY].active == "inactive"
    assert "FAILED" in gateway.files.text(paths.ISSUE)
    assert "Connection refused" in gateway.files.text(paths.MOTD)
    assert json.loads(gateway.files.text(paths.PROGRESS))["state"] == "FAILED"


def test_onegate_that_comes_back_in_time_is_asked_again() -> None:
    gateway = Gateway()
    gateway.onegate.go_down(DOWN)
    gateway.clock.after(300, lambda: gateway.onegate.go_down(None))
    assert gateway.run().role == "vnf"
    assert gateway.onegate.own["READY"] == "YES"


def test_while_onegate_is_awaited_the_console_says_so() -> None:
    gateway = Gateway()
    gateway.onegate.go_down(DOWN)
    seen: list[str] = []

    def look() -> None:
        issue = gateway.files.texts().get(str(paths.ISSUE), "")
        seen.append(issue)
        gateway.onegate.go_down(None)

    gateway.clock.after(120, look)
    gateway.run()
    assert len(seen) == 1
    assert "WAITING" in seen[0]
    assert "OneGate" in seen[0]


def test_an_answer_that_will_not_change_is_not_asked_for_again() -> None:
    gateway = Gateway()
    gateway.onegate.go_down(OneGateRefused("OneGate GET /vm: status 400: no", status=400))
    with pytest.raises(OneGateRefused):
        gateway.run()
    assert gateway.clock.slept == []


def test_a_failed_progress_report_does_not_fail_the_run() -> None:
    gateway = Gateway()
    gateway.onegate.fail(None, OneGateMalformed("no JSON"))
    assert gateway.run().readiness == Ready()
    assert gateway.onegate.own["READY"] == "YES"


def test_ready_is_not_sent_unless_it_is_asked_for() -> None:
    gateway = Gateway(REPORT_READY="NO")
    gateway.run()
    assert "READY" not in gateway.onegate.own
    assert gateway.onegate.own["ONEKE_STATE"] == "READY"


def test_the_copy_of_a_disk_in_another_vm_asks_who_it_is() -> None:
    gateway = Gateway()
    gateway.run()
    gateway.set_context(VMID="366")
    gateway.onegate = FakeOneGate(366, {"ROLE_NAME": "butler"}, tape=gateway.tape)
    with pytest.raises(UnknownRole, match="butler"):
        gateway.run()


# --- what goes wrong on the machine ---------------------------------------------------------------


def test_a_refused_configuration_ends_the_run_before_anything_is_changed() -> None:
    gateway = Gateway()
    said = "[ALERT] (1) : config : parsing [/run/oneke/candidate/haproxy.cfg:7] : unknown keyword"
    gateway.commands.always("haproxy", Call((), 1, stderr=said))
    with pytest.raises(ConfigurationRefused, match="unknown keyword") as caught:
        gateway.run()
    assert caught.value.exit_code == 78
    assert "/run/oneke/candidate" not in str(caught.value)
    assert not [one for one in gateway.tape.changes if "/etc/haproxy" in one or "units." in one]
    assert gateway.packet_filter.tables == {}
    assert str(gateway.onegate.own["ONEKE_ERROR"]).startswith("/etc/haproxy/haproxy.cfg")
    assert not [path for path in gateway.files.texts() if "candidate" in path]


def test_a_daemon_that_does_not_start_is_reported_in_its_own_words() -> None:
    gateway = Gateway()
    gateway.units.fail("start", HAPROXY, "starting\ncannot bind socket (Address already in use)")
    with pytest.raises(UnitFailed, match="Address already in use"):
        gateway.run()
    assert gateway.onegate.own["ONEKE_STATE"] == "FAILED"
    assert "Address already in use" in gateway.files.text(paths.MOTD)
    gateway.units.heal()
    assert gateway.run().readiness == Ready()
    assert gateway.onegate.own["ONEKE_ERROR"] == ""


def test_a_node_that_does_not_get_ready_says_what_is_missing() -> None:
    gateway = Gateway()
    gateway.units.whenever_loaded(KEEPALIVED, lambda: None)
    with pytest.raises(NotReady, match="keepalived has not told its state") as caught:
        gateway.run()
    assert caught.value.exit_code == 75
    assert "READY" not in gateway.onegate.own
    assert "vrrp ETH0" in str(gateway.onegate.own["ONEKE_STEP"])
    assert gateway.onegate.own["ONEKE_STATE"] == "FAILED"


def test_a_full_disk_is_temporary_and_named() -> None:
    gateway = Gateway()
    gateway.files.fail("/etc/keepalived/keepalived.conf", "No space left on device")
    with pytest.raises(FileError, match="No space left on device") as caught:
        gateway.run()
    assert caught.value.exit_code == 75


def test_the_error_of_the_run_is_what_is_raised_although_the_console_can_not_be_told() -> None:
    gateway = Gateway(ONEAPP_VNF_KEEPALIVED_VRID="300")
    gateway.network.break_down()
    with pytest.raises(ParameterProblems):
        gateway.run(role="vnf")


@pytest.mark.parametrize("path", [paths.IDENTITY, paths.JOURNAL, paths.PROGRESS])
@pytest.mark.parametrize("text", [b"\xff\xfe\x00 garbage", b"", b"[1]", b'{"published": 3}', b"{"])
def test_a_broken_file_of_its_own_does_not_stop_a_node(path: PurePosixPath, text: bytes) -> None:
    gateway = Gateway()
    gateway.run()
    gateway.files.put(path, text)
    assert gateway.run().readiness == Ready()
    assert gateway.run().changes == 0


def test_two_runs_at_once_do_not_meddle() -> None:
    gateway = Gateway()
    with gateway.files.lock(paths.LOCK), pytest.raises(AlreadyRunning):
        gateway.run()
    assert [one for one in gateway.tape.changes if not one.startswith(BOOKKEEPING)] == []


def test_a_dry_run_works_while_another_run_holds_the_lock() -> None:
    gateway = Gateway()
    with gateway.files.lock(paths.LOCK):
        gateway.run(dry_run=True)
    assert gateway.tape.changes == []


# --- secrets --------------------------------------------------------------------------------------


def test_no_secret_is_seen_anywhere_over_a_whole_life() -> None:
    gateway = Gateway(TOKENTXT=TOKEN, ONEAPP_VNF_KEEPALIVED_PASSWORD=PASSWORD)
    plan = gateway.run(dry_run=True)
    gateway.run()
    gateway.set_context(
        TOKENTXT=TOKEN,
        ONEAPP_VNF_KEEPALIVED_PASSWORD=f"2{PASSWORD}",
        VROUTER_KEEPALIVED_PASSWORD=f"3{PASSWORD}",
    )
    again = gateway.run(dry_run=True)
    gateway.run()
    gateway.units.fail("reload", KEEPALIVED, "no reason")
    gateway.set_context(TOKENTXT=TOKEN, ONEAPP_VNF_KEEPALIVED_PASSWORD=f"{PASSWORD}\t")
    with pytest.raises(ParameterProblems) as caught:
        gateway.run()
    seen = gateway.everything_written() + repr(plan) + repr(again) + str(caught.value)
    shown = [
        step.change.detail
        for result in (plan, again)
        for outcome in result.outcomes
        for step in outcome.steps
        if step.change
    ]
    assert PASSWORD[:7] in gateway.files.text("/etc/keepalived/keepalived.conf")
    for secret in (TOKEN, PASSWORD, PASSWORD[:-1]):
        assert secret not in "".join(shown)
        assert secret not in gateway.everything_written()
        assert secret not in str(caught.value)
    assert TOKEN not in seen


@pytest.mark.parametrize("path", ["/etc/keepalived/keepalived.conf", str(paths.CONTEXT_IN_FORCE)])
def test_the_files_that_hold_secrets_are_for_root_only(path: str) -> None:
    gateway = Gateway()
    gateway.run()
    kept = gateway.files.kept[PurePosixPath(path)]
    assert (kept.mode, kept.owner) == (0o600, "root")


@pytest.mark.parametrize(
    ("readiness", "words"),
    [
        (Ready(), "ready"),
        (NotYet("the moon"), "not yet: the moon"),
        (Failed("no"), "failed: no"),
    ],
)
def test_readiness_is_described_in_words(readiness: Ready | NotYet | Failed, words: str) -> None:
    assert describe_readiness(readiness) == words


def test_an_effect_that_is_not_there_afterwards_is_an_error() -> None:
    gateway = Gateway()
    write = gateway.network.write_setting

    def stubborn(key: str, value: str) -> None:
        if "nonlocal_bind" not in key:
            write(key, value)

    gateway.network.write_setting = stubborn
    with pytest.raises(StillDifferent, match="kernel settings"):
        gateway.run()
