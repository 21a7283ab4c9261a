"""The locks and what they lock: every package with digests, and the versions of pyproject.toml."""

from __future__ import annotations

import re
import tomllib

import pytest

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
