"""`packer build packer` to its end, of a copy of the working tree.

Real are Packer, QEMU, cloud-init, ssh, the packages of the distribution, the scripts, the agent and
its wheels. Stand-ins, served by this machine, are the cloud image, the contextualization package,
and all that the lock of the copy names.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from appliance import paths
from appliance.lock import FILE, render_lock
from appliance.service import load_services
from appliance.system import real_system
from tests.functional.upstream import Upstream, running_upstream
from tests.lab.bake import Cache
from tests.lab.basics import REPOSITORY, LabError, run
from tests.packer.base import base_disk
from tests.packer.packages import build_context_package

FLAVOR = "ee"
RELEASE = "debian-12"
BUILD_S = 4 * 3600
"""Software emulation on a loaded machine takes hours for what a processor does in minutes."""

# The machine as a VM sees it behind QEMU's own network. Source: QEMU, "Network emulation".
_THIS_MACHINE = "10.0.2.2"
# Debian's Packer is 1.6, has its builders built in, and does not know the block in this file.
_LEFT_OUT = "packer/plugins.pkr.hcl"
_CONTEXT = "/one-context.deb"
# What scripts complain is told in the same form as the steps are.
_STEP = re.compile(
    r"^(\S+Z): ==> \S+: (?:Provisioning with shell script: \S*/)?"
    r"((?:[0-9]{2}-\S+\.sh|Retrieving|Copying|Starting VM|Waiting for SSH|Running|Provisioning"
    r"|Uploading|Gracefully|Converting)\b.*)$",
    re.MULTILINE,
)


@dataclass(frozen=True)
class Build:
    """The folder of a build.

    Attributes:
        folder: With the copy of the project, what Packer said, and what it made.
    """

    folder: Path

    @property
    def project(self) -> Path:
        """The copy of the working tree."""
        return self.folder / "project"

    @property
    def result(self) -> Path:
        """What the build made."""
        return self.project / "dist" / "image"

    @property
    def console(self) -> Path:
        """What the VM of the build said."""
        return self.project / "dist" / "image-console.log"

    @property
    def log(self) -> Path:
        """What Packer said, each line with its time."""
        return self.folder / "packer.log"

    @property
    def disk(self) -> Path:
        """The image."""
        [disk] = self.result.glob(f"oneke-*-{FLAVOR}-{RELEASE}-amd64.qcow2")
        return disk


def last_build(cache: Cache | None = None) -> Build:
    """The last build that came to its end.

    Raises:
        LabError: There is none.
    """
    build = Build((cache or Cache.default()).root / "packer-build")
    if not build.folder.exists():
        raise LabError("no image was built; run `python3 -m tests.packer build` outside the box")
    return build


def build_image(cache: Cache | None = None) -> Build:
    """Build an image of the working tree; it takes the place of the last one.

    Raises:
        LabError: The build fails; its folder stays as it is then.
    """
    cache = cache or Cache.default()
    base = base_disk(cache)
    partial = Build(cache.root / "packer-build.partial")
    shutil.rmtree(partial.folder, ignore_errors=True)
    partial.folder.mkdir()
    _copy_project(partial.project)
    upstream_folder = partial.folder / "upstream"
    upstream_folder.mkdir()
    with running_upstream(upstream_folder) as upstream:
        _write_lock(partial, upstream)
        package = build_context_package(partial.folder).read_bytes()
        upstream.mirror.files[_CONTEXT] = package
        variables = {
            "flavor": FLAVOR,
            "release": RELEASE,
            "accelerator": "tcg",
            "base_url": f"file://{base}",
            "base_checksum": f"sha256:{_sum_of(base)}",
            "context_url": f"{upstream.mirror.url}{_CONTEXT}".replace("127.0.0.1", _THIS_MACHINE),
            "context_sha256": hashlib.sha256(package).hexdigest(),
            "sources": " ".join(upstream.sources_at(_THIS_MACHINE)),
        }
        _run_packer(partial, [f"-var={name}={value}" for name, value in variables.items()])
    build = Build(cache.root / "packer-build")
    shutil.rmtree(build.folder, ignore_errors=True)
    partial.folder.rename(build.folder)
    return build


def durations(log: str) -> list[tuple[str, float]]:
    """How long each step of a build took, in seconds, by what Packer says when it begins one.

    Args:
        log: What Packer said, each line with its time.
    """
    found = [(datetime.fromisoformat(at), step) for at, step in _STEP.findall(log)]
    ends = [at for at, _ in found[1:]]
    return [
        (step, (end - at).total_seconds())
        for (at, step), end in zip(found, ends, strict=False)
        if end > at
    ]


def _copy_project(target: Path) -> None:
    """Copy what belongs to the project, as it is in the working tree."""
    listed = run(["git", "-C", str(REPOSITORY), "ls-files", "-z"]).stdout
    for name in filter(None, listed.split("\0")):
        source = REPOSITORY / name
        if source.exists() and name != _LEFT_OUT:
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target / name)


def _write_lock(build: Build, upstream: Upstream) -> None:
    """Have the copy's lock name what is served here."""
    services = load_services((paths.packaged_services(),))
    locked = upstream.lock(real_system(str(build.folder / "locking")), services)
    if not locked.is_whole:
        raise LabError(f"the lock has gaps: {locked.findings}")
    (build.project / "service.d" / FILE).write_text(render_lock(locked.lock))


def _run_packer(build: Build, variables: list[str]) -> None:
    # All that it started ends with it; its VM must not outlive a build that was cut.
    argv = ["setpriv", "--pdeathsig", "KILL", "unshare", "--mount", "--pid", "--fork"]
    argv += ["--kill-child=SIGKILL", "--mount-proc", "--propagation", "private", "--"]
    # What a build that failed leaves is looked at.
    argv += ["packer", "build", "-timestamp-ui", "-color=false", "-on-error=abort"]
    environment = os.environ | {
        "CHECKPOINT_DISABLE": "1",
        "PACKER_CACHE_DIR": str(build.folder / "cache"),
        "ONEKE_AGENT": str(Path(sys.executable).with_name("oneke-agent")),
    }
    print(f"packer: what it says is in {build.log}", file=sys.stderr, flush=True)
    with build.log.open("wb") as log:
        done = subprocess.run(
            [*argv, *variables, "packer"],
            cwd=build.project,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            timeout=BUILD_S,
            check=False,
        )
    if done.returncode != 0:
        said = build.log.read_text(errors="replace")
        raise LabError(f"packer build ended with status {done.returncode}: {said[-3000:]}")


def _sum_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
