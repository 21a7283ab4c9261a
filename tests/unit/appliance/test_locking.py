"""The lock is written from what is published, and from nothing else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from appliance.errors import ArtifactRefused, LockFileError
from appliance.lock import Lock, Pin, Sources
from appliance.locking import (
    CHANGED,
    EMPTY,
    KEPT,
    READ,
    Locked,
    LockWriter,
    find_chart,
    find_references,
    find_releases,
    find_sum,
)
from appliance.service import Service, load_services
from tests.fakes import FakeFiles, make_system
from tests.fakes.artifacts import FakeDownloads, FakeRegistry

SUM, OTHER = "a" * 64, "b" * 64
DIGEST = f"sha256:{SUM}"


@pytest.mark.parametrize(
    "text",
    [
        f"{SUM}  tool.tgz\n{OTHER}  other.tgz\n",
        f"{SUM} *tool.tgz\n",
        f"{SUM.upper()}  ./dist/tool.tgz\n{OTHER}  mytool.tgz\n",
        f"{SUM}\n",
        f"# sums\n{SUM}  tool.tgz\r\n",
    ],
)
def test_a_sum_is_found_among_others_or_alone(text: str) -> None:
    assert find_sum(text, "tool.tgz", "sums") == SUM


@pytest.mark.parametrize(
    "text",
    [
        "",
        f"{OTHER}  other.tgz\n",
        f"{SUM}\n{OTHER}\n",
        f"{SUM}  tool.tgz\n{OTHER}  tool.tgz\n",
        f"{SUM[:40]}  tool.tgz\n",
        "<html>not found</html>",
    ],
)
def test_no_sum_is_made_up(text: str) -> None:
    with pytest.raises(ArtifactRefused, match=r"sums: has (no|2) sums of tool\.tgz"):
        find_sum(text, "tool.tgz", "sums")


def index(**change: object) -> str:
    """Return the index of a repository with one chart."""
    entry = {"version": "1.2.3", "urls": ["chart-1.2.3.tgz"], "digest": SUM, **change}
    return yaml.safe_dump({"entries": {"chart": [{"version": "0.1"}, entry]}})


WHERE = "https://charts.example/stable/index.yaml"


@pytest.mark.parametrize(
    ("change", "url"),
    [
        ({}, "https://charts.example/stable/chart-1.2.3.tgz"),
        ({"urls": ["https://other.example/c.tgz"]}, "https://other.example/c.tgz"),
        ({"urls": ["/c.tgz"]}, "https://charts.example/c.tgz"),
        ({"version": "v1.2.3"}, "https://charts.example/stable/chart-1.2.3.tgz"),
        ({"digest": f"sha256:{SUM}"}, "https://charts.example/stable/chart-1.2.3.tgz"),
    ],
)
def test_a_chart_is_found_where_its_index_says(change: dict[str, object], url: str) -> None:
    assert find_chart(index(**change), "chart", "1.2.3", WHERE) == Pin(url, SUM)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (index(version="2"), "has no chart 1.2.3"),
        (index(digest=""), "has no digest"),
        (index(digest="sha1:abc"), "has no digest"),
        (index(urls=["oci://charts.example/chart"]), "which is not HTTP"),
        (index(urls=[]), "is no index"),
        ("entries: {}", "is no index"),
        ("[]", "is no index"),
        ("{", "is no index"),
    ],
)
def test_an_index_without_the_chart_is_refused(text: str, complaint: str) -> None:
    with pytest.raises(ArtifactRefused) as refused:
        find_chart(text, "chart", "1.2.3", WHERE)
    assert complaint in str(refused.value)


def test_references_get_the_registry_that_is_left_out() -> None:
    text = "# images\nlonghornio/a:v1\nquay.io/b/c:2\nbusybox:1\n\nlocalhost:5000/x:1\n"
    assert list(find_references(text, "list")) == [
        "docker.io/longhornio/a:v1",
        "quay.io/b/c:2",
        "docker.io/library/busybox:1",
        "localhost:5000/x:1",
    ]


@pytest.mark.parametrize("text", ["", "# nothing\n", "<html>\n", "image-without-tag\n"])
def test_what_is_no_list_of_images_is_refused(text: str) -> None:
    with pytest.raises(ArtifactRefused, match="is no list of images"):
        list(find_references(text, "list"))


DROP_IN = """
releases: {tool: v1+2}
files:
  - name: tool
    release: tool
    url: https://host.example/{version}/tool-{arch}.tgz
    sums: https://host.example/{version}/sums-{arch}
    unpack: /usr/local
images:
  - {release: tool, reference: 'quay.io/some/image:{version}'}
lists:
  - {release: tool, url: 'https://host.example/list'}
image_folder: /images
"""
SUMS = "https://host.example/v1%2B2/sums-{arch}"
URL = "https://host.example/v1%2B2/tool-{arch}.tgz"


@pytest.fixture
def services(tmp_path: Path) -> dict[str, Service]:
    """One drop-in, as an administrator may add one."""
    folder = tmp_path / "tool"
    folder.mkdir()
    (folder / "service.yaml").write_text("summary: A tool.\n")
    (folder / "image.yaml").write_text(DROP_IN)
    return load_services((tmp_path,))


class Web:
    """What is published."""

    def __init__(self) -> None:
        files = FakeFiles()
        self.downloads, self.registry = FakeDownloads(files), FakeRegistry(files)
        self.downloads.served = {
            SUMS.format(arch="amd64"): f"{SUM}  tool-amd64.tgz\n",
            SUMS.format(arch="arm64"): f"{OTHER}  tool-arm64.tgz\n",
            "https://host.example/list": "docker.io/listed/image:1\n",
        }
        self.registry.images = {
            "quay.io/some/image:v1+2": DIGEST,
            "docker.io/listed/image:1": DIGEST,
        }

    def lock(self, services: dict[str, Service], old: Lock | None = None) -> Locked:
        """Write the lock of it."""
        system = make_system(downloads=self.downloads, registry=self.registry)
        writer = LockWriter(system, Sources(), old or Lock())
        return writer.write(services, find_releases(services, {}))


def verdicts(locked: Locked) -> dict[str, str]:
    """What became of each pin."""
    return {finding.subject: finding.verdict for finding in locked.findings}


def test_a_folder_adds_to_the_lock_what_it_declares(services: dict[str, Service]) -> None:
    locked = Web().lock(services)
    assert set(verdicts(locked).values()) == {READ}
    assert locked.lock.files["tool"] == {
        "amd64": Pin(URL.format(arch="amd64"), SUM),
        "arm64": Pin(URL.format(arch="arm64"), OTHER),
    }
    assert locked.lock.images["tool"] == {
        "docker.io/listed/image:1": DIGEST,
        "quay.io/some/image:v1+2": DIGEST,
    }


def test_what_can_not_be_read_is_empty_with_its_address(services: dict[str, Service]) -> None:
    web = Web()
    web.downloads.served.clear()
    web.registry.images.clear()
    locked = web.lock(services)
    assert set(verdicts(locked).values()) == {EMPTY}
    assert not locked.is_whole
    assert locked.lock.files["tool"]["amd64"] == Pin(URL.format(arch="amd64"), "")
    assert locked.lock.images["tool"] == {"quay.io/some/image:v1+2": ""}


def test_what_was_pinned_stays_where_nothing_can_be_read(services: dict[str, Service]) -> None:
    known = Web().lock(services).lock
    web = Web()
    web.downloads.served.clear()
    web.registry.images.clear()
    again = web.lock(services, known)
    assert again.lock == known
    assert set(verdicts(again).values()) == {KEPT}


def test_a_sum_of_another_version_is_not_kept(services: dict[str, Service]) -> None:
    web = Web()
    web.downloads.served.clear()
    old = Lock(files={"tool": {"amd64": Pin("https://host.example/v0/tool-amd64.tgz", SUM)}})
    assert web.lock(services, old).lock.files["tool"]["amd64"].sha256 == ""


def test_what_is_published_anew_under_an_old_name_is_told_and_not_followed(
    services: dict[str, Service],
) -> None:
    known = Web().lock(services).lock
    web = Web()
    web.registry.images["quay.io/some/image:v1+2"] = f"sha256:{OTHER}"
    web.downloads.served[SUMS.format(arch="amd64")] = f"{OTHER}  tool-amd64.tgz\n"
    web.downloads.served["https://host.example/list"] = "docker.io/listed/image:2\n"
    again = web.lock(services, known)
    assert again.is_in_doubt
    assert again.lock == known
    changed = [one for one in again.findings if one.verdict == CHANGED]
    assert {one.subject: one.reason for one in changed} == {
        "tool for amd64": f"published is {OTHER}, pinned is {SUM}",
        "images of tool v1+2": (
            "published is docker.io/listed/image:2, pinned is docker.io/listed/image:1"
        ),
        "image quay.io/some/image:v1+2": f"published is sha256:{OTHER}, pinned is {DIGEST}",
    }


def test_what_is_published_anew_is_accepted_where_its_old_pin_was_removed(
    services: dict[str, Service],
) -> None:
    known = Web().lock(services).lock
    web = Web()
    web.downloads.served[SUMS.format(arch="amd64")] = f"{OTHER}  tool-amd64.tgz\n"
    removed = {"tool": {**known.files["tool"], "amd64": Pin(URL.format(arch="amd64"), "")}}
    again = web.lock(services, replace(known, files=removed))
    assert not again.is_in_doubt
    assert again.lock.files["tool"]["amd64"].sha256 == OTHER


def test_a_list_that_has_an_image_which_is_declared_too_is_no_other_list(
    services: dict[str, Service],
) -> None:
    web = Web()
    web.downloads.served["https://host.example/list"] += "quay.io/some/image:v2\n"
    system = make_system(downloads=web.downloads, registry=web.registry)
    old = Lock()
    for _ in range(2):
        locked = LockWriter(system, Sources(), old).write(services, {"tool": "v2"})
        assert verdicts(locked)["images of tool v2"] == READ
        old = locked.lock
    assert set(old.images["tool"]) == {"docker.io/listed/image:1", "quay.io/some/image:v2"}


def test_a_text_is_read_once_for_all_that_it_tells(services: dict[str, Service]) -> None:
    class Counting(FakeDownloads):
        def read(self, url: str, *, limit: int) -> bytes:
            self.asked.append(url)
            return super().read(url, limit=limit)

    web = Web()
    counting = Counting(FakeFiles())
    counting.served = web.downloads.served
    web.downloads = counting
    web.lock(services)
    assert len(counting.asked) == len(set(counting.asked)) == 3


def test_who_was_asked_without_tls_is_told(services: dict[str, Service]) -> None:
    mirrors = {
        "host.example": "http://mirror.example:8080/files",
        "quay.io": "http://registry.example:5000/quay",
        "docker.io": "hub.example",
    }
    web = Web()
    assert web.lock(services).plain == ()
    system = make_system(downloads=web.downloads, registry=web.registry)
    writer = LockWriter(system, Sources(mirrors), Lock())
    locked = writer.write(services, find_releases(services, {}))
    assert locked.plain == ("mirror.example:8080", "registry.example:5000")


def test_another_release_may_be_chosen_but_none_that_nobody_declares(
    services: dict[str, Service],
) -> None:
    assert find_releases(services, {"tool": "v9"}) == {"tool": "v9"}
    with pytest.raises(LockFileError, match="no release toll; there are tool"):
        find_releases(services, {"toll": "v9"})
