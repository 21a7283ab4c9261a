"""The stage `install` of the packaged drop-ins, with a mirror and a real registry beside it."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from appliance import paths
from appliance.apply import Outcome
from appliance.errors import (
    ArtifactRefused,
    ArtifactUnavailable,
    FileError,
    OnekeError,
    SeveralErrors,
)
from appliance.imagecheck import Looked, check_image
from appliance.imagecontent import Flavor
from appliance.install import run_install
from appliance.installplan import Build
from appliance.lock import Lock, Pin, Sources, render_lock
from appliance.locking import CHANGED, EMPTY, KEPT, READ, Locked
from appliance.service import Service
from appliance.system import System, real_system
from appliance.system.bulk import RealBulk, Room
from appliance.system.download import HttpDownloads, Patience
from appliance.system.files import RealFiles
from tests.fakes import FakeLog
from tests.functional.upstream import IMAGES, LONGHORN, OTHERS, RKE2, Upstream, running_upstream

HASTY = Patience(connect_s=5, silence_s=2, window_s=1, slowest=10_000, tries=3, first_pause_s=0.01)

pytestmark = pytest.mark.functional


@pytest.fixture(scope="module")
def upstream(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Upstream]:
    """All that can be fetched."""
    with running_upstream(tmp_path_factory.mktemp("upstream")) as running:
        yield running


@pytest.fixture(scope="module")
def locked(
    upstream: Upstream, tmp_path_factory: pytest.TempPathFactory, services: Mapping[str, Service]
) -> Locked:
    """The lock of it, as `install --lock` writes it."""
    return upstream.lock(machine(tmp_path_factory.mktemp("locking")), services)


@pytest.fixture(autouse=True)
def good(upstream: Upstream) -> Iterator[None]:
    """Have the mirror behave, and as it was, whatever a test did to it."""
    files = dict(upstream.mirror.files)
    upstream.mirror.forget()
    upstream.mirror.bad.clear()
    yield
    upstream.mirror.files = files


def machine(root: Path) -> System:
    """A machine whose files are in a folder."""
    system = real_system(str(root))
    return replace(system, downloads=HttpDownloads(RealFiles(str(root)), patience=HASTY))


Installer = Callable[..., Outcome]


@pytest.fixture
def install(
    upstream: Upstream, locked: Locked, services: Mapping[str, Service], tmp_path: Path
) -> Installer:
    """Install into the folder of the test."""

    def run(
        flavor: Flavor = Flavor.CE, *, lock: Lock | None = None, system: System | None = None
    ) -> Outcome:
        build = Build(flavor, "amd64", upstream.sources)
        chosen = lock or locked.lock
        own = system or machine(tmp_path)
        return run_install(own, services, chosen, build, FakeLog(), dry_run=False)

    return run


@pytest.fixture(scope="module")
def whole(
    upstream: Upstream,
    locked: Locked,
    services: Mapping[str, Service],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """A folder that flavor EE was installed into."""
    root = tmp_path_factory.mktemp("whole")
    build = Build(Flavor.EE, "amd64", upstream.sources)
    run_install(machine(root), services, locked.lock, build, FakeLog(), dry_run=False)
    return root


@pytest.fixture
def installed(whole: Path, tmp_path: Path) -> Path:
    """The folder of the test, as if flavor EE had been installed into it."""
    shutil.copytree(whole, tmp_path, symlinks=True, dirs_exist_ok=True)
    return tmp_path


def archives(root: Path) -> dict[str, Path]:
    """Every archive of images by its name, wherever drop-ins say that they go."""
    found = [path for path in root.rglob("*") if path.name.endswith((".tar", ".tar.zst"))]
    return {path.name: path for path in found}


def tree(root: Path) -> dict[str, tuple[str, int]]:
    """Every file below a folder with its sum and mode, but for what a run is locked with."""
    return {
        str(path.relative_to(root)): (
            hashlib.sha256(path.read_bytes()).hexdigest(),
            path.stat().st_mode & 0o777,
        )
        for path in sorted(root.rglob("*"))
        if path.is_file() and not path.is_relative_to(root / "run")
    }


def problems(error: OnekeError) -> list[str]:
    """All that an error tells."""
    return [str(one) for one in (error.errors if isinstance(error, SeveralErrors) else (error,))]


# ---- the lock


def test_the_lock_has_every_sum_that_is_published(locked: Locked) -> None:
    assert locked.is_whole
    assert {finding.verdict for finding in locked.findings} == {READ}
    images = {one for found in locked.lock.images.values() for one in found}
    assert images == {*OTHERS, *(f"docker.io/{one}" for one in LONGHORN)}


def test_the_digest_in_the_lock_is_the_one_the_registry_stores(
    upstream: Upstream, locked: Locked
) -> None:
    for found in locked.lock.images.values():
        for digest in found.values():
            data = upstream.registry.blob(digest).read_bytes()
            assert f"sha256:{hashlib.sha256(data).hexdigest()}" == digest


def test_what_is_not_published_stays_empty_and_what_was_pinned_stays(
    upstream: Upstream, locked: Locked, services: Mapping[str, Service], tmp_path: Path
) -> None:
    del upstream.mirror.files[f"{RKE2}/sha256sum-arm64.txt"]
    del upstream.mirror.files["/charts.longhorn.io/index.yaml"]
    fresh = upstream.lock(machine(tmp_path), services)
    empty = {finding.subject for finding in fresh.findings if finding.verdict == EMPTY}
    assert empty == {
        "chart longhorn 1.9.1",
        "rke2 for arm64",
        *(f"rke2-images-{name} for arm64" for name in IMAGES),
    }
    assert fresh.lock.files["rke2"]["arm64"].sha256 == ""
    again = upstream.lock(machine(tmp_path), services, locked.lock)
    assert {one.subject for one in again.findings if one.verdict == KEPT} == empty
    assert again.lock == locked.lock


def test_a_release_that_was_changed_afterwards_is_told_and_not_followed(
    upstream: Upstream, locked: Locked, services: Mapping[str, Service], tmp_path: Path
) -> None:
    path = "/get.helm.sh/helm-v3.18.6-linux-amd64.tar.gz.sha256sum"
    upstream.mirror.files[path] = f"{'a' * 64}  helm-v3.18.6-linux-amd64.tar.gz\n".encode()
    again = upstream.lock(machine(tmp_path), services, locked.lock)
    changed = [finding for finding in again.findings if finding.verdict == CHANGED]
    assert [one.subject for one in changed] == ["helm for amd64"]
    assert locked.lock.files["helm"]["amd64"].sha256 in changed[0].reason
    assert again.lock == locked.lock


# ---- all of it


def test_an_image_of_flavor_ee_gets_everything_in_its_place(
    install: Installer, tmp_path: Path
) -> None:
    outcome = install(Flavor.EE)
    assert len(outcome.changes) == 7
    found = tree(tmp_path)
    assert found["usr/local/bin/rke2"][1] == 0o755
    assert found["usr/local/lib/systemd/system/rke2-server.service"][1] == 0o644
    assert (tmp_path / "usr/local/bin/helm").read_text() == "helm for amd64\n"
    assert "usr/local/bin/README.md" not in found
    # Before RKE2 runs it leads nowhere.
    kubectl = (tmp_path / "usr/local/bin/kubectl").readlink()
    assert str(kubectl) == "/var/lib/rancher/rke2/bin/kubectl"
    charts = {path.name for path in (tmp_path / "usr/share/oneke/charts").iterdir()}
    assert charts == {"longhorn-1.9.1.tgz", "metallb-0.15.2.tgz", "traefik-37.1.0.tgz"}
    images = archives(tmp_path)
    assert {f"rke2-images-{name}.linux-amd64.tar.zst" for name in IMAGES} <= images.keys()
    assert len(images) == len(IMAGES) + len(OTHERS) + len(LONGHORN)
    assert not (tmp_path / "var/cache/oneke").exists()


def test_an_archive_of_an_image_has_its_name_and_the_machine_s_kind(installed: Path) -> None:
    with tarfile.open(archives(installed)["quay.io_metallb_speaker_v0.15.2.tar"]) as tar:
        names = {member.name: tar.extractfile(member) for member in tar if member.isfile()}
        manifest = json.loads(names["manifest.json"].read())
        assert manifest[0]["RepoTags"] == ["quay.io/metallb/speaker:v0.15.2"]
        config = json.loads(names[manifest[0]["Config"]].read())
        assert config["architecture"] == "amd64"
        layer = names[manifest[0]["Layers"][0]]
        with tarfile.open(fileobj=layer) as content:
            text = content.extractfile("content").read()
    assert text == b"quay.io/metallb/speaker:v0.15.2 amd64\n"


def test_an_image_of_flavor_ce_gets_programs_and_charts(
    install: Installer, upstream: Upstream, tmp_path: Path
) -> None:
    install(Flavor.CE)
    assert (tmp_path / "usr/local/bin/rke2").exists()
    assert (tmp_path / "usr/share/oneke/charts/traefik-37.1.0.tgz").exists()
    assert not archives(tmp_path)
    record = json.loads((tmp_path / "var/lib/oneke/image/image.json").read_text())
    assert (record["flavor"], record["releases"]["rke2"]) == ("ce", "v1.35.7+rke2r1")
    assert not [path for path in upstream.mirror.bodies() if "rke2-images" in path]


def test_an_image_of_flavor_ce_on_top_of_ee_has_nothing_of_ee_left(
    install: Installer, installed: Path
) -> None:
    install(Flavor.CE)
    assert not archives(installed)
    left = tree(installed)
    assert "usr/local/bin/rke2" in left
    assert not [name for name in left if "artifacts/" in name and ".tar.json" in name]
    assert not install(Flavor.CE).changes


def test_a_second_run_changes_nothing_and_asks_nobody(
    install: Installer, upstream: Upstream, installed: Path
) -> None:
    before = tree(installed)
    assert not install(Flavor.EE).changes
    assert upstream.mirror.asked == []
    assert tree(installed) == before


def test_no_more_than_four_are_fetched_at_once(install: Installer, upstream: Upstream) -> None:
    for name in IMAGES:
        upstream.mirror.of(f"{RKE2}/rke2-images-{name}.linux-amd64.tar.zst").bytes_per_s = 2_000_000
    install(Flavor.EE)
    assert 2 <= upstream.mirror.at_once <= 4


def test_check_image_finds_all_of_it_and_what_is_taken_away(
    locked: Locked, services: Mapping[str, Service], installed: Path
) -> None:
    brought = {f"file {file}" for one in services.values() for file in one.image.needs.files}

    def missing() -> list[str]:
        lines = check_image(machine(installed), services, locked.lock, Looked(None, kernel=False))
        wanted = ("image ", "file ", "rke2 ", "helm ", "link ", "no parts")
        shown = [line for line in lines if line.subject.startswith(wanted)]
        assert len(shown) > len(IMAGES)
        return [line.subject for line in shown if not line.is_there and line.subject not in brought]

    assert missing() == []
    (installed / "usr/local/bin/kubectl").unlink()
    assert missing() == ["link /usr/local/bin/kubectl"]
    (installed / "usr/local/bin/kubectl").symlink_to("/var/lib/rancher/rke2/bin/kubectl")
    (installed / "usr/local/bin/rke2-killall.sh").unlink()
    chart = installed / "usr/share/oneke/charts/metallb-0.15.2.tgz"
    chart.write_bytes(chart.read_bytes()[:-1])
    assert missing() == [f"file /{chart.relative_to(installed)}", "rke2 in /usr/local"]


# ---- what is not as it is locked


@pytest.mark.parametrize(
    "path",
    [
        f"{RKE2}/rke2.linux-amd64.tar.gz",
        f"{RKE2}/rke2-images-core.linux-amd64.tar.zst",
        "/get.helm.sh/helm-v3.18.6-linux-amd64.tar.gz",
        "/traefik.github.io/charts/traefik/traefik-37.1.0.tgz",
    ],
    ids=["tarball", "image archive", "helm", "chart"],
)
def test_one_flipped_bit_in_a_file_is_named_with_both_sums_and_the_rest_is_fetched(
    install: Installer, upstream: Upstream, tmp_path: Path, path: str
) -> None:
    right = upstream.mirror.files[path]
    wrong = bytearray(right)
    wrong[len(wrong) // 2] ^= 1
    upstream.mirror.files[path] = bytes(wrong)
    flavor = Flavor.EE if "rke2-images" in path else Flavor.CE
    with pytest.raises(ArtifactRefused) as refused:
        install(flavor)
    expected, found = (hashlib.sha256(data).hexdigest() for data in (right, bytes(wrong)))
    told = str(refused.value)
    assert path.rpartition("/")[2] in told
    assert f"expected sha256 {expected}, found {found}" in told
    upstream.mirror.files[path] = right
    upstream.mirror.forget()
    install(flavor)
    assert upstream.mirror.bodies() == [path]
    assert not (tmp_path / "var/cache/oneke").exists()


def test_one_flipped_bit_in_a_layer_is_named_with_both_digests(
    install: Installer, upstream: Upstream, locked: Locked
) -> None:
    reference = "quay.io/metallb/controller:v0.15.2"
    layer = upstream.registry.layer_of(locked.lock.images["metallb"][reference], "amd64")
    right = layer.read_bytes()
    layer.write_bytes(right[:-1] + bytes([right[-1] ^ 1]))
    try:
        with pytest.raises(OnekeError) as refused:
            install(Flavor.EE)
    finally:
        layer.write_bytes(right)
    told = str(refused.value)
    assert "quay.io/metallb/controller@sha256:" in told
    assert f"sha256:{hashlib.sha256(right).hexdigest()}" in told
    assert install(Flavor.EE).changes
    assert not install(Flavor.EE).changes


def test_a_file_that_was_changed_in_place_is_fetched_again(
    install: Installer, upstream: Upstream, installed: Path
) -> None:
    before = tree(installed)
    images = archives(installed)
    places = (
        installed / "usr/local/bin/rke2",
        installed / "usr/share/oneke/charts/longhorn-1.9.1.tgz",
        images["rke2-images-canal.linux-amd64.tar.zst"],
        images["quay.io_frrouting_frr_9.1.0.tar"],
    )
    for place in places:
        data = bytearray(place.read_bytes())
        data[len(data) // 2] ^= 1
        place.write_bytes(data)
    upstream.mirror.forget()
    assert len(install(Flavor.EE).changes) == 1
    assert len(upstream.mirror.bodies()) == 3
    after = tree(installed)
    assert {k: v for k, v in after.items() if "journal" not in k} == {
        k: v for k, v in before.items() if "journal" not in k
    }


def test_all_that_a_mirror_lacks_is_told_before_anything_is_fetched(
    install: Installer, upstream: Upstream, locked: Locked, tmp_path: Path
) -> None:
    del upstream.mirror.files[f"{RKE2}/rke2.linux-amd64.tar.gz"]
    del upstream.mirror.files["/github.com/metallb/metallb.tgz"]
    images = {**locked.lock.images, "metallb-frr": {"quay.io/no/such:1": f"sha256:{'0' * 64}"}}
    with pytest.raises(SeveralErrors) as refused:
        install(Flavor.EE, lock=replace(locked.lock, images=images))
    told = problems(refused.value)
    assert [line.partition(": ")[0].rpartition("/")[2] for line in told] == [
        "metallb.tgz",
        f"such@sha256:{'0' * 64}",
        "rke2.linux-amd64.tar.gz",
    ]
    assert refused.value.exit_code == 78
    assert "usr/local/bin/helm" not in tree(tmp_path)


def test_every_empty_sum_is_refused_with_how_to_fill_it(install: Installer, locked: Locked) -> None:
    files = {**locked.lock.files, "rke2": {"amd64": Pin("https://github.com/x/y.tar.gz", "")}}
    images = {**locked.lock.images, "longhorn": {}}
    with pytest.raises(SeveralErrors) as refused:
        install(Flavor.EE, lock=replace(locked.lock, files=files, images=images))
    told = problems(refused.value)
    assert told[0] == "images of longhorn: the lock has none"
    assert told[1].startswith("rke2 for amd64: the lock has no sha256 (see https://github.com/")
    assert all("install --lock" in str(one.hint) for one in refused.value.errors)


def test_a_disk_that_is_too_small_is_told_before_anything_is_fetched(
    install: Installer, tmp_path: Path
) -> None:
    class SmallDisk(RealBulk):
        def room(self, folder: object) -> Room:
            return Room(1, 300_000_000 - 40_000_000)

    files = RealFiles(str(tmp_path))
    system = replace(machine(tmp_path), bulk=SmallDisk(files))
    with pytest.raises(
        FileError, match=r"247 MiB are free, and the artifacts take about 2\d\d MiB"
    ):
        install(Flavor.EE, system=system)
    assert "usr/local/bin/helm" not in tree(tmp_path)


# ---- mirrors that fail on the way


def test_a_mirror_that_vanishes_keeps_what_came_and_another_run_goes_on(
    install: Installer, upstream: Upstream, tmp_path: Path
) -> None:
    path = f"{RKE2}/rke2-images-core.linux-amd64.tar.zst"
    # The look before the download, then what the mirror holds out for.
    upstream.mirror.of(path).cuts = [0, 100_000, 0, 0]
    with pytest.raises(ArtifactUnavailable, match="100000 bytes of it are kept"):
        install(Flavor.EE)
    (part,) = (tmp_path / "var/cache/oneke").glob("*.part")
    assert part.stat().st_size == 100_000
    upstream.mirror.forget()
    install(Flavor.EE)
    assert upstream.mirror.bodies() == [path]
    assert upstream.mirror.asked[-1][1] == "bytes=100000-"


def test_a_slow_and_lying_mirror_is_got_along_with(install: Installer, upstream: Upstream) -> None:
    upstream.mirror.of(f"{RKE2}/rke2-images-canal.linux-amd64.tar.zst").bytes_per_s = 500_000
    upstream.mirror.of(f"{RKE2}/rke2-images-calico.linux-amd64.tar.zst").claims = 100
    upstream.mirror.of("/traefik.github.io/charts/traefik/traefik-37.1.0.tgz").encoding = "x-gzip"
    install(Flavor.EE)
    assert not install(Flavor.EE).changes


def test_a_registry_that_is_gone_is_told_for_every_image_and_gone_on_with_later(
    upstream: Upstream, locked: Locked, services: Mapping[str, Service], tmp_path: Path
) -> None:
    gone = {**upstream.sources.mirrors, "quay.io": "http://127.0.0.1:9"}
    build = Build(Flavor.EE, "amd64", Sources(gone))
    with pytest.raises(SeveralErrors, match=r"127\.0\.0\.1:9/frrouting/frr@sha256:") as refused:
        run_install(machine(tmp_path), services, locked.lock, build, FakeLog(), dry_run=False)
    assert {type(error) for error in refused.value.errors} == {ArtifactUnavailable}
    assert len(refused.value.errors) == 3
    assert refused.value.exit_code == 75
    build = Build(Flavor.EE, "amd64", upstream.sources)
    run_install(machine(tmp_path), services, locked.lock, build, FakeLog(), dry_run=False)
    assert len([name for name in archives(tmp_path) if name.startswith("quay.io_")]) == 3


CHILD = """
import signal
import sys
from pathlib import Path
from appliance import paths
from appliance.imagecontent import Flavor
from appliance.install import read_lock, run_install
from appliance.installplan import Build
from appliance.lock import parse_sources
from appliance.service import load_services
from appliance.system import real_system
from tests.fakes import FakeLog
# Whoever was started in the background of a script has inherited that interrupts are ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
root, lock, *sources = sys.argv[1:]
build = Build(Flavor.EE, "amd64", parse_sources(sources))
services = load_services((paths.packaged_services(),))
run_install(real_system(root), services, read_lock(Path(lock)), build, FakeLog(), dry_run=False)
"""


def test_a_run_that_is_killed_anywhere_is_gone_on_with(
    upstream: Upstream, locked: Locked, services: Mapping[str, Service], tmp_path: Path
) -> None:
    lock = tmp_path / "lock.yaml"
    lock.write_text(render_lock(locked.lock))
    root = tmp_path / "root"
    sources = [f"{prefix}={address}" for prefix, address in upstream.sources.mirrors.items()]
    argv = [sys.executable, "-c", CHILD, str(root), str(lock), *sources]
    for name in IMAGES:
        upstream.mirror.of(f"{RKE2}/rke2-images-{name}.linux-amd64.tar.zst").bytes_per_s = 800_000
    for kill_after in (1, 200_000, 1_000_000, 2_000_000):
        upstream.mirror.forget()
        process = subprocess.Popen(argv, start_new_session=True)
        end = time.monotonic() + 120
        while upstream.mirror.sent < kill_after and process.poll() is None:
            assert time.monotonic() < end
            time.sleep(0.005)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(timeout=30)
        assert process.returncode == -signal.SIGKILL, "the run was over before it was killed"
    done = subprocess.run(argv, timeout=180, check=False)
    assert done.returncode == 0
    # Nothing tells the tree from that of a run that nobody disturbed, but its journal.
    build = Build(Flavor.EE, "amd64", upstream.sources)
    other = tmp_path / "other"
    run_install(machine(other), services, locked.lock, build, FakeLog(), dry_run=False)
    journal = str(paths.INSTALL_JOURNAL.relative_to("/"))
    found, wanted = tree(root), tree(other)
    assert found.pop(journal) != wanted.pop(journal)
    assert found == wanted


def test_an_interrupt_ends_a_run_soon_and_keeps_what_came(
    upstream: Upstream, locked: Locked, tmp_path: Path
) -> None:
    lock, root = tmp_path / "lock.yaml", tmp_path / "root"
    lock.write_text(render_lock(locked.lock))
    for name in IMAGES:
        upstream.mirror.of(f"{RKE2}/rke2-images-{name}.linux-amd64.tar.zst").bytes_per_s = 50_000
    sources = [f"{prefix}={address}" for prefix, address in upstream.sources.mirrors.items()]
    argv = [sys.executable, "-c", CHILD, str(root), str(lock), *sources]
    process = subprocess.Popen(argv, stderr=subprocess.PIPE, text=True)
    end = time.monotonic() + 60
    # A download that goes on for long is under way.
    while not any(part.stat().st_size for part in (root / "var/cache/oneke").glob("*.zst.part")):
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert said.rstrip().endswith("KeyboardInterrupt")
    assert list((root / "var/cache/oneke").glob("*.zst.part"))
