"""Downloads from mirrors that are slow, lie, vanish, or change in between."""

from __future__ import annotations

import hashlib
import json
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path, PurePosixPath

import pytest

from appliance.errors import ArtifactRefused, ArtifactUnavailable
from appliance.system.download import HttpDownloads, Patience
from appliance.system.files import RealFiles
from tests.functional.mirror import Mirror, running_mirror
from tests.functional.tlsserver import Answer, Request, make_authority, make_certificate, serving

DATA = random.Random(1).randbytes(300_000)
SUM = hashlib.sha256(DATA).hexdigest()
TO = PurePosixPath("/var/cache/oneke/file")
HASTY = Patience(
    connect_s=5, silence_s=1, window_s=0.5, slowest=20_000, tries=3, first_pause_s=0.01
)


@pytest.fixture
def mirror() -> Iterator[Mirror]:
    """A mirror with one file."""
    with running_mirror({"/file": DATA}) as running:
        yield running


def fetch(mirror: Mirror, root: Path, sha256: str = SUM) -> bytes:
    """Fetch the file, and return what is in place then."""
    downloads = HttpDownloads(RealFiles(str(root)), patience=HASTY)
    downloads.fetch(f"{mirror.url}/file", TO, sha256)
    return at(root).read_bytes()


def at(root: Path, ending: str = "") -> Path:
    """Where the file is to be, or what came of it."""
    return root / f"{TO.relative_to('/')}{ending}"


def left(root: Path) -> list[str]:
    """Name all that is in the folder."""
    folder = at(root).parent
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


def test_a_file_is_in_place_whole_and_nothing_beside_it(mirror: Mirror, tmp_path: Path) -> None:
    assert fetch(mirror, tmp_path) == DATA
    assert left(tmp_path) == ["file"]


def test_a_connection_that_ends_is_taken_up_where_it_ended(mirror: Mirror, tmp_path: Path) -> None:
    mirror.of("/file").cuts = [100_000, 70_000]
    assert fetch(mirror, tmp_path) == DATA
    assert [wanted for _, wanted in mirror.asked] == ["", "bytes=100000-", "bytes=170000-"]
    assert mirror.sent == len(DATA)


def test_another_run_goes_on_where_one_gave_up(mirror: Mirror, tmp_path: Path) -> None:
    mirror.of("/file").cuts = [130_000, 0, 0, 0]
    with pytest.raises(ArtifactUnavailable, match=r"130000 bytes of it are kept"):
        fetch(mirror, tmp_path)
    assert left(tmp_path) == ["file.part", "file.part.json"]
    mirror.forget()
    assert fetch(mirror, tmp_path) == DATA
    assert mirror.sent == len(DATA) - 130_000


def test_a_file_that_changed_in_between_is_fetched_from_its_beginning(
    mirror: Mirror, tmp_path: Path
) -> None:
    mirror.of("/file").cuts = [130_000, 0, 0, 0]
    with pytest.raises(ArtifactUnavailable):
        fetch(mirror, tmp_path)
    other = DATA[::-1]
    mirror.files["/file"] = other
    assert fetch(mirror, tmp_path, hashlib.sha256(other).hexdigest()) == other


def test_parts_of_two_files_that_a_server_can_not_tell_apart_never_become_one(
    mirror: Mirror, tmp_path: Path
) -> None:
    mirror.of("/file").has_tag = False
    mirror.of("/file").cuts = [130_000]
    assert fetch(mirror, tmp_path) == DATA
    assert [wanted for _, wanted in mirror.asked] == ["", ""]


def test_a_damaged_part_is_thrown_away_and_the_file_comes_whole(
    mirror: Mirror, tmp_path: Path
) -> None:
    mirror.of("/file").cuts = [130_000, 0, 0, 0]
    with pytest.raises(ArtifactUnavailable):
        fetch(mirror, tmp_path)
    part = bytearray(at(tmp_path, ".part").read_bytes())
    part[7] ^= 1
    at(tmp_path, ".part").write_bytes(part)
    assert fetch(mirror, tmp_path) == DATA
    assert left(tmp_path) == ["file"]


@pytest.mark.parametrize("is_damaged", [False, True])
def test_a_part_that_is_all_of_the_file_is_judged_by_its_sum(
    mirror: Mirror, tmp_path: Path, is_damaged: bool
) -> None:
    assert fetch(mirror, tmp_path) == DATA
    tag = hashlib.sha256(DATA).hexdigest()[:16]
    data = bytearray(DATA)
    data[9] ^= is_damaged
    at(tmp_path).unlink()
    at(tmp_path, ".part").write_bytes(data)
    notes = {"url": f"{mirror.url}/file", "validator": f'"{tag}"'}
    at(tmp_path, ".part.json").write_text(json.dumps(notes))
    mirror.forget()
    assert fetch(mirror, tmp_path) == DATA
    # Either nothing was asked for, or the end that is not there, and then all of it.
    assert [wanted for _, wanted in mirror.asked] == ["bytes=300000-", ""] * is_damaged
    assert left(tmp_path) == ["file"]


@pytest.mark.parametrize("notes", ["", "{", "[]", '{"url": 1}', '{"url": "https://other/"}'])
def test_a_part_of_which_nothing_is_known_is_thrown_away(
    mirror: Mirror, tmp_path: Path, notes: str
) -> None:
    at(tmp_path).parent.mkdir(parents=True)
    at(tmp_path, ".part").write_bytes(DATA[:1000])
    at(tmp_path, ".part.json").write_text(notes)
    assert fetch(mirror, tmp_path) == DATA
    assert [wanted for _, wanted in mirror.asked] == [""]


def test_what_can_not_be_taken_up_is_not_said_to_be_kept(mirror: Mirror, tmp_path: Path) -> None:
    mirror.of("/file").has_tag = False
    mirror.of("/file").cuts = [1000, 1000, 1000]
    with pytest.raises(ArtifactUnavailable, match=r"\(tried 3 times\)$"):
        fetch(mirror, tmp_path)
    assert left(tmp_path) == []


def test_a_server_without_ranges_is_asked_from_the_beginning_again(
    mirror: Mirror, tmp_path: Path
) -> None:
    mirror.of("/file").has_ranges = False
    mirror.of("/file").cuts = [100_000, 200_000]
    assert fetch(mirror, tmp_path) == DATA


def test_one_bit_flipped_names_address_expected_and_found_and_leaves_nothing(
    mirror: Mirror, tmp_path: Path
) -> None:
    bad = bytearray(DATA)
    bad[150_000] ^= 0x10
    mirror.files["/file"] = bytes(bad)
    found = hashlib.sha256(bad).hexdigest()
    with pytest.raises(ArtifactRefused, match=f"/file: expected sha256 {SUM}, found {found}"):
        fetch(mirror, tmp_path)
    assert left(tmp_path) == []
    assert len(mirror.asked) == 1


def test_a_file_that_was_in_place_survives_a_bad_one(mirror: Mirror, tmp_path: Path) -> None:
    at(tmp_path).parent.mkdir(parents=True)
    at(tmp_path).write_text("old")
    mirror.files["/file"] = b"bad"
    with pytest.raises(ArtifactRefused):
        fetch(mirror, tmp_path)
    assert at(tmp_path).read_text() == "old"


@pytest.mark.parametrize("claims", [5000, 1])
def test_a_length_that_is_too_large_does_no_harm(
    mirror: Mirror, tmp_path: Path, claims: int
) -> None:
    mirror.of("/file").claims = claims
    assert fetch(mirror, tmp_path) == DATA


def test_a_length_that_is_too_small_is_a_wrong_sum(mirror: Mirror, tmp_path: Path) -> None:
    mirror.of("/file").claims = -1000
    with pytest.raises(ArtifactRefused, match=r"expected sha256 .*299000 bytes"):
        fetch(mirror, tmp_path)


def test_a_server_that_sends_too_slowly_is_given_up_and_what_came_is_kept(
    mirror: Mirror, tmp_path: Path
) -> None:
    mirror.of("/file").bytes_per_s = 18_000
    with pytest.raises(ArtifactUnavailable, match=r"only \d+ bytes came in|no answer|timed out"):
        fetch(mirror, tmp_path)
    assert at(tmp_path, ".part").stat().st_size > 0


def test_a_server_that_is_slow_all_the_time_is_given_up_however_much_a_look_at_it_brings(
    mirror: Mirror, tmp_path: Path
) -> None:
    large = DATA * 20
    mirror.files["/file"] = large
    mirror.of("/file").bytes_per_s = 300_000
    patience = replace(HASTY, window_s=0.4, slowest=3_000_000)
    downloads = HttpDownloads(RealFiles(str(tmp_path)), patience=patience)
    with pytest.raises(ArtifactUnavailable, match=r"only \d+ bytes came in .*tried 3 times"):
        downloads.fetch(f"{mirror.url}/file", TO, hashlib.sha256(large).hexdigest())
    assert len(mirror.asked) == 3
    # What would be enough of a connection that was cut.
    assert at(tmp_path, ".part").stat().st_size > 64 * 1024


def test_a_server_that_falls_silent_is_given_up(mirror: Mirror, tmp_path: Path) -> None:
    mirror.of("/file").bytes_per_s = 1000
    with pytest.raises(ArtifactUnavailable, match=r"timed out|no answer in time"):
        fetch(mirror, tmp_path)


def test_a_server_that_is_gone_is_said_to_be(tmp_path: Path) -> None:
    with running_mirror({"/file": DATA}) as gone:
        pass
    with pytest.raises(ArtifactUnavailable, match=r"Connection refused \(tried 3 times\)"):
        fetch(gone, tmp_path)
    assert left(tmp_path) == []


def test_a_server_that_is_overloaded_for_a_while_is_asked_again(
    mirror: Mirror, tmp_path: Path
) -> None:
    mirror.of("/file").status, mirror.of("/file").status_times = 503, 2
    assert fetch(mirror, tmp_path) == DATA


@pytest.mark.parametrize("status", [401, 403, 404, 410])
def test_a_file_that_is_not_there_is_asked_for_once(
    mirror: Mirror, tmp_path: Path, status: int
) -> None:
    mirror.of("/file").status, mirror.of("/file").status_times = status, 9
    with pytest.raises(ArtifactRefused, match=f"/file: HTTP status {status}") as refused:
        fetch(mirror, tmp_path)
    assert len(mirror.asked) == 1
    assert ("~/.netrc" in str(refused.value.hint)) == (status in (401, 403))
    assert ("--source" in str(refused.value.hint)) == (status in (404, 410))


def test_an_archive_that_a_server_calls_an_encoding_is_kept_as_it_is(
    mirror: Mirror, tmp_path: Path
) -> None:
    mirror.of("/file").encoding = "gzip"
    assert fetch(mirror, tmp_path) == DATA


ON_A_SMALL_DISK = """
import sys
from pathlib import PurePosixPath
from appliance.errors import OnekeError
from appliance.system.download import HttpDownloads
from appliance.system.files import RealFiles
try:
    HttpDownloads(RealFiles("/")).fetch(sys.argv[1], PurePosixPath(sys.argv[2]), sys.argv[3])
except OnekeError as error:
    print(type(error).__name__, error, error.hint)
"""
SMALL_DISK = """
mount -t tmpfs -o size=128k tmpfs "$2"
"$1" -c "$5" "$3" "$2/file" "$4"
mount -o remount,size=1m "$2"
"$1" -c "$5" "$3" "$2/file" "$4"
cmp "$2/file" "$6" && echo whole
"""


def test_a_full_disk_says_so_and_with_room_it_goes_on(mirror: Mirror, tmp_path: Path) -> None:
    disk, whole = tmp_path / "disk", tmp_path / "whole"
    disk.mkdir()
    whole.write_bytes(DATA)
    arguments = (sys.executable, str(disk), f"{mirror.url}/file", SUM, ON_A_SMALL_DISK, str(whole))
    argv = ["unshare", "--mount", "bash", "-c", SMALL_DISK, "bash", *arguments]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=True)
    lines = done.stdout.splitlines()
    assert lines[0].startswith(
        f"FileError {disk}/file: can not be written: No space left on device"
    )
    assert "what came is kept" in lines[0]
    assert lines[1:] == ["whole"]
    assert mirror.asked[1][1].startswith("bytes=")


def test_being_stopped_ends_soon_and_keeps_what_came(mirror: Mirror, tmp_path: Path) -> None:
    mirror.of("/file").bytes_per_s = 100_000
    downloads = HttpDownloads(RealFiles(str(tmp_path)), patience=HASTY)
    errors: list[Exception] = []

    def run() -> None:
        try:
            downloads.fetch(f"{mirror.url}/file", TO, SUM)
        except ArtifactUnavailable as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    end = time.monotonic() + 30
    while mirror.sent < 32_768 and time.monotonic() < end:
        time.sleep(0.01)
    downloads.stop()
    thread.join(timeout=30)
    assert "stopped" in str(errors[0])
    assert at(tmp_path, ".part").stat().st_size > 0


def test_a_look_tells_the_size_and_a_small_file_is_read(mirror: Mirror, tmp_path: Path) -> None:
    downloads = HttpDownloads(RealFiles(str(tmp_path)), patience=HASTY)
    assert downloads.look(f"{mirror.url}/file") == len(DATA)
    assert downloads.read(f"{mirror.url}/file", limit=400_000) == DATA
    with pytest.raises(ArtifactRefused, match="larger than 1000 bytes"):
        downloads.read(f"{mirror.url}/file", limit=1000)
    with pytest.raises(ArtifactRefused, match="not an address"):
        downloads.look("ftp://host/file")


# ---- what a company's network takes


@pytest.mark.parametrize("is_trusted", [True, False])
def test_a_mirror_is_trusted_as_this_machine_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_trusted: bool
) -> None:
    own, other = (make_authority(tmp_path, name) for name in ("own", "other"))
    monkeypatch.setenv("SSL_CERT_FILE", str((own if is_trusted else other).certificate))
    shown = make_certificate(tmp_path, "mirror", own)
    with serving(shown, lambda request: Answer(body=DATA)) as server:
        downloads = HttpDownloads(RealFiles(str(tmp_path)), patience=HASTY)
        if is_trusted:
            downloads.fetch(f"{server.url}/file", TO, SUM)
            assert at(tmp_path).read_bytes() == DATA
            return
        with pytest.raises(ArtifactUnavailable, match=r"certificate verify failed"):
            downloads.fetch(f"{server.url}/file", TO, SUM)
        assert not server.requests


def test_credentials_come_from_netrc_and_are_in_no_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = make_authority(tmp_path, "own")
    monkeypatch.setenv("SSL_CERT_FILE", str(own.certificate))
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login builder password hidden\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))

    def answer(request: Request) -> Answer:
        is_allowed = request.headers.get("Authorization", "").startswith("Basic ")
        return Answer(body=DATA) if is_allowed else Answer(status=401)

    with serving(make_certificate(tmp_path, "mirror", own), answer) as server:
        downloads = HttpDownloads(RealFiles(str(tmp_path)), patience=HASTY)
        downloads.fetch(f"{server.url}/file", TO, SUM)
        assert at(tmp_path).read_bytes() == DATA
        netrc.unlink()
        with pytest.raises(ArtifactRefused, match="HTTP status 401") as refused:
            downloads.fetch(f"{server.url}/file", TO, SUM)
        assert "hidden" not in f"{refused.value} {refused.value.hint}"


def test_a_proxy_of_the_environment_is_gone_through(
    mirror: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", mirror.url)
    monkeypatch.delenv("no_proxy", raising=False)
    mirror.files["http://published.example/file"] = DATA
    downloads = HttpDownloads(RealFiles(str(tmp_path)), patience=HASTY)
    downloads.fetch("http://published.example/file", TO, SUM)
    assert at(tmp_path).read_bytes() == DATA
