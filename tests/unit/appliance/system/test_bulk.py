"""Large files: what an archive may hold, and that files are in place at once."""

from __future__ import annotations

import gzip
import io
import stat
import tarfile
from pathlib import Path, PurePosixPath

import pytest

from appliance.errors import ArtifactRefused, FileError
from appliance.system.bulk import RealBulk
from appliance.system.files import RealFiles
from tests.fakes.artifacts import sum_of

ARCHIVE = PurePosixPath("/archive")
INTO = PurePosixPath("/usr/local")


@pytest.fixture
def bulk(tmp_path: Path) -> RealBulk:
    """Files of a folder."""
    return RealBulk(RealFiles(str(tmp_path)))


def member(name: str, text: str = "", *, mode: int = 0o644, kind: bytes = tarfile.REGTYPE):
    """Return an entry of an archive with its content."""
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode, entry.type = len(text), mode, kind
    entry.linkname = "/etc/passwd" if kind in (tarfile.SYMTYPE, tarfile.LNKTYPE) else ""
    return entry, text.encode()


def pack(root: Path, *members: tuple[tarfile.TarInfo, bytes]) -> None:
    """Write the archive."""
    with tarfile.open(root / "archive", "w:gz") as tar:
        for entry, data in members:
            tar.addfile(entry, io.BytesIO(data))


def test_files_get_a_mode_of_ours_and_folders_that_are_there_keep_theirs(
    bulk: RealBulk, tmp_path: Path
) -> None:
    (tmp_path / "usr/local/bin").mkdir(parents=True)
    (tmp_path / "usr/local/bin").chmod(0o750)
    pack(
        tmp_path,
        member("bin", mode=0o777, kind=tarfile.DIRTYPE),
        member("bin/tool", "tool", mode=0o6777),
        member("./share/text", "text", mode=0o600),
    )
    written = bulk.unpack(ARCHIVE, INTO, {})
    assert written == {INTO / "bin/tool": sum_of("tool"), INTO / "share/text": sum_of("text")}
    modes = {
        name: stat.S_IMODE((tmp_path / "usr/local" / name).stat().st_mode)
        for name in ("bin", "bin/tool", "share/text")
    }
    assert modes == {"bin": 0o750, "bin/tool": 0o755, "share/text": 0o644}


def test_only_what_is_picked_is_written_under_its_new_name(bulk: RealBulk, tmp_path: Path) -> None:
    pack(tmp_path, member("linux/helm", "helm"), member("linux/README", "x"))
    assert bulk.unpack(ARCHIVE, INTO, {"linux/helm": "helm"}) == {INTO / "helm": sum_of("helm")}
    assert not (tmp_path / "usr/local/README").exists()


@pytest.mark.parametrize(
    "bad",
    [
        member("../outside", "x"),
        member("/etc/passwd", "x"),
        member("a/../../b", "x"),
        member("link", kind=tarfile.SYMTYPE),
        member("hard", kind=tarfile.LNKTYPE),
        member("pipe", kind=tarfile.FIFOTYPE),
    ],
    ids=lambda bad: bad[0].name,
)
def test_what_leads_out_of_the_folder_is_refused(bulk: RealBulk, tmp_path: Path, bad) -> None:
    pack(tmp_path, bad)
    with pytest.raises(ArtifactRefused, match="expected files and folders"):
        bulk.unpack(ARCHIVE, INTO, {})


def test_an_archive_without_what_is_picked_is_refused(bulk: RealBulk, tmp_path: Path) -> None:
    pack(tmp_path, member("other", "x"))
    with pytest.raises(ArtifactRefused, match="does not hold helm"):
        bulk.unpack(ARCHIVE, INTO, {"linux/helm": "helm"})


@pytest.mark.parametrize(
    "data", [b"", b"no archive", gzip.compress(b"no archive", mtime=0), b"\x1f\x8b\x08"]
)
def test_what_is_no_archive_is_refused(bulk: RealBulk, tmp_path: Path, data: bytes) -> None:
    (tmp_path / "archive").write_bytes(data)
    with pytest.raises(ArtifactRefused, match="is no whole tar archive"):
        bulk.unpack(ARCHIVE, INTO, {})


def test_an_archive_that_is_cut_is_refused(bulk: RealBulk, tmp_path: Path) -> None:
    pack(tmp_path, member("bin/tool", "tool" * 100_000))
    data = (tmp_path / "archive").read_bytes()
    (tmp_path / "archive").write_bytes(data[: len(data) // 2])
    with pytest.raises(ArtifactRefused, match="is no whole tar archive"):
        bulk.unpack(ARCHIVE, INTO, {})
    assert not (tmp_path / "usr/local/bin/tool").exists()
    assert bulk.list_names(INTO / "bin") == ()


def test_a_file_is_moved_with_its_mode_and_replaces_what_was_there(
    bulk: RealBulk, tmp_path: Path
) -> None:
    (tmp_path / "new").write_text("new")
    (tmp_path / "old").write_text("old")
    bulk.move(PurePosixPath("/new"), PurePosixPath("/old"), mode=0o640)
    assert (tmp_path / "old").read_text() == "new"
    assert stat.S_IMODE((tmp_path / "old").stat().st_mode) == 0o640
    assert not (tmp_path / "new").exists()


def test_a_file_is_moved_to_another_disk_as_well(bulk: RealBulk, tmp_path: Path) -> None:
    other = Path("/dev/shm") / f"oneke-{tmp_path.name}"
    if other.parent.stat().st_dev == tmp_path.stat().st_dev:
        other = Path("/var/tmp") / other.name
    assert other.parent.stat().st_dev != tmp_path.stat().st_dev, "this machine has one disk only"
    (tmp_path / "new").write_text("new")
    try:
        RealBulk(RealFiles("/")).move(
            PurePosixPath(str(tmp_path / "new")), PurePosixPath(str(other)), mode=0o644
        )
        assert other.read_text() == "new"
        assert not (tmp_path / "new").exists()
    finally:
        other.unlink(missing_ok=True)


def test_a_move_that_fails_leaves_what_was_there(bulk: RealBulk, tmp_path: Path) -> None:
    (tmp_path / "old").write_text("old")
    with pytest.raises(FileError, match="/old: can not be written: No such file"):
        bulk.move(PurePosixPath("/missing"), PurePosixPath("/old"), mode=0o644)
    assert (tmp_path / "old").read_text() == "old"


def test_sums_room_and_names(bulk: RealBulk, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("text")
    assert bulk.sha256(PurePosixPath("/file")) == sum_of("text")
    assert bulk.sha256(PurePosixPath("/missing")) is None
    assert bulk.sha256(PurePosixPath("/file/below")) is None
    with pytest.raises(FileError, match="Is a directory"):
        bulk.sha256(PurePosixPath("/"))
    assert bulk.list_names(PurePosixPath("/")) == ("file",)
    assert bulk.list_names(PurePosixPath("/missing")) == ()
    assert bulk.size(PurePosixPath("/file")) == 4
    assert bulk.size(PurePosixPath("/missing")) == bulk.size(PurePosixPath("/file/below")) == 0
    here, below = (bulk.room(PurePosixPath(path)) for path in ("/", "/not/there/yet"))
    assert here.device == below.device
    assert here.free_bytes > 0


def test_a_folder_is_removed_only_when_it_is_empty(bulk: RealBulk, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/file").write_text("x")
    bulk.remove_folder(PurePosixPath("/folder"))
    assert (tmp_path / "folder/file").exists()
    (tmp_path / "folder/file").unlink()
    bulk.remove_folder(PurePosixPath("/folder"))
    assert not (tmp_path / "folder").exists()
