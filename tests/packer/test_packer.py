"""The build that Packer is told, as far as Debian's Packer, which is 1.6, can judge it offline."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.lab.basics import REPOSITORY, CommandFailed, run
from tests.packer.program import needs_packer

pytestmark = [pytest.mark.functional, needs_packer]

PACKER = REPOSITORY / "packer"
SEED = {"meta-data", "user-data", "vendor-data"}
SCRIPT = re.compile(r"[0-9][0-9]-.*\.sh")


def packer(folder: Path, *arguments: str) -> str:
    environment = os.environ | {"CHECKPOINT_DISABLE": "1", "PACKER_CACHE_DIR": str(folder)}
    done = run(["packer", *arguments], env=environment, timeout_s=60)
    return done.stdout


@pytest.fixture
def description(tmp_path: Path) -> Path:
    """The build without the one file that only newer Packer understands."""
    ignored = shutil.ignore_patterns("plugins.pkr.hcl")
    shutil.copytree(PACKER, tmp_path / "packer", ignore=ignored)
    (tmp_path / "appliance").mkdir()
    shutil.copy(REPOSITORY / "appliance" / "__init__.py", tmp_path / "appliance")
    return tmp_path / "packer"


@pytest.mark.parametrize("release", ["ubuntu-24.04", "debian-12"])
@pytest.mark.parametrize("arch", ["amd64", "arm64"])
@pytest.mark.parametrize("flavor", ["ce", "ee"])
def test_every_image_is_a_valid_build(
    description: Path, release: str, arch: str, flavor: str
) -> None:
    chosen = [f"-var=release={release}", f"-var=arch={arch}", f"-var=flavor={flavor}"]
    packer(description, "validate", *chosen, str(description))


def test_a_build_with_all_that_can_be_handed_over_is_valid(description: Path) -> None:
    names = ("proxy", "no_proxy", "overlay", "netrc", "registry_auth")
    packer(description, "validate", *(f"-var={name}=/x" for name in names), str(description))


@pytest.mark.parametrize(
    ("name", "accepted"),
    [
        ("release", "ubuntu-24.04 or debian-12"),
        ("arch", "amd64 or arm64"),
        ("flavor", "ce or ee"),
    ],
)
def test_another_image_is_refused_with_those_there_are(
    description: Path, name: str, accepted: str
) -> None:
    with pytest.raises(CommandFailed) as failed:
        packer(description, "validate", f"-var={name}=other", str(description))
    assert f"The {name} is {accepted}." in failed.value.stdout + failed.value.stderr


def test_an_unknown_argument_is_noticed(description: Path) -> None:
    build = description / "oneke.pkr.hcl"
    build.write_text(build.read_text().replace("disk_compression", "disk_compresion"))
    with pytest.raises(CommandFailed, match="disk_compresion"):
        packer(description, "validate", str(description))


def test_the_build_is_written_as_packer_formats_it(description: Path) -> None:
    for file in sorted(description.glob("*.pkr.hcl")):
        packer(description, "fmt", "-check", str(file))


def test_all_scripts_are_run_in_their_order_with_what_they_read(description: Path) -> None:
    run_scripts = (PACKER / "oneke.pkr.hcl").read_text()
    scripts = [path for path in sorted((PACKER / "scripts").iterdir()) if SCRIPT.match(path.name)]
    assert len(scripts) > 5
    # What the caller of a chroot needs and a VM does not.
    elsewhere = {"ONEKE_WHEELS", "ONEKE_IMAGES", "ONEKE_KERNEL"}
    read = {name for path in scripts for name in re.findall(r"\$\{(ONEKE_\w+)", path.read_text())}
    assert read - elsewhere == set(re.findall(r'"(ONEKE_\w+)=', run_scripts))
    told = (PACKER / "scripts" / "README.md").read_text()
    for name in (*(path.name for path in scripts), *read):
        assert f"`{name}`" in told


def test_what_the_vm_says_is_not_in_the_folder_that_a_failed_build_loses() -> None:
    (path,) = re.findall(r'"file:(.*)"', (PACKER / "oneke.pkr.hcl").read_text())
    assert path.startswith("${var.output_directory}")
    assert "/" not in path


def test_every_variable_is_described_and_used(description: Path) -> None:
    texts = {path.name: path.read_text() for path in description.glob("*.pkr.hcl")}
    variables = re.findall(
        r'^variable "(\w+)" \{(.*?)^\}', texts["variables.pkr.hcl"], re.DOTALL | re.MULTILINE
    )
    assert len(variables) > 10
    for name, body in variables:
        assert re.search(r'^  description = ".{20,}"$', body, re.MULTILINE), name
        assert f"var.{name}" in texts["oneke.pkr.hcl"], name


def test_every_base_image_is_pinned_by_release_and_digest(description: Path) -> None:
    text = (description / "variables.pkr.hcl").read_text()
    urls = re.findall(r'^ +url += "(.+)"$', text, re.MULTILINE)
    digests = re.findall(
        r'^ +checksum += "(sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128})"$', text, re.M
    )
    assert len(urls) == len(set(urls)) == len(digests) == len(set(digests)) == 4
    for url in urls:
        assert re.search(r"/(release-)?20\d{6}(-\d+)?/", url), f"{url} changes under its name"


def test_cloud_init_finds_all_that_it_asks_for() -> None:
    # It gives up the whole source where one of the files is not answered, and takes a source that
    # is read over the network for a local one where the mode is not said.
    assert {path.name for path in (PACKER / "seed").iterdir()} == SEED
    assert "serial=ds=nocloud;dsmode=net;s=http://" in (PACKER / "oneke.pkr.hcl").read_text()
    for name in ("user-data", "vendor-data"):
        assert (PACKER / "seed" / name).read_text().startswith("#cloud-config\n")


def test_cloud_init_lets_the_build_in_and_the_scripts_take_it_back() -> None:
    seed = (PACKER / "seed" / "user-data").read_text()
    (opened,) = re.findall(r"path: (/etc/ssh/\S+)", seed)
    assert opened in (PACKER / "scripts" / "90-clean.sh").read_text()
    assert "usermod --password '*' root" in (PACKER / "oneke.pkr.hcl").read_text()


def test_the_storage_disk_is_empty(tmp_path: Path) -> None:
    (command,) = re.findall(
        r'inline = \["(qemu-img create .*)"\]', (PACKER / "oneke.pkr.hcl").read_text()
    )
    disk = tmp_path / "disk.qcow2"
    argv = command.replace("${local.data_disk}", str(disk))
    argv = argv.replace("${var.storage_disk_size}", "10G").split()
    subprocess.run(argv, check=True, timeout=30)
    told = json.loads(run(["qemu-img", "info", "--output=json", str(disk)]).stdout)
    assert told["virtual-size"] == 10 << 30
    mapped = json.loads(run(["qemu-img", "map", "--output=json", str(disk)]).stdout)
    assert not any(part["data"] for part in mapped)
