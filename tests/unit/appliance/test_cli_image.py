"""`oneke-agent install` and `check image`: what they print, and the status they end with."""

from __future__ import annotations

import json
from pathlib import Path, PurePosixPath

import pytest

import appliance.system
from appliance import paths
from appliance.cli import main
from appliance.errors import CommandError
from appliance.lock import FILE, Lock, parse_lock, render_lock
from appliance.service import load_services
from appliance.system import System
from tests.fakes import Call, FakeCommands, FakeFiles, make_system
from tests.fakes.artifacts import FakeDownloads, FakeRegistry, archive_of, sum_of

Captured = pytest.CaptureFixture[str]

SERVICES = load_services((paths.packaged_services(),))
CHECKED_IN = parse_lock((paths.packaged_services() / FILE).read_text(), FILE)
PROGRAMS = archive_of(
    {"bin/rke2": "rke2", "linux-amd64/helm": "helm", "linux-arm64/helm": "helm of the other"}
)


class Machine:
    """A machine of fakes that the command line runs on."""

    def __init__(self) -> None:
        self.files = FakeFiles()
        self.commands = FakeCommands()
        self.downloads, self.registry = FakeDownloads(self.files), FakeRegistry(self.files)

    def system(self, **given: object) -> System:
        """Return it, whoever watches."""
        return make_system(
            files=self.files,
            commands=self.commands,
            downloads=self.downloads,
            registry=self.registry,
        )

    def publish(self) -> None:
        """Have everything published that drop-ins name, for one flavor's sake in short."""
        for pins in CHECKED_IN.files.values():
            for pin in pins.values():
                self.downloads.served[pin.url] = PROGRAMS
        for service in SERVICES.values():
            if service.component and service.component.chart:
                chart = service.component.chart
                url = f"https://charts.example/{chart.name}.tgz"
                self.downloads.served[url] = chart.name
                entry = {
                    "version": CHECKED_IN.releases[chart.name],
                    "urls": [url],
                    "digest": sum_of(chart.name),
                }
                index = json.dumps({"entries": {chart.name: [entry]}})
                self.downloads.served[f"{chart.repo.rstrip('/')}/index.yaml"] = index


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    """The machine that the command line finds."""
    machine = Machine()
    monkeypatch.setattr(appliance.system, "real_system", machine.system)
    return machine


@pytest.fixture
def lock(machine: Machine, tmp_path: Path) -> Path:
    """A lock that is filled for flavor CE."""
    machine.publish()
    path = tmp_path / "lock.yaml"
    files = {
        name: {arch: type(pin)(pin.url, sum_of(PROGRAMS)) for arch, pin in pins.items()}
        for name, pins in CHECKED_IN.files.items()
    }
    path.write_text(render_lock(Lock(releases=CHECKED_IN.releases, files=files)))
    assert main(["install", "--lock", "--lock-file", str(path)]) == 75
    path.write_text(machine.files.text(str(path)))
    return path


def test_a_flavor_is_needed_to_install(machine: Machine, capsys: Captured) -> None:
    assert main(["install"]) == 64
    assert "--flavor ce or --flavor ee is needed" in capsys.readouterr().err
    assert machine.files.tape.changes == []


@pytest.mark.parametrize("argv", [["--flavor", "xe"], ["--arch", "vax"], ["--lock", "FILE"]])
def test_what_is_no_flavor_or_machine_is_wrong_usage(argv: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["install", *argv])
    assert ended.value.code == 64


def test_a_source_of_another_form_is_refused(machine: Machine, capsys: Captured) -> None:
    assert main(["install", "--flavor", "ce", "--source", "github.com"]) == 78
    err = capsys.readouterr().err
    assert "expected PREFIX=ADDRESS" in err
    assert "hint: credentials belong into ~/.netrc" in err


def test_a_lock_that_is_not_filled_is_refused_with_every_gap_and_one_hint(
    machine: Machine, capsys: Captured, tmp_path: Path
) -> None:
    path = tmp_path / "lock.yaml"
    path.write_text(render_lock(CHECKED_IN))
    empty = [name for name, pins in CHECKED_IN.files.items() if not pins["amd64"].sha256]
    if not empty:
        pytest.fail("the lock that is checked in is filled: this test needs one that is not")
    assert main(["install", "--flavor", "ee", "--arch", "amd64", "--lock-file", str(path)]) == 78
    err = capsys.readouterr().err
    for name in empty:
        assert f"oneke-agent: {name} for amd64: the lock has no sha256 (see https://" in err
    assert err.count("hint: ") == 1
    assert machine.files.tape.changes == []


@pytest.mark.parametrize("verb", [["install", "--flavor", "ce"], ["check", "image"]])
def test_a_lock_that_is_not_there_is_said_to_be(
    machine: Machine, capsys: Captured, tmp_path: Path, verb: list[str]
) -> None:
    assert main([*verb, "--lock-file", str(tmp_path / "none.yaml")]) == 78
    err = capsys.readouterr().err
    assert "none.yaml: there is no such lock" in err
    assert "hint: oneke-agent install --lock writes one" in err


def test_ce_is_installed_and_a_second_run_says_that_nothing_changed(
    machine: Machine, lock: Path, capsys: Captured
) -> None:
    capsys.readouterr()
    argv = ["install", "--flavor", "ce", "--arch", "amd64", "--lock-file", str(lock)]
    assert main(argv) == 0
    out = capsys.readouterr().out
    assert "    rke2 in /usr/local: fetch" in out
    assert out.endswith("ce for amd64: 7 changes\n")
    assert machine.files.text("/usr/local/bin/helm") == "helm"
    assert main(argv) == 0
    assert capsys.readouterr().out == "ce for amd64: 0 changes\n"


def test_links_are_made_where_what_is_fetched_comes_another_way(
    machine: Machine, capsys: Captured
) -> None:
    argv = ["install", "--without-artifacts"]
    assert main([*argv, "--dry-run"]) == 0
    assert "4 changes to make; nothing was changed" in capsys.readouterr().out
    assert machine.files.links == {}
    assert main(argv) == 0
    assert capsys.readouterr().out.endswith("without artifacts: 4 changes\n")
    kubectl = machine.files.links[PurePosixPath("/usr/local/bin/kubectl")]
    assert kubectl == PurePosixPath("/var/lib/rancher/rke2/bin/kubectl")
    assert (machine.downloads.asked, machine.registry.saved) == ([], [])
    assert machine.files.read(paths.IMAGE_RECORD) is None
    assert main(argv) == 0
    assert capsys.readouterr().out == "without artifacts: 0 changes\n"


def test_a_dry_run_fetches_nothing(machine: Machine, lock: Path, capsys: Captured) -> None:
    machine.downloads.asked.clear()
    before = machine.files.texts()
    argv = ["install", "--flavor", "ce", "--arch", "arm64", "--lock-file", str(lock), "--dry-run"]
    assert main(argv) == 0
    assert capsys.readouterr().out.endswith(
        "ce for arm64: 7 changes to make; nothing was changed\n"
    )
    assert main([*argv, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["dry_run"], document["changes"]) == (True, 7)
    assert machine.downloads.asked == []
    assert machine.files.texts() == before


def test_an_install_as_json_is_one_document(machine: Machine, lock: Path, capsys: Captured) -> None:
    capsys.readouterr()
    argv = ["install", "--flavor", "ce", "--arch", "amd64", "--lock-file", str(lock), "--json"]
    assert main(argv) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["actions"]["artifacts"]["summary"] == "5 of 5 to fetch"


def test_a_lock_is_written_with_what_could_be_read_and_says_what_could_not(
    machine: Machine, capsys: Captured, tmp_path: Path
) -> None:
    machine.publish()
    path = tmp_path / "new.yaml"
    argv = ["install", "--lock", "--lock-file", str(path)]
    assert main([*argv, "--release", "helm=4.0.0"]) == 75
    out = capsys.readouterr().out
    assert "read     chart longhorn" in out
    assert "empty    rke2 for amd64: https://github.com/" in out
    written = parse_lock(machine.files.text(str(path)), "new.yaml")
    assert written.releases["helm"] == "4.0.0"
    assert "helm-v4.0.0-linux-amd64" in written.files["helm"]["amd64"].url
    assert written.files["helm"]["amd64"].sha256 == ""
    assert written.charts["longhorn"].sha256 == sum_of("longhorn")
    assert main([*argv, "--json"]) == 75
    verdicts = {one["verdict"] for one in json.loads(capsys.readouterr().out)["findings"]}
    assert verdicts == {"read", "empty"}


def test_a_dry_run_writes_no_lock_and_shows_what_would_be_in_it(
    machine: Machine, capsys: Captured, tmp_path: Path
) -> None:
    machine.publish()
    argv = ["install", "--lock", "--dry-run", "--lock-file", str(tmp_path / "new.yaml")]
    assert main(argv) == 75
    out = capsys.readouterr().out
    assert "read     chart longhorn" in out
    assert out.endswith("left empty; nothing was written\n")
    assert main([*argv, "--json"]) == 75
    assert json.loads(capsys.readouterr().out)["dry_run"] is True
    assert machine.files.tape.changes == []


def test_a_lock_from_a_plain_source_comes_with_a_warning(
    machine: Machine, capsys: Captured, tmp_path: Path
) -> None:
    argv = ["install", "--lock", "--lock-file", str(tmp_path / "new.yaml")]
    assert main([*argv, "--source", "github.com=http://mirror.example:8080/github"]) == 75
    assert "warning: mirror.example:8080: was asked without TLS" in capsys.readouterr().err
    assert main([*argv, "--source", "github.com=https://mirror.example/github"]) == 75
    assert "without TLS" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "complaint"),
    [
        (["--lock", "--flavor", "ee"], "a lock is of every flavor"),
        (["--lock", "--arch", "arm64"], "a lock is of every flavor"),
        (["--flavor", "ce", "--release", "helm=4.0.0"], "--release is for --lock"),
        (["--without-artifacts", "--flavor", "ce"], "--without-artifacts fetches nothing"),
        (["--without-artifacts", "--source", "a=https://b"], "--without-artifacts fetches nothing"),
        (["--without-artifacts", "--lock"], "--without-artifacts fetches nothing"),
    ],
)
def test_what_would_be_ignored_is_wrong_usage(
    machine: Machine, capsys: Captured, argv: list[str], complaint: str
) -> None:
    assert main(["install", *argv]) == 64
    assert complaint in capsys.readouterr().err
    assert machine.files.tape.changes == []


def test_what_was_published_anew_is_for_a_person_to_decide(
    machine: Machine, lock: Path, capsys: Captured
) -> None:
    chart = SERVICES["longhorn"].component.chart
    index = f"{chart.repo.rstrip('/')}/index.yaml"
    published = machine.downloads.served[index]
    machine.downloads.served[index] = published.replace(sum_of("longhorn"), "f" * 64)
    capsys.readouterr()
    assert main(["install", "--lock", "--lock-file", str(lock)]) == 78
    out, err = capsys.readouterr()
    assert f"published is {'f' * 64}, pinned is {sum_of('longhorn')}" in out
    assert "1 changed and not followed" in out
    assert "remove the old pin from the lock" in err
    written = parse_lock(machine.files.text(str(lock)), "lock")
    assert written.charts["longhorn"].sha256 == sum_of("longhorn")


@pytest.mark.parametrize("release", ["helm", "helm=", "=4"])
def test_a_release_without_a_version_is_wrong_usage(
    machine: Machine, capsys: Captured, release: str
) -> None:
    assert main(["install", "--lock", "--release", release]) == 64
    assert "expected NAME=VERSION" in capsys.readouterr().err


def test_a_release_that_nobody_declares_is_refused(machine: Machine, capsys: Captured) -> None:
    assert main(["install", "--lock", "--release", "helmet=4"]) == 78
    assert "no release helmet; there are helm, " in capsys.readouterr().err


def test_check_image_names_what_is_missing_and_ends_with_1(
    machine: Machine, capsys: Captured
) -> None:
    machine.commands.always("systemctl", Call((), rc=1, stdout="not-found\n"))
    machine.files.put("/usr/sbin/haproxy", "", mode=0o755)
    argv = ["check", "image", "--without-kernel", "--without-artifacts"]
    assert main(argv) == 1
    out = capsys.readouterr().out
    assert "ok       program haproxy: there" in out
    assert "MISSING  program keepalived: missing (keepalived needs it" in out
    assert "MISSING  unit oneke.target: not-found" in out
    assert main([*argv, "--json"]) == 1
    lines = json.loads(capsys.readouterr().out)
    assert {"subject": "program haproxy", "is_there": True, "found": "there", "hint": ""} in lines


def test_a_service_manager_that_can_not_be_asked_is_trouble(
    machine: Machine, capsys: Captured
) -> None:
    machine.commands.always("systemctl", Call((), rc=None))
    assert main(["check", "image", "--without-kernel"]) == CommandError.exit_code
    assert "systemctl is-enabled" in capsys.readouterr().err


def test_check_knows_nothing_but_images() -> None:
    with pytest.raises(SystemExit) as ended:
        main(["check", "node"])
    assert ended.value.code == 64


def test_the_lock_of_the_installation_is_found_beside_the_drop_ins(machine: Machine) -> None:
    main(["install", "--lock"])
    written = [path for path in machine.files.kept if path.name == FILE]
    assert written in (
        [PurePosixPath(paths.packaged_services() / FILE)],
        [PurePosixPath("/etc/oneke/service.d") / FILE],
    )
