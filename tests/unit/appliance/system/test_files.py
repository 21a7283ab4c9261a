"""The same contract for the files of a machine and for those in memory."""

from __future__ import annotations

import grp
import os
import pwd
from pathlib import Path, PurePosixPath

import pytest

from appliance.errors import AlreadyRunning, FileError, NotText
from appliance.system.files import Files, FileState, RealFiles
from tests.fakes import FakeFiles

USER = pwd.getpwuid(os.getuid()).pw_name
GROUP = grp.getgrgid(os.getgid()).gr_name
PATH = PurePosixPath("/etc/deep/down/thing.conf")


@pytest.fixture(params=["real", "fake"])
def files(request: pytest.FixtureRequest, tmp_path: Path) -> Files:
    """Files under a folder, or in memory."""
    return RealFiles(str(tmp_path)) if request.param == "real" else FakeFiles()


def write(files: Files, text: str, mode: int = 0o644) -> None:
    """Write the file as whoever runs the tests."""
    files.write(PATH, text, mode=mode, owner=USER, group=GROUP)


def put(files: Files, data: bytes) -> None:
    """Have a file there that is perhaps no text."""
    if isinstance(files, FakeFiles):
        files.put(PATH, data)
    else:
        at = Path(files.real(PATH))
        at.parent.mkdir(parents=True)
        at.write_bytes(data)


def test_what_was_written_is_read(files: Files) -> None:
    write(files, "one\nünï\n", 0o640)
    assert files.read(PATH) == "one\nünï\n"
    assert files.state(PATH) == FileState(0o640, USER, GROUP)


def test_writing_again_replaces_text_and_mode(files: Files) -> None:
    write(files, "a long text\n", 0o666)
    write(files, "x", 0o600)
    assert files.read(PATH) == "x"
    assert files.state(PATH) == FileState(0o600, USER, GROUP)


def test_what_is_not_there_is_nothing(files: Files) -> None:
    assert files.read(PATH) is None
    assert files.state(PATH) is None
    assert files.remove(PATH) is False


def test_a_file_can_be_removed_once(files: Files) -> None:
    write(files, "x")
    assert files.remove(PATH) is True
    assert files.remove(PATH) is False
    assert files.read(PATH) is None


def test_lines_are_added_at_the_end(files: Files) -> None:
    files.append(PATH, "one")
    files.append(PATH, "two")
    assert files.read(PATH) == "one\ntwo\n"
    state = files.state(PATH)
    assert state is not None
    assert state.mode == 0o600


@pytest.mark.parametrize(("limit", "fits"), [(4, True), (3, False), (0, False)])
def test_a_limit_counts_bytes(files: Files, limit: int, fits: bool) -> None:
    write(files, "üü")
    if fits:
        assert files.read(PATH, limit=limit) == "üü"
    else:
        with pytest.raises(FileError, match=f"larger than {limit} bytes"):
            files.read(PATH, limit=limit)


@pytest.mark.parametrize("data", [b"\xff\xfe", b"ok\xc3", b"\xed\xa0\x80"])
def test_what_is_no_text_is_told_apart(files: Files, data: bytes) -> None:
    put(files, data)
    with pytest.raises(NotText, match=str(PATH)):
        files.read(PATH)


def test_line_ends_are_kept_as_they_are(files: Files) -> None:
    write(files, "a\r\nb\rc\n")
    assert files.read(PATH) == "a\r\nb\rc\n"


def test_a_folder_is_no_file(files: Files) -> None:
    files.ensure_folder(PATH)
    with pytest.raises(FileError, match=str(PATH)):
        files.read(PATH)


def test_a_lock_is_held_by_one(files: Files) -> None:
    with files.lock(PATH), pytest.raises(AlreadyRunning, match=str(PATH)), files.lock(PATH):
        pytest.fail("two hold it")
    with files.lock(PATH):
        pass


def test_a_lock_is_given_back_after_an_error(files: Files) -> None:
    with pytest.raises(KeyError), files.lock(PATH):
        raise KeyError
    with files.lock(PATH):
        pass


# --- on a disk ------------------------------------------------------------------------------------


def test_nothing_is_left_beside_a_file_that_was_written(tmp_path: Path) -> None:
    files = RealFiles(str(tmp_path))
    write(files, "x")
    assert [child.name for child in Path(files.real(PATH)).parent.iterdir()] == [PATH.name]


def test_an_unknown_owner_is_named_and_the_old_file_is_unharmed(tmp_path: Path) -> None:
    files = RealFiles(str(tmp_path))
    write(files, "old")
    with pytest.raises(FileError, match="no such owner or group: nobody-at-all"):
        files.write(PATH, "new", owner="nobody-at-all", group=GROUP)
    assert files.read(PATH) == "old"
    assert [child.name for child in Path(files.real(PATH)).parent.iterdir()] == [PATH.name]


def test_a_new_folder_has_the_mode_asked_for_and_an_old_one_keeps_its_own(tmp_path: Path) -> None:
    files = RealFiles(str(tmp_path))
    files.ensure_folder(PATH, mode=0o700)
    at = Path(files.real(PATH))
    assert at.stat().st_mode & 0o777 == 0o700
    files.ensure_folder(PATH, mode=0o755)
    assert at.stat().st_mode & 0o777 == 0o700


def test_a_secret_file_is_never_readable_by_others_while_it_is_written(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        files = RealFiles(str(tmp_path))
        write(files, "secret", 0o600)
        files.append(PurePosixPath("/journal"), "line")
    finally:
        os.umask(old)
    for path in (PATH, PurePosixPath("/journal")):
        state = files.state(path)
        assert state is not None
        assert state.mode == 0o600


def test_a_folder_made_for_a_file_can_be_read_by_daemons_whatever_the_umask(tmp_path: Path) -> None:
    old = os.umask(0o077)
    try:
        write(RealFiles(str(tmp_path)), "x")
    finally:
        os.umask(old)
    made = [tmp_path / part for part in ("etc", "etc/deep", "etc/deep/down")]
    assert [one.stat().st_mode & 0o777 for one in made] == [0o755] * 3


def test_a_link_leads_where_it_was_told_and_takes_the_place_of_what_was_there(files: Files) -> None:
    first, second = PurePosixPath("/store/a.tar"), PurePosixPath("/store/b.tar")
    assert files.link_target(PATH) is None
    files.link(PATH, first)
    assert files.link_target(PATH) == first
    files.link(PATH, second)
    assert files.link_target(PATH) == second
    write(files, "text")
    assert files.link_target(PATH) is None
    files.link(PATH, first)
    assert files.remove(PATH) is True
    assert files.link_target(PATH) is None
    assert files.remove(PATH) is False


def test_a_link_that_can_not_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "etc").write_text("no folder")
    with pytest.raises(FileError, match="can not be linked"):
        RealFiles(str(tmp_path)).link(PATH, PurePosixPath("/store/a.tar"))


def test_bytes_are_read_as_they_are_up_to_a_limit(files: Files) -> None:
    put(files, b"\xff\x00tgz")
    assert files.read_bytes(PATH) == b"\xff\x00tgz"
    assert files.read_bytes(PATH, limit=5) == b"\xff\x00tgz"
    with pytest.raises(FileError, match="larger than 4 bytes"):
        files.read_bytes(PATH, limit=4)
    assert files.read_bytes(PurePosixPath("/nowhere")) is None
