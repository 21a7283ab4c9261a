"""Keys of layers and wheels, and what is read of the host's package manager."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.lab.bake import (
    RELEASES,
    Cache,
    Extra,
    Image,
    Release,
    acquire_settings,
    current_image,
    dependencies_key,
    find_release,
    hash_files,
    layer_key,
    parse_sources,
    plan_steps,
    project_key,
    sources_list,
)
from tests.lab.basics import LabError

BOOKWORM = RELEASES[0]
NOBLE = RELEASES[2]

SCRIPTS = {
    "10-packages.sh": "ten\n",
    "60-contextualization.sh": "sixty\n",
    "80-agent.sh": "eighty\n",
    "90-clean.sh": "ninety\n",
}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name, text in SCRIPTS.items():
        path = tmp_path / "packer" / "scripts" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (tmp_path / "appliance").mkdir()
    (tmp_path / "appliance" / "cli.py").write_text("one\n")
    (tmp_path / "packer" / "requirements.lock").write_text("pyyaml==6.0.3\n")
    return tmp_path


def tree_args(tree: Path, kernel: str = "6.1") -> tuple[Path, Release, str, str]:
    return tree, BOOKWORM, "x86_64", kernel


def keys(tree: Path, kernel: str = "6.1") -> dict[str, str]:
    return {step.name: step.key for step in plan_steps(*tree_args(tree, kernel))}


def changed(before: dict[str, str], after: dict[str, str]) -> list[str]:
    assert list(before) == list(after)
    return [name for name in before if before[name] != after[name]]


def test_the_contextualization_comes_before_the_script_that_tames_it(tree: Path) -> None:
    assert list(keys(tree)) == [
        *("base", "10-packages.sh", "lab-context", "60-contextualization.sh"),
        *("lab-rke2", "80-agent.sh", "90-clean.sh"),
    ]


def test_the_same_tree_gives_the_same_keys(tree: Path) -> None:
    assert keys(tree) == keys(tree)


def test_a_changed_agent_only_remakes_its_layer_and_the_last(tree: Path) -> None:
    before = keys(tree)
    (tree / "appliance" / "cli.py").write_text("two\n")
    assert changed(before, keys(tree)) == ["80-agent.sh", "90-clean.sh"]


def test_a_changed_dependency_only_remakes_the_agents_layer_and_the_last(tree: Path) -> None:
    before = keys(tree)
    (tree / "packer" / "requirements.lock").write_text("pyyaml==6.0.4\n")
    assert changed(before, keys(tree)) == ["80-agent.sh", "90-clean.sh"]


def test_a_changed_script_remakes_its_layer_and_all_above(tree: Path) -> None:
    before = keys(tree)
    (tree / "packer" / "scripts" / "60-contextualization.sh").write_text("other\n")
    above = ["60-contextualization.sh", "lab-rke2", "80-agent.sh", "90-clean.sh"]
    assert changed(before, keys(tree)) == above


def test_an_extra_script_comes_after_its_step_and_leaves_the_layers_below(tree: Path) -> None:
    script = tree / "kernel.sh"
    script.write_text("kernel\n")
    extra = Extra("kernel", script, after="10-packages.sh")
    steps = plan_steps(tree, BOOKWORM, "x86_64", "6.1", [extra])
    with_it, without = {step.name: step.key for step in steps}, keys(tree)
    assert list(with_it)[:4] == ["base", "10-packages.sh", "kernel", "lab-context"]
    same = [name for name, key in without.items() if with_it[name] == key]
    assert same == ["base", "10-packages.sh"]


def test_nodes_do_not_boot_from_an_image_with_extra_scripts(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ONEKE_LAB_STALE", "1")
    monkeypatch.delenv("ONEKE_LAB_IMAGE", raising=False)
    monkeypatch.setattr("tests.lab.bake.working_tree_steps", lambda _: plan_steps(*tree_args(tree)))
    cache = Cache(tree / "cache")
    for folder in (cache.layers, cache.wheels):
        folder.mkdir(parents=True)
    steps = plan_steps(*tree_args(tree))
    cache.remember(steps, [])
    cache.remember(steps[:2], [], [Extra("kernel", tree / "kernel.sh", after="base")])
    assert current_image(tree, cache).layers[-1].name == steps[-1].key


def test_byte_code_does_not_count(tree: Path) -> None:
    before = project_key(tree)
    cache = tree / "appliance" / "__pycache__"
    cache.mkdir()
    (cache / "cli.cpython-311.pyc").write_bytes(b"code")
    assert project_key(tree) == before


def test_the_borders_of_a_keys_parts_count() -> None:
    assert layer_key("", b"ab", b"c") != layer_key("", b"a", b"bc")
    assert layer_key("a", b"b") != layer_key("b", b"b")


def test_the_right_to_execute_a_file_counts(tmp_path: Path) -> None:
    script = tmp_path / "run.sh"
    script.write_text("true\n")
    script.chmod(0o644)
    before = hash_files(tmp_path, ["run.sh"])
    script.chmod(0o755)
    assert hash_files(tmp_path, ["run.sh"]) != before


def test_a_missing_file_has_a_digest_of_its_own(tmp_path: Path) -> None:
    missing = hash_files(tmp_path, ["README.md"])
    (tmp_path / "README.md").write_text("")
    assert hash_files(tmp_path, ["README.md"]) != missing


def test_wheels_are_kept_apart_by_the_nodes_python(tree: Path) -> None:
    bookworm, noble = (dependencies_key(tree, release, "x86_64") for release in (BOOKWORM, NOBLE))
    assert bookworm != noble


@pytest.mark.parametrize(
    ("text", "codename"),
    [
        ('ID=debian\nVERSION_CODENAME=bookworm\nPRETTY_NAME="Debian 12"\n', "bookworm"),
        ('ID="ubuntu"\nVERSION_CODENAME="noble"\n', "noble"),
    ],
)
def test_the_release_is_found(text: str, codename: str) -> None:
    assert find_release(text).codename == codename


def test_an_unknown_release_is_refused_with_the_known_ones() -> None:
    with pytest.raises(LabError, match=r"runs fedora forty; .* debian bookworm"):
        find_release("ID=fedora\nVERSION_CODENAME=forty\n")


def test_only_the_releases_own_archives_are_taken() -> None:
    targets = (
        "http://a.example/debian/|oldstable|bookworm|bookworm|main\n"
        "http://a.example/security|oldstable-security|bookworm-security|bookworm-security|main\n"
        "http://b.example/apt/|bookworm-pgdg|bookworm-pgdg|bookworm-pgdg|main\n"
        "http://c.example/linux/|bookworm|bookworm|bookworm|stable\n"
    )
    sources = parse_sources(targets, BOOKWORM)
    signed = "[signed-by=/usr/share/keyrings/debian-archive-keyring.gpg]"
    assert sources_list(sources, BOOKWORM) == (
        f"deb {signed} http://a.example/debian/ bookworm main\n"
        f"deb {signed} http://a.example/security/ bookworm-security main\n"
    )


def test_a_host_without_the_archive_is_told_what_to_do() -> None:
    with pytest.raises(LabError, match="apt-get update"):
        parse_sources("http://a.example/debian/|sid|sid|sid|main\n", BOOKWORM)


def test_only_settings_of_downloads_are_taken_from_the_host() -> None:
    dump = (
        'Acquire::http::Proxy "http://p.example:3128";\n'
        'Acquire::Check-Valid-Until "false";\n'
        'Acquire::IndexTargets::deb::Packages::Optional "0";\n'
    )
    assert acquire_settings(dump) == "".join(dump.splitlines(keepends=True)[:2])


def test_the_topmost_layer_comes_first() -> None:
    image = Image((Path("/c/base"), Path("/c/top")))
    assert image.lowerdir == "/c/top/fs:/c/base/fs"


def test_the_cache_is_where_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ONEKE_LAB_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert Cache.default().root == Path("/x/oneke-lab")
    monkeypatch.setenv("ONEKE_LAB_CACHE", "/y")
    assert Cache.default().root == Path("/y")
