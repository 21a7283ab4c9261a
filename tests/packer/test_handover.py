"""What a build hands to its VM: files that are laid over the image, proxies, credentials."""

from __future__ import annotations

import os
import shutil
import tarfile
from pathlib import Path

import pytest

from tests.functional.tlsserver import make_authority
from tests.lab.basics import REPOSITORY, CommandFailed, run
from tests.packer.program import needs_packer
from tests.packer.roots import DESCRIBE, Root

PACKER = REPOSITORY / "packer"


def hand_over(folder: Path, overlay: str = "", netrc: str = "", registry_auth: str = "") -> Path:
    """Prepare a folder, and return it."""
    script = str(PACKER / "handover.sh")
    run(["bash", script, str(folder), overlay, netrc, registry_auth], timeout_s=30)
    return folder


def members(archive: Path) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(archive) as tar:
        return {member.name: member for member in tar}


def test_a_build_that_hands_nothing_over_has_the_files_that_it_uploads(tmp_path: Path) -> None:
    folder = hand_over(tmp_path / "new" / "handover")
    assert members(folder / "overlay.tar") == {}
    assert (folder / "nothing").read_bytes() == b""


def test_files_of_the_overlay_are_roots_and_keep_their_modes(tmp_path: Path) -> None:
    overlay = tmp_path / "overlay"
    program = overlay / "usr" / "local" / "bin" / "own"
    program.parent.mkdir(parents=True)
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    (program.parent / "link").symlink_to("own")
    found = members(hand_over(tmp_path / "handover", str(overlay)) / "overlay.tar")
    own, link = (found[f"./usr/local/bin/{name}"] for name in ("own", "link"))
    assert (own.uid, own.gid, own.mode) == (0, 0, 0o755)
    assert link.linkname == "own"


def test_all_that_is_not_there_is_refused_at_once(tmp_path: Path) -> None:
    missing = [str(tmp_path / name) for name in ("overlay", "netrc", "auth.json")]
    with pytest.raises(CommandFailed) as failed:
        hand_over(tmp_path / "handover", *missing)
    for path in missing:
        assert path in failed.value.stderr
    assert not (tmp_path / "handover").exists()


def test_what_is_secret_is_not_copied_on_this_machine(tmp_path: Path) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine mirror.example login builder password hidden\n")
    folder = hand_over(tmp_path / "handover", netrc=str(netrc), registry_auth=str(netrc))
    assert not [path for path in folder.iterdir() if b"hidden" in path.read_bytes()]


# The build's own variables and locals, with a builder that does nothing.
TOLD = """
source "null" "nothing" {
  communicator = "none"
}

build {
  sources = ["source.null.nothing"]

  provisioner "shell-local" {
    environment_vars = concat(["FILE=${path.root}/told"], local.proxies, local.credentials)
    inline           = ["env > $FILE"]
  }
}
"""
HANDED = ("http_proxy", "https_proxy", "no_proxy")
NAMES = {*HANDED, *(name.upper() for name in HANDED), "NETRC", "REGISTRY_AUTH_FILE"}


def told_to_scripts(folder: Path, *variables: str) -> dict[str, str]:
    """What of the environment of this build's scripts is handed over, as Packer evaluates it."""
    description = folder / "packer"
    shutil.copytree(PACKER, description, ignore=shutil.ignore_patterns("plugins.pkr.hcl"))
    (folder / "appliance").mkdir()
    shutil.copy(REPOSITORY / "appliance" / "__init__.py", folder / "appliance")
    build = description / "oneke.pkr.hcl"
    text = build.read_text()
    begin = text.index("locals {")
    build.write_text(text[begin : text.index("\n}\n", begin) + 3] + TOLD)
    own = {name: value for name, value in os.environ.items() if name not in NAMES}
    own |= {"CHECKPOINT_DISABLE": "1", "PACKER_CACHE_DIR": str(folder)}
    run(["packer", "build", *variables, str(description)], env=own, timeout_s=60)
    lines = (description / "told").read_text().splitlines()
    told = dict(line.split("=", 1) for line in lines if "=" in line)
    return {name: value for name, value in told.items() if name in NAMES}


@needs_packer
def test_scripts_of_a_plain_build_are_told_nothing_of_it(tmp_path: Path) -> None:
    assert told_to_scripts(tmp_path) == {}


@needs_packer
def test_scripts_are_told_the_proxy_in_all_spellings_and_where_credentials_are(
    tmp_path: Path,
) -> None:
    proxy, others = "http://proxy.example:3128", "localhost,.example.com"
    netrc, auth = "-var=netrc=/some/netrc", "-var=registry_auth=/some/auth.json"
    told = told_to_scripts(tmp_path, f"-var=proxy={proxy}", f"-var=no_proxy={others}", netrc, auth)
    assert told == {
        **dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), proxy),
        **dict.fromkeys(("no_proxy", "NO_PROXY"), others),
        "NETRC": "/run/oneke-build/netrc",
        "REGISTRY_AUTH_FILE": "/run/oneke-build/registry-auth.json",
    }


@pytest.mark.bake
def test_the_overlay_is_there_with_its_authority_and_everything_else_as_it_was(
    root: Root, tmp_path: Path
) -> None:
    overlay = tmp_path / "overlay"
    authorities = overlay / "usr" / "local" / "share" / "ca-certificates"
    authorities.mkdir(parents=True)
    shutil.copy(make_authority(tmp_path, "own").certificate, authorities / "own.crt")
    for name in ("etc/oneke/service.d/own/service.yaml", "lib/own/file"):
        (overlay / name).parent.mkdir(parents=True)
        (overlay / name).write_text("summary: Of this company.\n")
    (overlay / "root").mkdir(mode=0o777)
    archive = hand_over(tmp_path / "handover", str(overlay)) / "overlay.tar"
    script = f"""set -euo pipefail
        {DESCRIBE}
        before=$(stat --format '%a %U' / /etc /root /usr/lib)
        for run in before after; do
            # The package's program warns of what is always there.
            bash /run/oneke-build/overlay.sh /run/oneke-build/overlay.tar > /tmp/said 2>&1 \\
                || {{ cat /tmp/said; exit 1; }}
            describe > "/tmp/$run"
        done
        diff /tmp/before /tmp/after
        [[ $(stat --format '%a %U' / /etc /root /usr/lib) == "$before" ]]
        cat /etc/oneke/service.d/own/service.yaml /usr/lib/own/file
        readlink /lib
        openssl verify -CApath /etc/ssl/certs /usr/local/share/ca-certificates/own.crt
    """
    said = root.run(script, files=[PACKER / "overlay.sh", archive]).splitlines()
    assert said == [
        *["summary: Of this company."] * 2,
        "usr/lib",
        "/usr/local/share/ca-certificates/own.crt: OK",
    ]


@pytest.mark.bake
def test_an_empty_overlay_changes_nothing(root: Root, tmp_path: Path) -> None:
    archive = hand_over(tmp_path / "handover") / "overlay.tar"
    script = f"""set -euo pipefail
        {DESCRIBE}
        describe > /tmp/before
        bash /run/oneke-build/overlay.sh /run/oneke-build/overlay.tar
        describe > /tmp/after
        diff /tmp/before /tmp/after
    """
    assert root.run(script, files=[PACKER / "overlay.sh", archive]) == ""
