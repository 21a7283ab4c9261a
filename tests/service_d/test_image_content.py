"""What drop-ins declare for the image, and the lock that is checked in, belong together."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import PurePosixPath

import pytest

from appliance import paths
from appliance.artifact import FetchImage
from appliance.imagecontent import ARCHES, Flavor, fill_name, fill_url, find_image_folder
from appliance.installplan import Build, find_fetches
from appliance.lock import FILE, Lock, Pin, Sources, parse_lock, render_lock
from appliance.locking import find_releases
from appliance.service import load_services

SERVICES = load_services((paths.packaged_services(),))
LOCK_PATH = paths.packaged_services() / FILE
LOCK = parse_lock(LOCK_PATH.read_text(), FILE)
FILES = [file for service in SERVICES.values() for file in service.image.files]


def test_the_lock_is_written_as_install_writes_it() -> None:
    assert render_lock(LOCK) == LOCK_PATH.read_text()


def test_the_lock_has_the_releases_that_drop_ins_name() -> None:
    assert dict(LOCK.releases) == find_releases(SERVICES, {})


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_the_lock_has_every_file_where_its_drop_in_says(file) -> None:
    version = LOCK.releases[file.release]
    found = {arch: pin.url for arch, pin in LOCK.files[file.name].items()}
    assert found == {arch: fill_url(file.url, version, arch) for arch in ARCHES}


def test_the_lock_has_nothing_that_no_drop_in_declares() -> None:
    assert set(LOCK.files) == {file.name for file in FILES}
    declared = {
        fill_name(image.reference, LOCK.releases[image.release], "")
        for service in SERVICES.values()
        for image in service.image.images
    }
    listed = {one.release for service in SERVICES.values() for one in service.image.lists}
    found = {name for release, one in LOCK.images.items() if release not in listed for name in one}
    assert found == declared
    assert set(LOCK.images) >= listed


def filled(lock: Lock) -> Lock:
    """Fill a lock with sums of the right form: nobody's, but of something."""
    return Lock(
        releases=lock.releases,
        files={
            name: {arch: Pin(pin.url, pin.sha256 or "1" * 64) for arch, pin in pins.items()}
            for name, pins in lock.files.items()
        },
        charts={
            name: Pin(pin.url or f"https://charts.example/{name}.tgz", pin.sha256 or "2" * 64)
            for name, pin in lock.charts.items()
        },
        images={
            release: {
                reference: digest or f"sha256:{'3' * 64}"
                for reference, digest in (images or {"docker.io/some/image:1": ""}).items()
            }
            for release, images in lock.images.items()
        },
    )


@pytest.mark.parametrize("arch", ARCHES)
@pytest.mark.parametrize("flavor", Flavor)
def test_a_filled_lock_is_enough_for_every_image(flavor: Flavor, arch: str) -> None:
    fetches, errors = find_fetches(SERVICES, filled(LOCK), Build(flavor, arch, Sources()))
    assert not errors
    assert len({fetch.name for fetch in fetches}) == len(fetches)
    has_images = any(fetch.name.startswith("image ") for fetch in fetches)
    assert has_images == (flavor is Flavor.EE)


def test_an_image_that_the_lock_has_for_two_drop_ins_is_refused() -> None:
    lock = filled(LOCK)
    reference, digest = next(iter(lock.images["traefik-proxy"].items()))
    images = {**lock.images, "longhorn": {**lock.images["longhorn"], reference: digest}}
    build = Build(Flavor.EE, "amd64", Sources())
    _, errors = find_fetches(SERVICES, replace(lock, images=images), build)
    told = f"image {reference}: the lock has it for longhorn and for traefik"
    assert [str(error) for error in errors] == [told]


def test_every_network_plug_in_and_chart_is_in_the_image() -> None:
    fetches, _ = find_fetches(SERVICES, filled(LOCK), Build(Flavor.EE, "amd64", Sources()))
    names = " ".join(PurePosixPath(fetch.name).name for fetch in fetches)
    for plug_in in ("canal", "calico", "cilium", "flannel", "multus", "core"):
        assert f"rke2-images-{plug_in}.linux-amd64.tar.zst" in names
    for service in SERVICES.values():
        if service.component and service.component.chart:
            assert f"{service.component.chart.name}-{service.chart_version}.tgz" in names


def test_programs_and_units_are_names_not_paths() -> None:
    for service in SERVICES.values():
        needs = service.image.needs
        assert all(re.fullmatch(r"[a-z0-9.-]+", name) for name in needs.programs)
        assert all(re.fullmatch(r"[a-z0-9@-]+\.[a-z]+", name) for name in needs.units)
        assert all(name.startswith("/") for name in needs.files)


def test_archives_of_images_lie_in_a_folder_of_their_drop_in() -> None:
    """A node is offered them by the drop-ins it needs."""
    folder = find_image_folder(one.image for one in SERVICES.values())
    assert folder is not None
    archives = {
        (name, file.into)
        for name, service in SERVICES.items()
        for file in service.image.files
        if Flavor.CE not in file.flavors
    }
    assert archives == {(name, folder / name) for name, _ in archives}
    fetches, _ = find_fetches(SERVICES, filled(LOCK), Build(Flavor.EE, "amd64", Sources()))
    for one in fetches:
        if isinstance(one, FetchImage):
            assert one.path.parent.parent == folder
            assert SERVICES[one.path.parent.name].image.nodes
