"""Every action: what it sees, what it does, and that a second look sees nothing more to do."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import PurePosixPath

import pytest

from appliance import paths
from appliance.actions import (
    BeginUnit,
    EnsureSecret,
    Judge,
    Publish,
    RemoveFile,
    ReplaceTable,
    RunUnit,
    StopUnit,
    WriteFile,
)
from appliance.errors import (
    CommandError,
    ConfigurationRefused,
    FileError,
    NotText,
    OneGateRefused,
    OneGateUnavailable,
    StillDifferent,
    UnitFailed,
)
from appliance.networkactions import BringUp, KernelSettings, RuntimeDefaultRoute
from appliance.plan import Action
from appliance.system import System
from appliance.system.network import Route
from appliance.system.units import UnitState
from tests.fakes import (
    Call,
    FakeClock,
    FakeCommands,
    FakeFiles,
    FakeNetwork,
    FakeOneGate,
    FakePacketFilter,
    FakeUnits,
    PowerCut,
    Tape,
    make_link,
    make_system,
)

NOTHING: frozenset[PurePosixPath] = frozenset()
CONF = PurePosixPath("/etc/thing.conf")
UNIT = "thing.service"
RUNNING = UnitState("loaded", "active", "running", "success", "enabled")
STOPPED = UnitState("loaded", "inactive", "dead", "success", "disabled")
RULES = "table ip oneke {\n\tchain x {\n\t}\n}\n"
SECRET = "pl4nt3d-s3cr3t"


def perform(action: Action, system: System) -> None:
    """Do what an action finds to do, and prove that it is done."""
    assert action.check(system, NOTHING) is not None
    action.preflight(system)
    action.apply(system)
    assert action.check(system, NOTHING) is None


# --- all of them ----------------------------------------------------------------------------------

ACTIONS: list[Action] = [
    WriteFile(CONF, "text\n"),
    WriteFile(CONF, "text\n", mode=0o600, owner="haproxy", group="haproxy"),
    EnsureSecret(PurePosixPath("/var/lib/oneke/server-token")),
    RemoveFile(PurePosixPath("/etc/old.conf")),
    KernelSettings((("net.ipv4.ip_forward", "1"), ("net.ipv4.conf.eth0.forwarding", "0"))),
    ReplaceTable("ip", "oneke", RULES),
    ReplaceTable("ip", "foreign", ""),
    RunUnit(UNIT, (PurePosixPath("/etc/old.conf"),)),
    RunUnit(UNIT),
    BeginUnit(UNIT, "settings"),
    BeginUnit("busy.service", "settings"),
    StopUnit("busy.service"),
    Publish((("ONEKE_FOUNDER", "YES"), ("ONEGATE_K8S_MASTER", "172.20.0.101"))),
    BringUp("eth1"),
    RuntimeDefaultRoute(IPv4Address("172.20.0.86"), "eth0"),
]


def a_machine() -> System:
    """A machine that differs from what every action of `ACTIONS` wants."""
    tape = Tape()
    packet_filter = FakePacketFilter(tape=tape)
    packet_filter.tables["ip", "foreign"] = "table ip foreign {\n}\n"
    return make_system(
        tape=tape,
        files=FakeFiles({"/etc/old.conf": "old\n"}, tape=tape),
        units=FakeUnits({UNIT: STOPPED, "busy.service": RUNNING}, tape=tape),
        network=FakeNetwork(
            [make_link("eth0", "172.20.0.101/24"), make_link("eth1", is_up=False)], tape=tape
        ),
        packet_filter=packet_filter,
        onegate=FakeOneGate(101, {"ONEGATE_K8S_MASTER": "172.20.0.7"}, tape=tape),
    )


@pytest.mark.parametrize("action", ACTIONS, ids=repr)
def test_an_action_that_was_carried_out_finds_nothing_more_to_do(action: Action) -> None:
    perform(action, a_machine())


@pytest.mark.parametrize("action", ACTIONS, ids=repr)
def test_looking_changes_nothing(action: Action) -> None:
    system = a_machine()
    action.check(system, NOTHING)
    assert isinstance(system.files, FakeFiles)
    assert system.files.tape.changes == []


@pytest.mark.parametrize("action", ACTIONS, ids=repr)
def test_an_action_cut_at_any_point_is_made_good_by_doing_it_again(action: Action) -> None:
    for cut_before in range(10):
        system = a_machine()
        assert isinstance(system.files, FakeFiles)
        tape = system.files.tape
        tape.cut_before = cut_before
        try:
            action.apply(system)
        except PowerCut:
            tape.cut_before = None
            if action.check(system, NOTHING) is not None:
                action.apply(system)
            assert action.check(system, NOTHING) is None
        else:
            assert cut_before > 0, "it changes something"
            return
    pytest.fail("an action has fewer than ten changes")


@pytest.mark.parametrize("action", ACTIONS, ids=repr)
def test_a_change_is_told_in_one_line(action: Action) -> None:
    change = action.check(a_machine(), NOTHING)
    assert change is not None
    assert change.summary
    assert "\n" not in change.summary + action.name


# --- files ----------------------------------------------------------------------------------------


def test_a_file_that_differs_in_mode_or_owner_only_says_so() -> None:
    files = FakeFiles()
    files.put(CONF, "text\n", mode=0o666, owner="nobody")
    change = WriteFile(CONF, "text\n", mode=0o600).check(make_system(files=files), NOTHING)
    assert change is not None
    assert change.summary == "set 0600 root:root (was 0666 nobody:root)"


def test_the_difference_of_a_file_is_shown() -> None:
    system = make_system(files=FakeFiles({str(CONF): "a\nb\nc\n"}))
    change = WriteFile(CONF, "a\nB\nc\n").check(system, NOTHING)
    assert change is not None
    assert "-b\n+B" in change.detail


@pytest.mark.parametrize("old", [None, "old\n", f"{SECRET}\n"])
def test_a_file_that_may_hold_a_secret_is_not_shown(old: str | None) -> None:
    files = FakeFiles({} if old is None else {str(CONF): old})
    action = WriteFile(CONF, f"password {SECRET}x\n", is_secret=True)
    change = action.check(make_system(files=files), NOTHING)
    assert change is not None
    assert SECRET not in change.detail + change.summary
    assert "not shown" in change.detail


def test_a_file_that_is_no_text_is_written_over() -> None:
    system = make_system(files=FakeFiles({str(CONF): b"\xff\xfe\x00"}))
    perform(WriteFile(CONF, "text\n", judge=None), system)


def test_a_folder_in_the_place_of_a_file_is_an_error_that_names_it() -> None:
    files = FakeFiles()
    files.ensure_folder(CONF)
    with pytest.raises(FileError, match=str(CONF)):
        WriteFile(CONF, "text\n").check(make_system(files=files), NOTHING)


def test_writing_drops_the_memory_of_what_is_loaded_before_it_changes_the_file() -> None:
    tape = Tape()
    files = FakeFiles({str(paths.LOADED_DIR / UNIT): "digest"}, tape=tape)
    system = make_system(files=files)
    WriteFile(CONF, "text\n", loaded_by=(UNIT,)).apply(system)
    assert tape.changes == [f"files.remove {paths.LOADED_DIR / UNIT}", f"files.write {CONF}"]


def test_a_run_cut_between_writing_and_reloading_reloads_the_next_time() -> None:
    tape = Tape()
    files, units = FakeFiles({str(CONF): "one\n"}, tape=tape), FakeUnits({UNIT: RUNNING}, tape=tape)
    system = make_system(files=files, units=units)
    run_unit = RunUnit(UNIT, (CONF,))
    run_unit.apply(system)
    assert run_unit.check(system, NOTHING) is None
    WriteFile(CONF, "two\n", loaded_by=(UNIT,)).apply(system)
    # Cut here; then somebody writes the very text back that the daemon once loaded.
    change = run_unit.check(system, NOTHING)
    assert change is not None
    assert change.summary == "reload"
    WriteFile(CONF, "one\n", loaded_by=(UNIT,)).apply(system)
    assert run_unit.check(system, NOTHING) is not None


def test_a_changed_mode_alone_reloads_nothing() -> None:
    files, units = FakeFiles({str(CONF): "one\n"}), FakeUnits({UNIT: RUNNING})
    system = make_system(files=files, units=units)
    RunUnit(UNIT, (CONF,)).apply(system)
    files.change_mode(CONF, 0o666)
    perform(WriteFile(CONF, "one\n", loaded_by=(UNIT,)), system)
    assert RunUnit(UNIT, (CONF,)).check(system, NOTHING) is None


def test_removing_drops_the_memory_of_what_is_loaded_first() -> None:
    tape = Tape()
    files = FakeFiles({str(CONF): "", str(paths.LOADED_DIR / UNIT): "digest"}, tape=tape)
    RemoveFile(CONF, loaded_by=(UNIT,)).apply(make_system(files=files))
    assert tape.changes == [f"files.remove {paths.LOADED_DIR / UNIT}", f"files.remove {CONF}"]


# --- the judge ------------------------------------------------------------------------------------

JUDGE = Judge(("thingd", "--log={log}", "-c", "{file}", "{log}"), "ONEAPP_THING_*")
CANDIDATE, LOG = "/run/oneke/candidate/thing.conf", "/run/oneke/candidate/thing.conf.log"


def _judged(answer: Call, files: FakeFiles | None = None) -> tuple[System, WriteFile]:
    commands = FakeCommands([answer])
    action = WriteFile(CONF, f"bad {SECRET}\n", is_secret=True, judge=JUDGE)
    return make_system(files=files or FakeFiles(), commands=commands), action


def test_the_judge_sees_a_private_file_that_is_gone_afterwards() -> None:
    seen: list[tuple[str, int]] = []

    class Looking(FakeCommands):
        """Looks at the candidate when it is run."""

        def _answer(self, argv: tuple[str, ...], stdin: str | None) -> Call:
            kept = files.kept[PurePosixPath(argv[-1])]
            seen.append((kept.data.decode(), kept.mode))
            return Call(argv)

    files = FakeFiles()
    judge = Judge(("thingd", "-c", "{file}"), "x")
    system = make_system(files=files, commands=Looking())
    WriteFile(CONF, "text\n", judge=judge).preflight(system)
    assert seen == [("text\n", 0o600)]
    assert files.folders == {paths.CANDIDATE_DIR: 0o700}
    assert files.kept == {}


@pytest.mark.parametrize(
    ("stdout", "stderr", "log", "words"),
    [
        (
            "",
            "[ALERT] (7) : config : parsing [FILE:3] : unknown keyword 'x'",
            "",
            "unknown keyword",
        ),
        ("", "[NOTICE] hello\n[ALERT] bad thing\n[ALERT] Fatal errors found", "", "bad thing"),
        ("", "", "(Line 4) Unknown keyword 'vrr'\n", "Unknown keyword 'vrr'"),
        ("said on stdout", "", "", "said on stdout"),
        ("", "", "", "no reason"),
    ],
)
def test_a_refusal_names_the_reason_and_whom_to_blame(
    stdout: str, stderr: str, log: str, words: str
) -> None:
    argv = ("thingd", "--log={log}", "-c", CANDIDATE, LOG)

    class Logging(FakeCommands):
        """Writes its log."""

        def _answer(self, argv: tuple[str, ...], stdin: str | None) -> Call:
            if log:
                files.put(LOG, log)
            return super()._answer(argv, stdin)

    files = FakeFiles()
    commands = Logging([Call(argv, 1, stdout, stderr.replace("FILE", CANDIDATE))])
    action = WriteFile(CONF, "bad\n", judge=JUDGE)
    with pytest.raises(ConfigurationRefused, match=words) as caught:
        action.preflight(make_system(files=files, commands=commands))
    assert str(CONF) in str(caught.value)
    assert CANDIDATE not in str(caught.value)
    assert "ONEAPP_THING_*" in str(caught.value.hint)
    assert files.kept == {}


def test_the_judge_is_not_asked_about_what_is_there_already() -> None:
    files = FakeFiles({str(CONF): f"bad {SECRET}\n"})
    system, action = _judged(Call(("never",)), files)
    action.preflight(system)
    assert files.tape.changes == []


def test_a_judge_that_can_not_be_run_leaves_no_candidate_behind() -> None:
    argv = ("thingd", "--log={log}", "-c", CANDIDATE, LOG)
    system, action = _judged(Call(argv, rc=None))
    with pytest.raises(CommandError, match="could not be started"):
        action.preflight(system)
    assert isinstance(system.files, FakeFiles)
    assert system.files.kept == {}


# --- kernel settings ------------------------------------------------------------------------------


def test_the_general_switch_is_written_first_and_the_links_are_right_afterwards() -> None:
    network = FakeNetwork([make_link("eth0"), make_link("eth1")])
    network.write_setting("net.ipv4.conf.eth0.forwarding", "1")
    network.write_setting("net.ipv4.conf.default.forwarding", "1")
    network.settings["net.ipv4.ip_forward"] = "1"
    network.tape.changes.clear()
    wanted = (
        ("net.ipv4.ip_forward", "0"),
        ("net.ipv4.conf.default.forwarding", "0"),
        ("net.ipv4.conf.eth0.forwarding", "1"),
        ("net.ipv4.conf.eth1.forwarding", "0"),
    )
    perform(KernelSettings(wanted), make_system(network=network))
    assert network.tape.changes == [
        "network.setting net.ipv4.ip_forward=0",
        "network.setting net.ipv4.conf.eth0.forwarding=1",
    ]


def test_only_the_settings_that_differ_are_shown() -> None:
    network = FakeNetwork([make_link("eth0")], settings={"net.ipv4.ip_nonlocal_bind": "1"})
    wanted = (("net.ipv4.ip_nonlocal_bind", "1"), ("net.ipv4.conf.eth0.forwarding", "1"))
    change = KernelSettings(wanted).check(make_system(network=network), NOTHING)
    assert change is not None
    assert change.detail == "net.ipv4.conf.eth0.forwarding=1 (was 0)"


def test_a_setting_that_the_kernel_does_not_have_is_named_before_anything_is_changed() -> None:
    network = FakeNetwork([make_link("eth0")])
    action = KernelSettings((("net.ipv4.conf.eth7.forwarding", "1"),))
    with pytest.raises(FileError, match="eth7"):
        action.preflight(make_system(network=network))
    assert network.tape.changes == []


# --- the packet filter ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "edited",
    [
        "table ip oneke {\n\tchain x {\n\t\taccept\n\t}\n}\n",
        "table ip oneke {\n}\n",
        None,
    ],
)
def test_an_edit_by_somebody_else_is_noticed_and_put_right(edited: str | None) -> None:
    packet_filter = FakePacketFilter()
    system = make_system(packet_filter=packet_filter)
    action = ReplaceTable("ip", "oneke", RULES)
    perform(action, system)
    packet_filter.tables.clear()
    if edited is not None:
        packet_filter.tables["ip", "oneke"] = edited
    perform(action, system)
    assert packet_filter.tables == {("ip", "oneke"): RULES}


def test_changed_rules_replace_the_table_and_leave_others_alone() -> None:
    packet_filter = FakePacketFilter()
    packet_filter.tables["ip", "filter"] = "table ip filter {\n}\n"
    system = make_system(packet_filter=packet_filter)
    perform(ReplaceTable("ip", "oneke", RULES), system)
    perform(ReplaceTable("ip", "oneke", RULES.replace("x", "y")), system)
    assert set(packet_filter.tables) == {("ip", "filter"), ("ip", "oneke")}
    perform(ReplaceTable("ip", "oneke", ""), system)
    assert set(packet_filter.tables) == {("ip", "filter")}


def test_nft_judges_the_table_before_it_is_loaded() -> None:
    packet_filter = FakePacketFilter()
    packet_filter.refuse("syntax error, unexpected newline")
    with pytest.raises(ConfigurationRefused, match="syntax error") as caught:
        ReplaceTable("ip", "oneke", RULES).preflight(make_system(packet_filter=packet_filter))
    assert caught.value.exit_code == 78


def test_a_table_that_is_loaded_and_not_there_is_an_error() -> None:
    class Forgetful(FakePacketFilter):
        """Loads without effect."""

        def load(self, ruleset: str) -> None:
            """Forget it."""

    with pytest.raises(StillDifferent):
        ReplaceTable("ip", "oneke", RULES).apply(make_system(packet_filter=Forgetful()))


# --- secrets --------------------------------------------------------------------------------------

SECRET_FILE = PurePosixPath("/var/lib/oneke/server-token")


@pytest.mark.parametrize("old", [None, "", " \n"])
def test_a_secret_is_made_up_where_there_is_none(old: str | None) -> None:
    files = FakeFiles({} if old is None else {str(SECRET_FILE): old})
    perform(EnsureSecret(SECRET_FILE), make_system(files=files))
    kept = files.kept[SECRET_FILE]
    assert kept.mode == 0o600
    assert len(kept.data.decode().strip()) == 64


def test_no_two_secrets_are_alike() -> None:
    files = FakeFiles()
    other = PurePosixPath("/var/lib/oneke/agent-token")
    perform(EnsureSecret(SECRET_FILE), make_system(files=files))
    perform(EnsureSecret(other), make_system(files=files))
    assert files.text(SECRET_FILE) != files.text(other)


def test_a_secret_that_is_there_is_kept_and_for_root_only() -> None:
    files = FakeFiles()
    system = make_system(files=files)
    files.put(SECRET_FILE, f"{SECRET}\n", mode=0o600)
    assert EnsureSecret(SECRET_FILE).check(system, NOTHING) is None
    files.put(SECRET_FILE, f"{SECRET}\n", mode=0o644)
    perform(EnsureSecret(SECRET_FILE), system)
    assert files.text(SECRET_FILE) == f"{SECRET}\n"
    assert files.kept[SECRET_FILE].mode == 0o600


def test_a_secret_that_can_not_be_read_is_not_replaced_by_another() -> None:
    files = FakeFiles({str(SECRET_FILE): b"\xff\xfe"})
    with pytest.raises(NotText):
        EnsureSecret(SECRET_FILE).check(make_system(files=files), NOTHING)


def test_a_new_secret_is_not_shown() -> None:
    files = FakeFiles()
    system = make_system(files=files)
    change = EnsureSecret(SECRET_FILE).check(system, NOTHING)
    EnsureSecret(SECRET_FILE).apply(system)
    assert files.text(SECRET_FILE).strip() not in repr((change, EnsureSecret(SECRET_FILE)))


# --- units ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("state", "loaded", "pending", "summary", "done"),
    [
        (RUNNING, True, False, None, []),
        (RUNNING, False, False, "reload", ["reload"]),
        (RUNNING, True, True, "reload", []),
        (STOPPED, True, False, "enable and start", ["enable", "start"]),
        (replace(RUNNING, enabled="disabled"), True, False, "enable", ["enable"]),
        (replace(RUNNING, enabled="static"), True, False, None, []),
        (replace(STOPPED, active="failed", enabled="enabled"), True, False, "start",
         ["reset-failed", "start"]),
        (replace(STOPPED, active="activating", enabled="enabled"), True, False, "start", ["start"]),
        (replace(RUNNING, active="reloading"), True, False, None, []),
    ],
)  # fmt: skip
def test_a_unit_is_brought_into_service_with_what_is_missing_only(
    state: UnitState, loaded: bool, pending: bool, summary: str | None, done: list[str]
) -> None:
    files, units = FakeFiles({str(CONF): "text\n"}), FakeUnits({UNIT: RUNNING})
    system = make_system(files=files, units=units)
    action = RunUnit(UNIT, (CONF,))
    if loaded:
        action.apply(system)
        units.tape.changes.clear()
    units.states[UNIT] = state
    change = action.check(system, frozenset({CONF}) if pending else NOTHING)
    assert (change.summary if change else None) == summary
    if change and not pending:
        units.tape.changes.clear()
        action.apply(system)
        assert units.tape.find("units.") == [f"units.{verb} {UNIT}" for verb in done]
        assert action.check(system, NOTHING) is None


@pytest.mark.parametrize("found", ["two\n", b"\xff\xfe\x00"])
def test_a_file_changed_behind_the_units_back_makes_it_reload(found: str | bytes) -> None:
    files, units = FakeFiles({str(CONF): "one\n"}), FakeUnits({UNIT: RUNNING})
    system = make_system(files=files, units=units)
    action = RunUnit(UNIT, (CONF,))
    action.apply(system)
    files.put(CONF, found)
    change = action.check(system, NOTHING)
    assert change is not None
    assert change.summary == "reload"


@pytest.mark.parametrize("load", ["not-found", "masked"])
def test_a_unit_that_is_missing_or_masked_says_so(load: str) -> None:
    units = FakeUnits({UNIT: replace(STOPPED, load=load)})
    with pytest.raises(StillDifferent, match=load) as caught:
        RunUnit(UNIT).apply(make_system(units=units))
    assert caught.value.hint


@pytest.mark.parametrize(("state", "verb"), [(STOPPED, "start"), (RUNNING, "reload")])
def test_a_unit_that_fails_is_quoted_and_not_taken_for_loaded(state: UnitState, verb: str) -> None:
    files, units = FakeFiles({str(CONF): "x\n"}), FakeUnits({UNIT: state})
    units.fail(verb, UNIT, "hello\n[ALERT] cannot bind socket\n")
    action = RunUnit(UNIT, (CONF,))
    system = make_system(files=files, units=units)
    with pytest.raises(UnitFailed, match=f"did not {verb}: .*cannot bind socket") as caught:
        action.apply(system)
    assert UNIT in str(caught.value.hint)
    assert action.check(system, NOTHING) is not None


@pytest.mark.parametrize(
    ("state", "summary"),
    [
        (RUNNING, "stop and disable"),
        (STOPPED, None),
        (replace(RUNNING, enabled="static"), "stop"),
        (replace(STOPPED, enabled="enabled"), "disable"),
        (replace(STOPPED, active="activating"), "stop"),
        (replace(STOPPED, load="not-found", enabled=""), None),
    ],
)
def test_a_unit_is_taken_out_of_service(state: UnitState, summary: str | None) -> None:
    system = make_system(units=FakeUnits({UNIT: state}))
    change = StopUnit(UNIT).check(system, NOTHING)
    assert (change.summary if change else None) == summary
    if change:
        perform(StopUnit(UNIT), system)


def test_a_unit_that_was_stopped_is_not_remembered_as_loaded() -> None:
    files, units = FakeFiles({str(CONF): "x\n"}), FakeUnits({UNIT: STOPPED})
    system = make_system(files=files, units=units)
    RunUnit(UNIT, (CONF,)).apply(system)
    StopUnit(UNIT).apply(system)
    assert files.kept.keys() == {CONF}


# --- units whose start takes long -----------------------------------------------------------------

COMING = replace(STOPPED, active="activating", sub="start", job="417")


@pytest.mark.parametrize(
    ("state", "begun_with", "summary", "done"),
    [
        (STOPPED, None, "start, without waiting for it", ["start"]),
        (STOPPED, "new", "start, without waiting for it", ["start"]),
        (replace(STOPPED, active="failed"), "new", "start, without waiting for it",
         ["reset-failed", "start"]),
        (replace(STOPPED, result="exec-condition"), "new", "start, without waiting for it",
         ["start"]),
        (replace(STOPPED, job="417"), "new", None, []),
        (COMING, "new", None, []),
        (replace(COMING, sub="auto-restart", job=""), "new", None, []),
        (RUNNING, "new", None, []),
        (replace(RUNNING, active="reloading"), "new", None, []),
        (COMING, "old", "restart, with other settings", ["restart"]),
        (replace(COMING, sub="auto-restart", job=""), "old", "restart, with other settings",
         ["restart"]),
        (RUNNING, "old", "restart, with other settings", ["restart"]),
        (RUNNING, None, "restart, with other settings", ["restart"]),
    ],
)  # fmt: skip
def test_a_unit_is_begun_once_and_anew_with_other_settings(
    state: UnitState, begun_with: str | None, summary: str | None, done: list[str]
) -> None:
    files, units = FakeFiles(), FakeUnits({UNIT: state})
    if begun_with:
        files.put(paths.LOADED_DIR / UNIT, begun_with)
    system = make_system(files=files, units=units)
    action = BeginUnit(UNIT, "new")
    change = action.check(system, NOTHING)
    assert (change.summary if change else None) == summary
    if change:
        perform(action, system)
    assert units.tape.find("units.") == [f"units.{verb} {UNIT}" for verb in done]


@pytest.mark.parametrize("load", ["not-found", "masked"])
def test_a_unit_that_can_not_be_begun_says_so_before_anything_is_changed(load: str) -> None:
    units = FakeUnits({UNIT: replace(STOPPED, load=load)})
    with pytest.raises(StillDifferent, match=load) as caught:
        BeginUnit(UNIT, "settings").preflight(make_system(units=units))
    assert caught.value.hint


@pytest.mark.parametrize(
    "ended",
    [replace(STOPPED, result="exec-condition"), replace(STOPPED, active="failed"), STOPPED],
)
def test_a_unit_that_ends_at_once_was_begun_and_is_begun_again_a_little_later(
    ended: UnitState,
) -> None:
    units, clock = FakeUnits({UNIT: STOPPED}), FakeClock()
    units.whenever_loaded(UNIT, lambda: units.states.update({UNIT: ended}))
    system = make_system(units=units, clock=clock)
    action = BeginUnit(UNIT, "settings")
    perform(action, system)
    clock.pass_time(5)
    assert action.check(system, NOTHING) is not None
    perform(action, system)
    assert len(units.tape.find("units.start")) == 2


def test_after_a_restart_of_the_machine_a_unit_is_begun_whenever_it_was_before() -> None:
    files, units, clock = FakeFiles(), FakeUnits({UNIT: STOPPED}), FakeClock()
    system = make_system(files=files, units=units, clock=clock)
    perform(BeginUnit(UNIT, "settings"), system)
    files.restart()
    units.states[UNIT] = STOPPED
    perform(BeginUnit(UNIT, "settings"), system)


@pytest.mark.parametrize("state", [STOPPED, RUNNING, replace(STOPPED, active="failed")])
def test_a_cut_never_leaves_a_unit_with_settings_it_was_not_begun_with(state: UnitState) -> None:
    """The runner is cut before any of the changes, and run again."""
    for cut_before in range(10):
        tape = Tape(cut_before)
        files = FakeFiles({str(paths.LOADED_DIR / UNIT): "old"}, tape=tape)
        units = FakeUnits({UNIT: state}, tape=tape)
        system = make_system(files=files, units=units)
        action = BeginUnit(UNIT, "new")
        try:
            action.apply(system)
        except PowerCut:
            tape.cut_before = None
            if action.check(system, NOTHING):
                action.apply(system)
        else:
            return
        assert tape.find("units.restart" if state.is_active else "units.start")
        assert files.text(paths.LOADED_DIR / UNIT) == "new"
    pytest.fail("it has fewer than ten changes")


# --- attributes in OneGate ------------------------------------------------------------------------

TOLD = (("ONEGATE_K8S_MASTER", "172.20.0.101"), ("ONEGATE_K8S_TOKEN", f"K10ab::server:{SECRET}"))


def test_what_differs_is_published_in_one_update() -> None:
    onegate = FakeOneGate(101, {"ONEGATE_K8S_MASTER": "172.20.0.101", "READY": "YES"})
    system = make_system(onegate=onegate)
    change = Publish(TOLD).check(system, NOTHING)
    assert change is not None
    assert change.summary == "publish ONEGATE_K8S_TOKEN"
    perform(Publish(TOLD), system)
    assert onegate.updates == [{"ONEGATE_K8S_TOKEN": TOLD[1][1]}]
    assert onegate.own["READY"] == "YES"


def test_a_value_is_taken_back_by_writing_over_it_and_one_that_never_was_needs_nothing() -> None:
    onegate = FakeOneGate(101, {"ONEKE_FOUNDER": "YES"})
    system = make_system(onegate=onegate)
    perform(Publish((("ONEKE_FOUNDER", ""), ("ONEKE_BLOCKED_BY", ""))), system)
    assert onegate.updates == [{"ONEKE_FOUNDER": ""}]


def test_what_a_sibling_made_a_list_is_published_anew() -> None:
    onegate = FakeOneGate(101)
    own = onegate.vms[101]
    onegate.vms[101] = replace(own, attributes={"ONEKE_FOUNDER": ["YES", "YES"]})
    perform(Publish((("ONEKE_FOUNDER", "YES"),)), make_system(onegate=onegate))


def test_without_onegate_there_is_nothing_to_publish() -> None:
    system = make_system()
    assert Publish(TOLD).check(system, NOTHING) is None
    Publish(TOLD).apply(system)


def test_published_secrets_are_shown_nowhere() -> None:
    system = make_system(onegate=FakeOneGate(101))
    action = Publish(TOLD)
    assert SECRET not in repr((action, action.name, action.check(system, NOTHING)))


@pytest.mark.parametrize("value", ["a,b", '"', "READY=YES", "two\nlines"])
def test_what_onegate_would_not_store_is_refused_before_anything_is_changed(value: str) -> None:
    with pytest.raises(OneGateRefused):
        Publish((("ONEKE_STEP", value),)).preflight(make_system())


def test_onegate_that_fails_fails_the_publication() -> None:
    onegate = FakeOneGate(101)
    onegate.go_down(OneGateUnavailable("down"))
    with pytest.raises(OneGateUnavailable):
        Publish(TOLD).check(make_system(onegate=onegate), NOTHING)


# --- links and routes -----------------------------------------------------------------------------


def test_a_link_that_is_not_there_is_named_before_anything_is_changed() -> None:
    with pytest.raises(FileError, match="eth9"):
        BringUp("eth9").preflight(make_system())


@pytest.mark.parametrize(
    ("routes", "is_set"),
    [
        ([], True),
        ([Route("172.20.0.0/24", None, "eth0")], True),
        ([Route("default", IPv4Address("172.20.0.1"), "eth0")], False),
    ],
)
def test_a_first_route_is_set_only_where_there_is_no_default_route(
    routes: list[Route], is_set: bool
) -> None:
    system = make_system(network=FakeNetwork([make_link("eth0")], routes))
    change = RuntimeDefaultRoute(IPv4Address("172.20.0.86"), "eth0").check(system, NOTHING)
    assert (change is not None) == is_set
