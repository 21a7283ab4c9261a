"""Whether an image has all that a boot needs: what is missing is named with its drop-in."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import pytest

from appliance import paths
from appliance.imagecheck import ImageLine, Looked, built_as, check_image
from appliance.imagecontent import Flavor
from appliance.install import run_install
from appliance.installplan import Build
from appliance.lock import Lock, Pin, Sources
from appliance.service import Service, load_services
from tests.fakes import Call, FakeCommands, FakeFiles, FakeLog, make_system
from tests.fakes.artifacts import FakeDownloads, archive_of, sum_of

DROP_IN = """
releases: {tool: '1'}
files:
  - name: tool
    release: tool
    url: https://h/tool-{arch}.tar
    sums: https://h/sums
    unpack: /usr/local
links: {/usr/bin/later: /var/lib/tool/later}
needs:
  programs: [haproxy]
  units: [haproxy.service]
  enabled: [oneke.target]
  modules: [br_netfilter]
  files: [/usr/share/some/file]
"""
ARCHIVE = archive_of({"bin/tool": "tool"})
LOCK = Lock(
    releases={"tool": "1"},
    files={"tool": {"amd64": Pin("https://h/tool-amd64.tar", sum_of(ARCHIVE))}},
)
CE = Build(Flavor.CE, "amd64", Sources())
WHOLE = {
    "program haproxy",
    "unit haproxy.service",
    "unit oneke.target",
    "file /usr/share/some/file",
    "link /usr/bin/later",
    "module br_netfilter of kernel 6.1.0",
}


class Image:
    """An image that has all of it."""

    def __init__(self, folder: Path) -> None:
        drop_in = folder / "tool"
        drop_in.mkdir()
        (drop_in / "service.yaml").write_text("summary: A tool.\n")
        (drop_in / "image.yaml").write_text(DROP_IN)
        self.services: dict[str, Service] = load_services((folder,))
        self.files = FakeFiles(
            {
                "/usr/share/some/file": "",
                "/lib/modules/6.1.0/modules.dep": "kernel/net/bridge/br_netfilter.ko.xz: x.ko\n",
                "/lib/modules/6.1.0/modules.builtin": "kernel/fs/ext4/ext4.ko\n",
            }
        )
        self.files.put("/usr/sbin/haproxy", "", mode=0o755)
        self.states = {"haproxy.service": "disabled", "oneke.target": "enabled"}
        self.downloads = FakeDownloads(self.files)
        self.downloads.served["https://h/tool-amd64.tar"] = ARCHIVE
        system = make_system(files=self.files, downloads=self.downloads)
        run_install(system, self.services, LOCK, CE, FakeLog(), dry_run=False)

    def lines(self, looked: Looked | None = None) -> list[ImageLine]:
        """Look for everything."""
        commands = FakeCommands()
        for unit, state in self.states.items():
            argv = ("systemctl", "is-enabled", unit)
            commands.expect(Call(argv, rc=0 if state else 1, stdout=f"{state}\n"))
        system = make_system(files=self.files, commands=commands)
        lines = check_image(system, self.services, LOCK, looked or Looked(None))
        commands.assert_done()
        # The installation that runs the tests is none of an image.
        return [line for line in lines if not line.subject.startswith(("Python", "no pip"))]

    def missing(self, looked: Looked | None = None) -> list[str]:
        """Name what is missing."""
        return [line.subject for line in self.lines(looked) if not line.is_there]


@pytest.fixture
def image(tmp_path: Path) -> Image:
    """Such an image."""
    return Image(tmp_path)


def test_a_whole_image_lacks_nothing(image: Image) -> None:
    lines = image.lines()
    assert [line.subject for line in lines if not line.is_there] == []
    assert {line.subject for line in lines} == WHOLE | {
        "image as install made it",
        "tool in /usr/local",
        "no parts of downloads",
    }
    assert not [line for line in lines if line.hint]


@pytest.mark.parametrize(
    ("path", "subject"),
    [
        ("/usr/sbin/haproxy", "program haproxy"),
        ("/usr/share/some/file", "file /usr/share/some/file"),
        ("/usr/bin/later", "link /usr/bin/later"),
        ("/lib/modules/6.1.0/modules.dep", "module br_netfilter of kernel 6.1.0"),
        ("/usr/local/bin/tool", "tool in /usr/local"),
        (str(paths.IMAGE_DIR / "artifacts/tool.json"), "tool in /usr/local"),
    ],
)
def test_what_is_taken_away_is_missing_and_nothing_else(
    image: Image, path: str, subject: str
) -> None:
    image.files.remove(PurePosixPath(path))
    assert image.missing() == [subject]
    (line,) = (line for line in image.lines() if not line.is_there)
    assert line.hint


def test_a_link_that_leads_elsewhere_is_told_with_where(image: Image) -> None:
    image.files.link(PurePosixPath("/usr/bin/later"), PurePosixPath("/opt/other"))
    (line,) = (line for line in image.lines() if not line.is_there)
    assert (line.subject, line.found) == ("link /usr/bin/later", "leads to /opt/other")
    assert line.hint == "run oneke-agent install"


def test_a_program_that_nobody_may_run_is_missing(image: Image) -> None:
    image.files.change_mode("/usr/sbin/haproxy", 0o644)
    assert image.missing() == ["program haproxy"]


@pytest.mark.parametrize("state", ["disabled", "masked", "not-found", ""])
def test_a_unit_that_has_to_be_on_and_is_not_is_missing(image: Image, state: str) -> None:
    image.states["oneke.target"] = state
    assert image.missing() == ["unit oneke.target"]


@pytest.mark.parametrize("state", ["not-found", ""])
def test_a_unit_that_has_to_be_there_and_is_not_is_missing(image: Image, state: str) -> None:
    image.states["haproxy.service"] = state
    assert image.missing() == ["unit haproxy.service"]


def test_a_module_that_is_built_in_is_there(image: Image) -> None:
    image.files.put("/lib/modules/6.1.0/modules.dep", "")
    image.files.put("/lib/modules/6.1.0/modules.builtin", "kernel/net/bridge/br-netfilter.ko\n")
    assert image.missing() == []


def test_every_kernel_needs_its_modules(image: Image) -> None:
    image.files.put("/lib/modules/6.5.0/modules.dep", "")
    assert image.missing() == ["module br_netfilter of kernel 6.5.0"]


def test_an_image_without_a_kernel_is_not_whole_unless_that_is_meant(image: Image) -> None:
    for name in ("dep", "builtin"):
        image.files.remove(PurePosixPath(f"/lib/modules/6.1.0/modules.{name}"))
    assert image.missing() == ["kernel"]
    assert image.missing(Looked(None, kernel=False)) == []


def test_an_image_that_install_did_not_finish_is_not_whole(image: Image) -> None:
    image.files.remove(paths.IMAGE_RECORD)
    assert image.missing() == ["image as install made it"]
    assert image.missing(Looked(None, artifacts=False)) == []


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"flavor": "xe", "arch": "amd64"}', '{"flavor": "ce", "arch": "vax"}']
)
def test_a_damaged_record_of_an_image_tells_nothing(text: str) -> None:
    assert built_as(make_system(files=FakeFiles({str(paths.IMAGE_RECORD): text}))) is None


def test_an_image_of_another_flavor_than_asked_for_is_not_whole(image: Image) -> None:
    ee = Build(Flavor.EE, "amd64", Sources())
    assert image.missing(Looked(ee)) == ["image as install made it"]


def test_parts_of_downloads_are_told(image: Image) -> None:
    image.files.put(paths.DOWNLOADS_DIR / "x.part", "x")
    assert image.missing() == ["no parts of downloads"]


def test_what_the_lock_lacks_is_told(image: Image) -> None:
    arm = Build(Flavor.CE, "arm64", Sources())
    subjects = image.missing(Looked(arm))
    assert subjects == ["image as install made it", "lock"]


def test_the_agent_is_told_whether_a_boot_would_have_to_compile_it(image: Image) -> None:
    lines = check_image(
        make_system(files=image.files), {}, LOCK, Looked(None, artifacts=False, kernel=False)
    )
    assert {line.subject for line in lines} >= {
        "Python package appliance",
        "no pip beside the agent",
    }
    # Whoever runs the tests has a pip; an image has none.
    (pip,) = (line for line in lines if line.subject == "no pip beside the agent")
    assert pip.is_there == (pip.found == "none")
