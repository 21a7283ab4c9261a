"""Artifacts are fetched once, proved, and fetched again where they are not what they were."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import PurePosixPath

import pytest

from appliance import paths
from appliance.artifact import Expected, FetchArchive, FetchFile, FetchImage
from appliance.errors import (
    ArtifactRefused,
    ArtifactUnavailable,
    FileError,
    OnekeError,
    SeveralErrors,
)
from appliance.fetch import FetchAll, ForgetOthers
from appliance.imagecontent import Flavor
from appliance.installplan import Build, build_install_plan
from appliance.lock import Lock, Sources
from appliance.system import System
from appliance.system.bulk import Room
from tests.fakes import FakeFiles, PowerCut, Tape, make_system
from tests.fakes.artifacts import FakeBulk, FakeDownloads, FakeRegistry, archive_of, sum_of

ARCHIVE = archive_of({"bin/tool": "the tool", "README": "read me"})
DIGEST = f"sha256:{'d' * 64}"
CHART = PurePosixPath("/charts/chart-1.tgz")
TAR = PurePosixPath("/images/docker.io_some_image_1.tar")

FETCHES = (
    FetchFile("https://host/chart.tgz", sum_of("the chart"), CHART),
    FetchArchive("all", "https://host/all.tar", sum_of(ARCHIVE), PurePosixPath("/usr/local"), ()),
    FetchImage("docker.io/some/image:1", "docker.io/some/image", False, DIGEST, "amd64", TAR),
)
ALL = FetchAll(FETCHES)


@dataclass
class World:
    """A machine, and where it fetches from."""

    system: System
    files: FakeFiles
    downloads: FakeDownloads
    registry: FakeRegistry
    bulk: FakeBulk

    def missing(self) -> list[str]:
        """Name what would be fetched."""
        change = ALL.check(self.system, frozenset())
        return [line.partition(": ")[0] for line in change.detail.splitlines()] if change else []


def make_world(files: FakeFiles | None = None, tape: Tape | None = None) -> World:
    """Return a machine that everything can be fetched to."""
    files = files or FakeFiles(tape=tape)
    downloads, registry, bulk = FakeDownloads(files), FakeRegistry(files), FakeBulk(files)
    downloads.served = {"https://host/chart.tgz": "the chart", "https://host/all.tar": ARCHIVE}
    registry.images = {"docker.io/some/image:1": DIGEST}
    system = make_system(files=files, downloads=downloads, registry=registry, bulk=bulk)
    return World(system, files, downloads, registry, bulk)


@pytest.fixture
def world() -> World:
    """Such a machine."""
    return make_world()


def test_everything_is_in_place_after_one_run(world: World) -> None:
    assert len(world.missing()) == 3
    ALL.preflight(world.system)
    ALL.apply(world.system)
    assert world.missing() == []
    assert world.files.text("/usr/local/bin/tool") == "the tool"
    assert world.files.text(TAR).startswith(f"docker.io/some/image:1 docker.io/some/image@{DIGEST}")
    assert not [path for path in world.files.kept if path.is_relative_to(paths.DOWNLOADS_DIR)]


def test_a_second_run_fetches_nothing(world: World) -> None:
    ALL.apply(world.system)
    world.downloads.asked.clear()
    world.registry.saved.clear()
    ALL.apply(world.system)
    assert (world.downloads.asked, world.registry.saved) == ([], [])


@pytest.mark.parametrize(
    ("path", "name"),
    [
        (CHART, "file /charts/chart-1.tgz"),
        (PurePosixPath("/usr/local/README"), "all in /usr/local"),
        (TAR, "image docker.io/some/image:1"),
    ],
)
@pytest.mark.parametrize("text", [None, "another"])
def test_a_file_that_is_gone_or_changed_is_fetched_again(
    world: World, path: PurePosixPath, name: str, text: str | None
) -> None:
    ALL.apply(world.system)
    world.files.remove(path)
    if text is not None:
        world.files.put(path, text)
    assert world.missing() == [name]
    ALL.apply(world.system)
    assert world.missing() == []


@pytest.mark.parametrize("record", ["", "{", "[]", '{"pin": 1, "files": {}}', b"\xff"])
@pytest.mark.parametrize("name", ["all", TAR.name])
def test_a_damaged_record_proves_nothing(world: World, name: str, record: str | bytes) -> None:
    ALL.apply(world.system)
    world.files.put(paths.IMAGE_DIR / "artifacts" / f"{name}.json", record)
    assert len(world.missing()) == 1
    ALL.apply(world.system)
    assert world.missing() == []


def test_another_digest_in_the_lock_is_another_image(world: World) -> None:
    ALL.apply(world.system)
    image = FETCHES[2]
    assert isinstance(image, FetchImage)
    other = FetchImage(image.reference, image.source, False, f"sha256:{'e' * 64}", "amd64", TAR)
    assert other.check(world.system) == "fetch: another one is wanted"


def test_only_what_is_picked_of_an_archive_is_taken(world: World) -> None:
    picked = FetchArchive(
        *("all", "https://host/all.tar", sum_of(ARCHIVE), PurePosixPath("/usr/local/bin")),
        (("bin/tool", "tool"),),
    )
    picked.apply(world.system)
    assert world.files.text("/usr/local/bin/tool") == "the tool"
    assert not world.files.read(PurePosixPath("/usr/local/bin/README"))


def test_everything_that_is_not_to_be_had_is_told_at_once(world: World) -> None:
    world.downloads.served.pop("https://host/chart.tgz")
    world.downloads.gone.add("https://host/all.tar")
    world.registry.images.clear()
    with pytest.raises(SeveralErrors) as refused:
        ALL.preflight(world.system)
    assert [type(one) for one in refused.value.errors] == [
        ArtifactRefused,
        ArtifactUnavailable,
        ArtifactRefused,
    ]
    assert refused.value.exit_code == 78


def test_a_missing_skopeo_is_told_once_with_how_to_get_it(world: World) -> None:
    world.registry.is_installed = False
    with pytest.raises(ArtifactRefused, match=r"skopeo, .* is not installed") as refused:
        ALL.preflight(world.system)
    assert "apt-get install skopeo" in str(refused.value.hint)
    FetchAll(FETCHES[:2]).preflight(world.system)


def test_what_fails_does_not_keep_the_others_from_being_fetched(world: World) -> None:
    world.downloads.served["https://host/chart.tgz"] = "another chart"
    with pytest.raises(ArtifactRefused, match="expected sha256"):
        ALL.apply(world.system)
    assert world.missing() == ["file /charts/chart-1.tgz"]


def test_a_disk_without_room_is_told_with_what_is_needed(world: World) -> None:
    world.bulk.free_bytes = 100 * 1024 * 1024
    with pytest.raises(FileError, match=r"/charts: 100 MiB are free, .* about 256 MiB"):
        ALL.preflight(world.system)


def test_a_folder_of_downloads_on_another_disk_needs_room_too(world: World) -> None:
    class TwoDisks(FakeBulk):
        def room(self, folder: PurePosixPath) -> Room:
            is_cache = folder.is_relative_to(paths.DOWNLOADS_DIR)
            return Room(2, 500) if is_cache else Room(1, 10**12)

    bulk = TwoDisks(world.files)
    with pytest.raises(FileError, match=r"^/var/cache/oneke: 0 MiB are free"):
        ALL.preflight(replace(world.system, bulk=bulk))


SPARE = 256 * 1024 * 1024
NEWER_URL = "https://host/newer"
LARGE = FetchFile("https://host/large", sum_of("x" * 9000), PurePosixPath("/charts/large"))
KEPT_LARGE = paths.DOWNLOADS_DIR / f"{LARGE.sha256[:16]}-large"


@pytest.mark.parametrize("kept", [KEPT_LARGE, KEPT_LARGE.with_name(f"{KEPT_LARGE.name}.part")])
def test_what_came_of_a_download_before_needs_no_room_any_more(
    world: World, kept: PurePosixPath
) -> None:
    world.downloads.served[LARGE.url] = "x" * 9000
    action = FetchAll((LARGE,))
    world.bulk.free_bytes = SPARE + 1000
    with pytest.raises(FileError) as refused:
        action.preflight(world.system)
    assert refused.value.hint == "make the disk larger"
    world.files.put(kept, "x" * 7999)
    with pytest.raises(FileError):
        action.preflight(world.system)
    world.files.put(kept, "x" * 8000)
    action.preflight(world.system)


def test_what_is_larger_than_its_download_makes_no_room_for_others(world: World) -> None:
    world.downloads.served[LARGE.url] = "x" * 9000
    world.files.put(KEPT_LARGE, "x" * 20_000)
    world.bulk.free_bytes = SPARE + 5
    with pytest.raises(FileError):
        FetchAll((LARGE, FETCHES[0])).preflight(world.system)


def test_what_the_plan_removes_before_makes_room(world: World) -> None:
    world.downloads.served[LARGE.url] = "x" * 9000
    ForgetOthers((LARGE,)).apply(world.system)
    FetchAll((LARGE,)).apply(world.system)
    world.downloads.served[NEWER_URL] = "y" * 9000
    newer = FetchFile(NEWER_URL, sum_of("y" * 9000), PurePosixPath("/charts/newer"))
    world.bulk.free_bytes = SPARE + 10
    with pytest.raises(FileError):
        FetchAll((newer,)).preflight(world.system)
    FetchAll((newer,), others=ForgetOthers((newer,))).preflight(world.system)
    plan = build_install_plan({}, Lock(), Build(Flavor.CE, "amd64", Sources()))
    others, fetching, *_ = plan.actions
    assert isinstance(fetching, FetchAll)
    assert fetching.others == others


def test_nothing_is_asked_of_servers_for_what_is_there(world: World) -> None:
    ALL.apply(world.system)
    world.downloads.gone = {"https://host/chart.tgz", "https://host/all.tar"}
    world.registry.images.clear()
    ALL.preflight(world.system)


def test_an_archive_that_was_fetched_and_not_unpacked_is_not_fetched_again(world: World) -> None:
    kept = paths.DOWNLOADS_DIR / f"{sum_of(ARCHIVE)[:16]}-all.tar"
    world.files.put(kept, ARCHIVE)
    ALL.apply(world.system)
    assert world.downloads.asked == ["https://host/chart.tgz"]


def test_what_another_lock_had_fetched_is_removed_and_others_files_are_left(world: World) -> None:
    ForgetOthers(FETCHES).apply(world.system)
    ALL.apply(world.system)
    world.files.put("/charts/own.tgz", "an administrator's")
    world.files.put("/images/own.tar", "an administrator's")
    newer = FetchFile("https://host/chart.tgz", sum_of("the chart"), CHART.with_name("chart-2.tgz"))
    fewer = ForgetOthers((newer, FETCHES[1]))
    change = fewer.check(world.system, frozenset())
    assert change is not None
    assert change.detail.splitlines() == [str(CHART), str(TAR)]
    fewer.apply(world.system)
    assert fewer.check(world.system, frozenset()) is None
    left = {str(path) for path in world.files.kept}
    assert left & {str(CHART), str(TAR), "/usr/local/bin/tool"} == {"/usr/local/bin/tool"}
    assert left >= {"/charts/own.tgz", "/images/own.tar"}
    assert str(paths.IMAGE_DIR / f"artifacts/{TAR.name}.json") not in left


def test_what_an_older_archive_held_and_a_newer_does_not_is_removed(world: World) -> None:
    ALL.apply(world.system)
    newer = archive_of({"bin/tool": "the newer tool"})
    world.downloads.served["https://host/all-2.tar"] = newer
    into = PurePosixPath("/usr/local")
    FetchArchive("all", "https://host/all-2.tar", sum_of(newer), into, ()).apply(world.system)
    assert world.files.text("/usr/local/bin/tool") == "the newer tool"
    assert world.files.read(PurePosixPath("/usr/local/README")) is None


def test_an_image_that_another_drop_in_has_now_is_where_that_keeps_it_only(world: World) -> None:
    ForgetOthers(FETCHES).apply(world.system)
    ALL.apply(world.system)
    image = FETCHES[2]
    assert isinstance(image, FetchImage)
    elsewhere = replace(image, path=TAR.parent / "other" / TAR.name)
    fetches = (*FETCHES[:2], elsewhere)
    ForgetOthers(fetches).apply(world.system)
    FetchAll(fetches).apply(world.system)
    assert [path for path in world.files.kept if path.name == TAR.name] == [elsewhere.path]
    assert FetchAll(fetches).check(world.system, frozenset()) is None


@pytest.mark.parametrize("text", ["", "{", "[]", '{"files": 1}', b"\xff"])
def test_a_damaged_memory_of_what_is_there_is_made_anew(world: World, text: str | bytes) -> None:
    action = ForgetOthers(FETCHES)
    action.apply(world.system)
    world.files.put(paths.IMAGE_DIR / "in-place.json", text)
    assert action.check(world.system, frozenset()) is not None
    action.apply(world.system)
    assert action.check(world.system, frozenset()) is None


def test_what_a_cut_run_left_beside_its_records_is_removed(world: World) -> None:
    folder = paths.IMAGE_DIR / "artifacts"
    world.files.put(folder / ".all.json.x1y2", "{")
    ALL.apply(world.system)
    assert folder / ".all.json.x1y2" not in world.files.kept
    assert world.missing() == []


def test_a_power_cut_before_any_change_is_made_good_by_the_next_run() -> None:
    one_at_a_time = FetchAll(FETCHES, at_once=1)
    whole = make_world()
    one_at_a_time.apply(whole.system)
    changes = len(whole.files.tape.changes)
    assert changes > 6
    for cut_before in range(changes):
        world = make_world(tape=Tape(cut_before))
        with pytest.raises(PowerCut):
            one_at_a_time.apply(world.system)
        world.files.tape.cut_before = None
        one_at_a_time.apply(world.system)
        assert world.missing() == []
        assert world.files.texts() == whole.files.texts()


def test_an_interrupt_stops_what_is_being_fetched(world: World) -> None:
    class Interrupted:
        name = "interrupted"

        def check(self, system: System) -> str:
            return "fetch"

        def look(self, system: System) -> Expected:
            raise OnekeError("nobody looks")

        def apply(self, system: System) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        FetchAll((Interrupted(),)).apply(world.system)
    assert world.downloads.is_stopped
