"""Whether all that a boot needs is in the image: looked for as it is, without network."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path, PurePosixPath

from appliance import paths
from appliance.errors import NotText, OnekeError
from appliance.fetch import AT_ONCE
from appliance.imagecontent import ARCHES, Flavor
from appliance.installplan import Build, find_fetches, find_links
from appliance.lock import Lock, Sources
from appliance.service import Service
from appliance.system import System
from appliance.system.together import run_together

_PROGRAM_FOLDERS = tuple(map(PurePosixPath, ("/usr/sbin", "/usr/bin", "/sbin", "/bin")))
_ENABLED = ("enabled", "enabled-runtime", "alias", "static")
_KERNELS = PurePosixPath("/lib/modules")
_PACKAGES = ("appliance", "roles", "jinja2", "yaml", "requests", "structlog", "tenacity")
_RUN_INSTALL = "run oneke-agent install"


@dataclass(frozen=True)
class ImageLine:
    """One thing that a boot needs.

    Attributes:
        is_there: Whether the image has it.
        found: What was found instead, or of it.
        hint: How it gets there; empty where it is there.
    """

    subject: str
    is_there: bool
    found: str
    hint: str = ""


@dataclass(frozen=True)
class Looked:
    """What is to be looked for.

    Attributes:
        build: Which image it is to be; None for the one that `install` made of it.
        artifacts: Whether what `install` fetches is looked for.
        kernel: Whether modules are looked for; roots of containers have no kernel.
    """

    build: Build | None
    artifacts: bool = True
    kernel: bool = True


def check_image(
    system: System, services: Mapping[str, Service], lock: Lock, looked: Looked
) -> tuple[ImageLine, ...]:
    """Look for everything, and say of each whether it is there."""
    lines = [*_agent(), *_needs(system, services, kernel=looked.kernel), *_links(system, services)]
    if looked.artifacts:
        lines += _artifacts(system, services, lock, looked.build)
    # Several drop-ins may need the same program.
    return tuple({line.subject: line for line in reversed(lines)}.values())[::-1]


def built_as(system: System) -> Build | None:
    """Return which image `install` made last, None where it did not come to its end."""
    try:
        record = json.loads(system.files.read(paths.IMAGE_RECORD) or "null")
        if record["arch"] not in ARCHES:
            return None
        return Build(Flavor(record["flavor"]), record["arch"], Sources())
    except (NotText, ValueError, KeyError, TypeError):
        return None


def _agent() -> Iterator[ImageLine]:
    """Look at the agent's own installation: a boot must neither install nor compile anything."""
    for name in _PACKAGES:
        spec = find_spec(name)
        cached = Path(spec.cached) if spec and spec.cached else None
        is_there = cached is not None and cached.is_file()
        found = "compiled" if is_there else "not compiled" if spec else "not installed"
        hint = "" if is_there else "install the agent by its wheel, and compile it"
        yield ImageLine(f"Python package {name}", is_there, found, hint)
    has_pip = find_spec("pip") is not None
    hint = "make the agent's environment --without-pip" if has_pip else ""
    yield ImageLine("no pip beside the agent", not has_pip, "pip" if has_pip else "none", hint)


def _needs(system: System, services: Mapping[str, Service], *, kernel: bool) -> Iterator[ImageLine]:
    kernels = _read_kernels(system) if kernel else {}
    if kernel and not kernels:
        yield ImageLine("kernel", False, f"none in {_KERNELS}", "install the distribution's kernel")
    for name, service in services.items():
        needs = service.image.needs
        for program in needs.programs:
            yield _program(system, program, name)
        for unit in needs.units:
            yield _unit(system, unit, name, must_be_on=False)
        for unit in needs.enabled:
            yield _unit(system, unit, name, must_be_on=True)
        for file in needs.files:
            is_there = system.files.state(PurePosixPath(file)) is not None
            yield _line(f"file {file}", is_there, name)
        for module in needs.modules:
            for version, known in kernels.items():
                is_there = module.replace("-", "_") in known
                yield _line(f"module {module} of kernel {version}", is_there, name)


def _links(system: System, services: Mapping[str, Service]) -> Iterator[ImageLine]:
    """Look at where links lead: that is there only where RKE2 runs."""
    for link in find_links(services):
        target = system.files.link_target(link.path)
        is_there = target == link.target
        found = f"leads to {target}" if target else "missing"
        hint = "" if is_there else _RUN_INSTALL
        yield ImageLine(link.name, is_there, found, hint)


def _line(subject: str, is_there: bool, service: str) -> ImageLine:
    hint = "" if is_there else f"{service} needs it: the image's package or script is missing"
    return ImageLine(subject, is_there, "there" if is_there else "missing", hint)


def _program(system: System, program: str, service: str) -> ImageLine:
    states = (system.files.state(folder / program) for folder in _PROGRAM_FOLDERS)
    is_there = any(state is not None and state.mode & 0o111 for state in states)
    return _line(f"program {program}", is_there, service)


def _unit(system: System, unit: str, service: str, *, must_be_on: bool) -> ImageLine:
    # This works without a service manager, as in a folder that is made an image.
    argv = ("systemctl", "is-enabled", unit)
    state = system.commands.run(argv, check=False).stdout.strip()
    is_there = state in _ENABLED if must_be_on else state not in ("", "not-found")
    line = _line(f"unit {unit}", is_there, service)
    return ImageLine(line.subject, is_there, state or "missing", line.hint)


def _read_kernels(system: System) -> dict[str, frozenset[str]]:
    """Return the modules of every kernel in the image, with underscores."""
    kernels = {}
    for version in system.bulk.list_names(_KERNELS):
        listed = [
            system.files.read(_KERNELS / version / name) or ""
            for name in ("modules.dep", "modules.builtin")
        ]
        names = {line.partition(":")[0].strip() for text in listed for line in text.splitlines()}
        stems = (PurePosixPath(name).name.partition(".ko")[0] for name in names if name)
        kernels[version] = frozenset(stem.replace("-", "_") for stem in stems)
    return kernels


def _artifacts(
    system: System, services: Mapping[str, Service], lock: Lock, build: Build | None
) -> Iterator[ImageLine]:
    made = built_as(system)
    found = f"{made.flavor.value} for {made.arch}" if made else "no record"
    is_that = made is not None and (
        build is None or (made.flavor, made.arch) == (build.flavor, build.arch)
    )
    yield ImageLine("image as install made it", is_that, found, "" if is_that else _RUN_INSTALL)
    wanted = build or made
    if wanted:
        yield from _fetched(system, services, lock, wanted)
    parts = system.bulk.list_names(paths.DOWNLOADS_DIR)
    hint = f"{_RUN_INSTALL} again, or remove {paths.DOWNLOADS_DIR}" if parts else ""
    yield ImageLine("no parts of downloads", not parts, ", ".join(parts) or "none", hint)


def _fetched(
    system: System, services: Mapping[str, Service], lock: Lock, build: Build
) -> Iterator[ImageLine]:
    fetches, errors = find_fetches(services, lock, build)
    for error in errors:
        yield ImageLine("lock", False, str(error), error.hint or "")
    results = run_together(
        [partial(one.check, system) for one in fetches], AT_ONCE, stop=lambda: None
    )
    for one, why in zip(fetches, results, strict=True):
        if isinstance(why, OnekeError):
            yield ImageLine(one.name, False, str(why), why.hint or "")
        else:
            yield ImageLine(one.name, not why, why or "as locked", _RUN_INSTALL if why else "")
