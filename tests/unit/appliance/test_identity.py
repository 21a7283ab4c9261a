"""Who this VM is: kept for it, and for nobody else."""

from __future__ import annotations

import json
from pathlib import PurePosixPath

import pytest

from appliance import paths
from appliance.errors import FileError
from appliance.identity import Identity, keep_identity, read_identity
from appliance.system import System
from tests.fakes import FakeFiles, make_system

IDENTITY = Identity(365, "vnf", {"READY": "YES"})


def test_an_identity_is_read_as_it_was_kept(system: System) -> None:
    keep_identity(system, IDENTITY)
    assert read_identity(system, 365) == IDENTITY


def test_it_is_kept_for_root_only() -> None:
    files = FakeFiles()
    keep_identity(make_system(files=files), IDENTITY)
    assert files.kept[paths.IDENTITY].mode == 0o600
    assert files.folders[paths.STATE_DIR] == 0o700


@pytest.mark.parametrize("vm_id", [366, None, 0])
def test_a_copy_of_the_disk_in_another_vm_does_not_believe_it(
    system: System, vm_id: int | None
) -> None:
    keep_identity(system, IDENTITY)
    assert read_identity(system, vm_id) == Identity(vm_id)


def test_a_vm_that_can_not_tell_its_id_does_not_lend_its_identity(system: System) -> None:
    keep_identity(system, Identity(None, "vnf", {"READY": "YES"}))
    assert read_identity(system, 365) == Identity(365)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "5",
        "null",
        '"x"',
        b"\xff\xfe",
        "\0\0\0",
        json.dumps({"vm_id": 365, "role": "vnf", "published": 5}),
        json.dumps({"vm_id": 365, "role": "vnf", "published": ["x"]}),
        json.dumps({"vm_id": 365, "role": 5, "published": {}}),
        json.dumps({"vm_id": 365, "role": "vnf", "published": None}),
        json.dumps({"vm_id": "365", "role": "vnf"}),
    ],
)
def test_a_broken_file_tells_nothing(text: str | bytes) -> None:
    system = make_system(files=FakeFiles({str(paths.IDENTITY): text}))
    assert read_identity(system, 365) == Identity(365)


def test_no_file_tells_nothing(system: System) -> None:
    assert read_identity(system, 365) == Identity(365)


def test_a_file_that_can_not_be_read_is_an_error_and_no_new_vm() -> None:
    files = FakeFiles({str(paths.IDENTITY): "{}"})
    files.fail(PurePosixPath(paths.IDENTITY), "Permission denied")
    with pytest.raises(FileError, match="Permission denied"):
        read_identity(make_system(files=files), 365)
