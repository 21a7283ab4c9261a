"""The locks and what they lock: every package with digests, and the versions of pyproject.toml."""

from __future__ import annotations

import os
import re
import shutil
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.lab.basics import REPOSITORY, CommandFailed, run

PACKER = REPOSITORY / "packer"
_ENTRY = re.compile(r"^([A-Za-z0-9_.-]+)==(\S+)((?: \\\n    --hash=sha256:[0-9a-f]{64})+)\n", re.M)
PYPROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())


def locked(name: str) -> dict[str, str]:
    text = (PACKER / name).read_text()
    entries = {found[1].lower(): found[2] for found in _ENTRY.finditer(text)}
    rest = [line for line in _ENTRY.sub("", text).splitlines() if not line.startswith("#")]
    assert not rest, "a package without digest, or for some machines only"
    return entries


@pytest.mark.parametrize(
    ("lock", "declared"),
    [
        ("requirements.lock", PYPROJECT["project"]["dependencies"]),
        ("build.lock", PYPROJECT["build-system"]["requires"]),
    ],
)
def test_a_lock_has_the_versions_of_the_project(lock: str, declared: list[str]) -> None:
    entries = locked(lock)
    assert declared
    for requirement in declared:
        name, version = requirement.lower().split("==")
        assert entries.get(name) == version, f"{requirement}: run `make lock`"


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["all", "sid", "x86_64", "/nowhere"], "release 'sid'"),
        (["all", "noble", "i386", "/nowhere"], "machine 'i386'"),
        (["all", "noble", "x86_64"], "expected a folder"),
    ],
)
def test_wheels_for_an_unknown_machine_are_refused(arguments: list[str], complaint: str) -> None:
    with pytest.raises(CommandFailed, match=complaint) as failed:
        run(["bash", str(PACKER / "wheels.sh"), *arguments])
    assert failed.value.rc == 64


def preflight(project: Path, lock: dict[str, Any], *arguments: str) -> str:
    """Have a build judged in a folder with the project's scripts and a lock of its own.

    Raises:
        CommandFailed: It is refused.
    """
    shutil.copytree(PACKER, project / "packer", dirs_exist_ok=True)
    (project / "service.d").mkdir(exist_ok=True)
    (project / "service.d" / "artifacts.lock.yaml").write_text(yaml.safe_dump(lock))
    agent = Path(sys.executable).with_name("oneke-agent")
    environment = os.environ | {"ONEKE_AGENT": str(agent)}
    argv = ["bash", f"{project}/packer/preflight.sh", *arguments]
    return run(argv, env=environment, timeout_s=60).stderr


@pytest.fixture
def locked_for_ce() -> dict[str, Any]:
    """A lock with all that a CE image for amd64 needs, and nothing else."""
    lock = yaml.safe_load((REPOSITORY / "service.d" / "artifacts.lock.yaml").read_text())
    for name, pin in lock["charts"].items():
        pin.update(url=f"https://charts.example/{name}.tgz", sha256="1" * 64)
    for pins in lock["files"].values():
        for arch, pin in pins.items():
            pin["sha256"] = ""
            if arch == "amd64":
                pin["sha256"] = "2" * 64
    for pins in lock["images"].values():
        pins.update(dict.fromkeys(pins, ""))
    return lock


def test_a_build_with_all_sums_is_begun(tmp_path: Path, locked_for_ce: dict[str, Any]) -> None:
    address = "https://mirror.example/one-context.deb"
    assert preflight(tmp_path, locked_for_ce, "ce", "amd64", address, "3" * 64) == ""
    # Without an address the base image has the package.
    assert preflight(tmp_path, locked_for_ce, "ce", "amd64", "", "") == ""


def test_the_lock_is_judged_that_is_laid_over_the_image(
    tmp_path: Path, locked_for_ce: dict[str, Any]
) -> None:
    overlay = tmp_path / "overlay"
    own = overlay / "etc" / "oneke" / "service.d"
    own.mkdir(parents=True)
    arguments = ("ce", "amd64", "", "", str(overlay))
    with pytest.raises(CommandFailed, match="the lock does not do"):
        preflight(tmp_path, {"releases": {}}, *arguments)
    (own / "artifacts.lock.yaml").write_text(yaml.safe_dump(locked_for_ce))
    assert preflight(tmp_path, {"releases": {}}, *arguments) == ""


@pytest.mark.parametrize(("flavor", "arch"), [("ee", "amd64"), ("ce", "arm64")])
def test_a_build_is_refused_for_all_sums_that_its_flavor_lacks(
    tmp_path: Path, locked_for_ce: dict[str, Any], flavor: str, arch: str
) -> None:
    with pytest.raises(CommandFailed) as failed:
        preflight(tmp_path, locked_for_ce, flavor, arch, "https://mirror.example/x.deb", "")
    said = failed.value.stderr
    assert "context_sha256 is empty" in said
    assert f"the lock does not do for {flavor} on {arch}" in said
    assert ("traefik" in said) == (flavor == "ee")
    assert ("helm for arm64: the lock has no sha256" in said) == (arch == "arm64")


def test_a_build_without_the_agent_is_told_how_to_get_it(tmp_path: Path) -> None:
    shutil.copytree(PACKER, tmp_path / "packer")
    with pytest.raises(CommandFailed, match="pip install -e") as failed:
        run(["bash", f"{tmp_path}/packer/preflight.sh", "ce", "amd64", "", ""])
    assert "judge the lock" in failed.value.stderr
