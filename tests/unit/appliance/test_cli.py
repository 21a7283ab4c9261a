"""The command line: verbs, exit statuses, what is printed where."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

import appliance.system
from appliance import __version__, cli, paths
from appliance.cli import main, make_parser
from appliance.errors import FileError, OneGateUnavailable, OnekeError
from appliance.export import FORMATS
from appliance.opennebula import TEMPLATES
from tests.contexts import GATEWAY
from tests.fakes import FakeOneGate
from tests.unit.appliance.machine import HAPROXY, ONE_ENV, Gateway, write_one_env

VERBS = sorted(make_parser()._subparsers._group_actions[0].choices)
Captured = pytest.CaptureFixture[str]


@pytest.fixture
def context(tmp_path: Path) -> Path:
    """A sound context in a file."""
    file = tmp_path / "one_env"
    file.write_text(write_one_env(GATEWAY), encoding="utf-8")
    return file


@pytest.fixture
def gateway(monkeypatch: pytest.MonkeyPatch) -> Gateway:
    """A gateway that the command line takes for this machine."""
    machine = Gateway()
    monkeypatch.setattr(appliance.system, "real_system", lambda: machine.system)
    return machine


def bad(file: Path, **values: str) -> str:
    """Write a context with something wrong and return its path."""
    file.write_text(write_one_env({**GATEWAY, **values}), encoding="utf-8")
    return str(file)


# --- usage ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["dance"],
        ["configure", "--dance"],
        ["params", "--format", "xml"],
        ["validate", "--context"],
        ["params", "--context", "x"],
    ],
)
def test_wrong_usage_ends_with_64_and_says_how_it_should_be(
    argv: list[str], capsys: Captured
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(argv)
    assert caught.value.code == 64
    out, err = capsys.readouterr()
    assert out == ""
    assert "usage: oneke-agent" in err


def test_the_help_names_every_verb_and_every_exit_status(capsys: Captured) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    out = capsys.readouterr().out
    for verb in VERBS:
        assert re.search(rf"^ +{verb}\b", out, re.MULTILINE), verb
    for status in ("0 ", "64 ", "70 ", "75 ", "78 "):
        assert status in out.partition("exit status:")[2]
    assert {"configure", "plan", "validate", "params", "status", "backends"} <= set(VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_says_what_it_does(verb: str, capsys: Captured) -> None:
    with pytest.raises(SystemExit) as caught:
        main([verb, "--help"])
    assert caught.value.code == 0
    out = capsys.readouterr().out
    assert f"usage: oneke-agent {verb}" in out
    described = out.partition("\n\n")[2].partition("\n\n")[0]
    assert re.match(r"[A-Z].*\.", described, re.DOTALL)


def test_the_version_is_printed(capsys: Captured) -> None:
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out == f"oneke-agent {__version__}\n"


# --- validate -------------------------------------------------------------------------------------


def test_validate_needs_nothing_but_the_file(context: Path, capsys: Captured) -> None:
    assert main(["validate", "--context", str(context)]) == 0
    out, err = capsys.readouterr()
    assert f"{context}: {len(GATEWAY)} variables, sound for" in out
    assert err == ""


def test_validate_takes_a_file_by_a_relative_path(
    context: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(context.parent)
    assert main(["validate", "--context", "one_env", "--role", "vnf"]) == 0
    assert "sound for vnf" in capsys.readouterr().out


def test_validate_tells_every_problem_and_ends_with_78(tmp_path: Path, capsys: Captured) -> None:
    file = bad(tmp_path / "x", ONEAPP_VNF_KEEPALIVED_VRID="300", ONEAPP_VNF_NAT4_ENABLED="perhaps")
    assert main(["validate", "--context", file]) == 78
    out, err = capsys.readouterr()
    assert out == ""
    first, second, hint = err.splitlines()
    assert first.startswith("oneke-agent: ONEAPP_VNF_KEEPALIVED_VRID=300: expected")
    assert second.startswith("oneke-agent: ONEAPP_VNF_NAT4_ENABLED=perhaps: expected YES or NO")
    assert first.endswith(f"({file})")
    assert hint.startswith("hint: ")


def test_validate_warns_and_still_ends_well(tmp_path: Path, capsys: Captured) -> None:
    file = bad(tmp_path / "x", ONEAPP_VNF_KEEPALIVED_PASWORD="pl4nt3d")
    assert main(["validate", "--context", file]) == 0
    out = capsys.readouterr().out
    assert "warning: ONEAPP_VNF_KEEPALIVED_PASWORD" in out
    assert "pl4nt3d" not in out


def test_problems_as_json(tmp_path: Path, capsys: Captured) -> None:
    file = bad(tmp_path / "x", ONEAPP_VNF_KEEPALIVED_VRID="300")
    assert main(["validate", "--context", file, "--json"]) == 78
    document = json.loads(capsys.readouterr().out)
    assert document["kind"] == "ParameterProblems"
    assert document["hint"]
    (problem,) = document["problems"]
    assert problem["key"] == "ONEAPP_VNF_KEEPALIVED_VRID"
    assert problem["found"] == "300"
    assert problem["source"] == file


def test_a_sound_context_as_json(context: Path, capsys: Captured) -> None:
    assert main(["validate", "--context", str(context), "--role", "vnf", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["context"] == str(context)
    assert document["roles"] == ["vnf"]
    assert document["warnings"] == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "no such file"),
        (b"", "found nothing"),
        (b"hello\n", "expected NAME='value'"),
        (b"\xff\xfe", "not UTF-8"),
        (b'export A="say "hi""\n', "unprotected quote"),
    ],
)
@pytest.mark.parametrize("as_json", [False, True])
def test_what_is_no_context_ends_with_78(
    tmp_path: Path, capsys: Captured, text: bytes | None, words: str, as_json: bool
) -> None:
    file = tmp_path / "x"
    if text is not None:
        file.write_bytes(text)
    assert main(["validate", "--context", str(file), *(["--json"] if as_json else [])]) == 78
    out, err = capsys.readouterr()
    said = json.loads(out)["error"] if as_json else err
    assert words in said
    assert str(file) in said


def test_an_unknown_role_ends_with_78(context: Path, capsys: Captured) -> None:
    assert main(["validate", "--context", str(context), "--role", "butler"]) == 78
    assert "role 'butler'" in capsys.readouterr().err


# --- params ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["text", "markdown", "oneflow", "json"])
def test_parameters_are_listed_in_every_form(form: str, capsys: Captured) -> None:
    assert main(["params", "--format", form]) == 0
    assert "ONEAPP_VNF_KEEPALIVED_VRID" in capsys.readouterr().out


@pytest.mark.parametrize("flavor", ["ce", "ee"])
def test_templates_name_the_image_of_the_flavor(flavor: str, capsys: Captured) -> None:
    argv = ["params", "--format", "vm-template", "--role", "vnf", "--flavor", flavor]
    assert main(argv) == 0
    assert f'IMAGE = "OneKE 1.35 {flavor.upper()} OS disk"' in capsys.readouterr().out


def test_a_vm_template_is_of_one_role(capsys: Captured) -> None:
    assert main(["params", "--format", "vm-template"]) == 78
    assert "no role was given: expected one of vnf, master" in capsys.readouterr().err


def test_every_form_of_template_is_offered() -> None:
    assert {*FORMATS, *TEMPLATES} == set(cli._FORMATS)


# --- configure, plan, status ----------------------------------------------------------------------


def test_configure_converges_and_says_how_much_it_changed(
    gateway: Gateway, capsys: Captured
) -> None:
    assert main(["configure"]) == 0
    out = capsys.readouterr().out
    assert "OneKE vnf: READY" in out
    assert re.search(r"^vnf: \d+ changes; ready$", out, re.MULTILINE)
    assert gateway.units.states[HAPROXY].is_active
    assert main(["configure"]) == 0
    assert "vnf: 0 changes; ready" in capsys.readouterr().out


@pytest.mark.parametrize("argv", [["plan"], ["configure", "--dry-run"]])
def test_a_dry_run_shows_differences_and_changes_nothing(
    gateway: Gateway, capsys: Captured, argv: list[str]
) -> None:
    assert main(argv) == 0
    out = capsys.readouterr().out
    assert "~ file /etc/haproxy/haproxy.cfg: write, new, 0640" in out
    assert "changes to make; nothing was changed" in out
    assert GATEWAY["ONEAPP_VNF_KEEPALIVED_PASSWORD"][:8] not in out
    assert gateway.tape.changes == []


def test_a_plan_shows_what_is_so_already_and_a_dry_run_does_not(
    gateway: Gateway, capsys: Captured
) -> None:
    main(["configure"])
    capsys.readouterr()
    assert main(["plan"]) == 0
    assert "= file /etc/haproxy/haproxy.cfg" in capsys.readouterr().out
    assert main(["configure", "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "= file" not in out
    assert "0 changes to make" in out
    assert gateway.run().changes == 0


def test_a_run_as_json_is_one_document(gateway: Gateway, capsys: Captured) -> None:
    assert main(["configure", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["role"], document["dry_run"], document["readiness"]) == ("vnf", False, "ready")
    assert [stage["stage"] for stage in document["stages"]] == ["configure", "bootstrap"]
    shown = [action for stage in document["stages"] for action in stage["actions"]]
    assert document["changes"] == sum(action["change"] is not None for action in shown)
    assert GATEWAY["ONEAPP_VNF_KEEPALIVED_PASSWORD"][:8] not in json.dumps(document)
    assert gateway.run().changes == 0


@pytest.mark.parametrize("as_json", [False, True])
def test_temporary_trouble_ends_with_75(gateway: Gateway, capsys: Captured, as_json: bool) -> None:
    gateway.onegate.go_down(OneGateUnavailable("OneGate GET /vm: refused"))
    assert main(["configure", *(["--json"] if as_json else [])]) == 75
    out, err = capsys.readouterr()
    if as_json:
        assert json.loads(out) == {
            "error": "OneGate GET /vm: refused",
            "kind": "OneGateUnavailable",
            "hint": None,
            "problems": [],
        }
    else:
        assert "oneke-agent: OneGate GET /vm: refused" in err


def test_wrong_parameters_end_with_78(gateway: Gateway, capsys: Captured) -> None:
    gateway.set_context(ONEAPP_VNF_KEEPALIVED_VRID="300")
    assert main(["configure"]) == 78
    assert "ONEAPP_VNF_KEEPALIVED_VRID=300" in capsys.readouterr().err


def test_a_run_beside_another_ends_with_75(gateway: Gateway, capsys: Captured) -> None:
    with gateway.files.lock(paths.LOCK):
        assert main(["configure"]) == 75
    assert "held" in capsys.readouterr().err


def test_the_status_of_a_node_that_is_well(gateway: Gateway, capsys: Captured) -> None:
    main(["configure"])
    capsys.readouterr()
    before = list(gateway.tape.changes)
    assert main(["status"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"^ +role +vnf$", out, re.MULTILINE)
    assert re.search(r"^ +vm +365$", out, re.MULTILINE)
    assert re.search(r"^ +last run +READY", out, re.MULTILINE)
    assert not re.search(r"^!", out, re.MULTILINE)
    assert main(["status", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["vm_id"], document["role"], document["is_well"]) == (365, "vnf", True)
    assert gateway.tape.changes == before
    for secret in (GATEWAY["TOKENTXT"], GATEWAY["ONEAPP_VNF_KEEPALIVED_PASSWORD"][:8]):
        assert secret not in out + json.dumps(document)


def test_the_status_of_a_node_with_trouble_marks_it(gateway: Gateway, capsys: Captured) -> None:
    main(["configure"])
    gateway.units.stop(HAPROXY)
    capsys.readouterr()
    assert main(["status"]) != 0
    assert re.search(r"^! +haproxy +not running", capsys.readouterr().out, re.MULTILINE)


@pytest.mark.parametrize(
    ("prepare", "words"),
    [
        (lambda gateway: None, "role is not known yet"),
        (lambda gateway: gateway.files.put(ONE_ENV, "hello"), "expected export"),
        (lambda gateway: gateway.files.put(paths.PROGRESS, b"\xff"), "role is not known yet"),
        (lambda gateway: gateway.files.put(paths.PROGRESS, "[]"), "role is not known yet"),
        (lambda gateway: gateway.files.put(paths.IDENTITY, b"\xff"), "role is not known yet"),
    ],
)
def test_the_status_of_a_node_that_never_ran_says_so(
    gateway: Gateway, capsys: Captured, prepare: object, words: str
) -> None:
    assert callable(prepare)
    prepare(gateway)
    assert main(["status"]) != 0
    assert words in capsys.readouterr().out


def test_the_status_asks_nobody_outside(gateway: Gateway, capsys: Captured) -> None:
    main(["configure"])
    gateway.onegate = FakeOneGate(365)
    assert main(["status"]) == 0
    assert gateway.onegate.asked == 0
    assert "365" in capsys.readouterr().out


def test_the_status_without_privileges_ends_with_75(gateway: Gateway, capsys: Captured) -> None:
    gateway.files.fail(paths.IDENTITY, "Permission denied")
    assert main(["status"]) == 75
    assert "Permission denied" in capsys.readouterr().err


# --- whatever a verb ends with --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (FileError("disk full", hint="make room"), 75, "oneke-agent: disk full\nhint: make room"),
        (OnekeError("inside"), 70, "oneke-agent: inside"),
        (KeyError("x"), 70, "a bug in the agent (KeyError); please report it"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (BrokenPipeError(), 0, ""),
    ],
)
def test_an_error_becomes_an_exit_status_and_plain_words(
    monkeypatch: pytest.MonkeyPatch,
    capsys: Captured,
    error: BaseException,
    status: int,
    words: str,
) -> None:
    def fail(arguments: object) -> int:
        raise error

    monkeypatch.setattr(cli, "_params", fail)
    assert main(["params"]) == status
    assert words in capsys.readouterr().err
