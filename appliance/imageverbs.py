"""The verbs of an image's build: `install` and `check image`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from appliance.errors import EXIT_CONFIGURATION, EXIT_TEMPORARY

if TYPE_CHECKING:
    from appliance.apply import Outcome
    from appliance.installplan import Build
    from appliance.lock import Sources
    from appliance.locking import Locked
    from appliance.service import Service
    from appliance.system import System

_IN_DOUBT = (
    "something was published anew under its old name, and its old pin was kept; to accept it,"
    " remove the old pin from the lock (make its sum or digest '', or take all images of a changed"
    " list out), and write the lock again"
)

_PLAIN = (
    "was asked without TLS, so anybody on the way may have said what the lock now has; compare it"
    " with what is published before anything is built of it"
)


class WrongUsage(Exception):
    """The command line is not as it should be in a way that its parser can not tell."""


def add_image_verbs(verbs: Any) -> None:
    """Add them to the parser of the command line."""
    install = verbs.add_parser("install", help="fetch what an image carries (at image build)")
    install.description = (
        "Fetches what the lock pins, verifies every sum and puts it in place; what is there already"
        " is left alone, and what was cut is gone on with. With --lock it changes nothing of this"
        " machine, but reads what is published about the releases and writes the lock anew."
    )
    install.set_defaults(run=_install)
    install.add_argument("--lock", action="store_true", help="write the lock; fetch nothing")
    install.add_argument(
        "--release",
        action="append",
        default=[],
        metavar="NAME=VERSION",
        help="with --lock: another version than the drop-ins name; may be repeated",
    )
    install.add_argument(
        "--source",
        action="append",
        default=[],
        metavar="PREFIX=ADDRESS",
        help="a mirror, such as github.com=https://mirror.example/github or"
        " docker.io=registry.example/hub; may be repeated",
    )
    install.add_argument(
        "--without-artifacts",
        action="store_true",
        help="fetch nothing, as what is fetched comes another way; only make the links to it",
    )
    install.add_argument(
        "--dry-run", action="store_true", help="show what would be fetched, or found for the lock"
    )
    _add_image_options(install)

    check = verbs.add_parser("check", help="see whether an image has all that a boot needs")
    check.description = (
        "Looks for programs, units, kernel modules and all that install fetches, by their sums,"
        " without network; ends with 1 where something is missing."
    )
    check.set_defaults(run=_check)
    check.add_argument("what", choices=("image",), help="what is looked at")
    check.add_argument(
        "--without-artifacts", action="store_true", help="leave out what install fetches"
    )
    check.add_argument(
        "--without-kernel", action="store_true", help="leave out kernel modules, as in containers"
    )
    _add_image_options(check)


def _add_image_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--flavor", choices=("ce", "ee"), help="ce: programs and charts; ee: all images as well"
    )
    parser.add_argument("--arch", choices=("amd64", "arm64"), help="instead of this machine's")
    parser.add_argument(
        "--lock-file", metavar="FILE", type=Path, help="instead of the packaged artifacts.lock.yaml"
    )
    parser.add_argument("--json", action="store_true", help="print JSON on standard output")


def _install(arguments: argparse.Namespace) -> int:
    from appliance.decision import read_services
    from appliance.install import find_lock, read_lock, run_install, run_links
    from appliance.lock import parse_sources
    from appliance.logs import make_logger
    from appliance.options import Options
    from appliance.progress import ProgressBoard
    from appliance.system import RealClock, real_system

    _refuse_unused(arguments)
    system = real_system(watch=ProgressBoard(sys.stderr, RealClock()))
    services = read_services(Options())
    if arguments.without_artifacts:
        outcome = run_links(system, services, make_logger(), dry_run=arguments.dry_run)
        _print_outcome(outcome, "without artifacts", arguments)
        return 0
    lock_path = find_lock(arguments.lock_file)
    sources = parse_sources(arguments.source)
    if arguments.lock:
        return _write_lock(arguments, system, services, lock_path, sources)
    build = _build_of(arguments, sources)
    if build is None:
        raise WrongUsage(
            "install: --flavor ce or --flavor ee is needed, unless --lock or --without-artifacts is"
            " given"
        )
    lock = read_lock(lock_path)
    outcome = run_install(system, services, lock, build, make_logger(), dry_run=arguments.dry_run)
    _print_outcome(outcome, f"{build.flavor.value} for {build.arch}", arguments)
    return 0


def _refuse_unused(arguments: argparse.Namespace) -> None:
    """Refuse what would be ignored: whoever gave it expects something of it."""
    if arguments.lock and (arguments.flavor or arguments.arch):
        raise WrongUsage("install: a lock is of every flavor and machine: no --flavor or --arch")
    if arguments.release and not arguments.lock:
        raise WrongUsage("install: --release is for --lock; install fetches what the lock pins")
    fetching = (arguments.lock, arguments.flavor, arguments.arch, arguments.source)
    if arguments.without_artifacts and any(fetching):
        raise WrongUsage(
            "install: --without-artifacts fetches nothing: no --lock, --flavor, --arch or --source"
        )


def _print_outcome(outcome: Outcome, image: str, arguments: argparse.Namespace) -> None:
    from appliance.plan import describe

    count = len(outcome.changes)
    if arguments.json:
        steps = {step.action.name: step.change and asdict(step.change) for step in outcome.steps}
        document = {"dry_run": arguments.dry_run, "changes": count, "actions": steps}
        print(json.dumps(document, indent=1, default=str))
        return
    for line in describe(outcome.steps, unchanged=False):
        print(line)
    rest = " to make; nothing was changed" if arguments.dry_run else ""
    print(f"{image}: {count} change{'' if count == 1 else 's'}{rest}")


def _write_lock(
    arguments: argparse.Namespace,
    system: System,
    services: Mapping[str, Service],
    lock_path: Path,
    sources: Sources,
) -> int:
    from appliance.install import read_lock
    from appliance.lock import render_lock
    from appliance.locking import LockWriter, find_releases

    chosen = dict(_pair(text) for text in arguments.release)
    writer = LockWriter(system, sources, read_lock(lock_path, may_be_new=True))
    locked = writer.write(services, find_releases(services, chosen))
    if not arguments.dry_run:
        system.files.write(PurePosixPath(lock_path.absolute()), render_lock(locked.lock))
    _print_locked(locked, lock_path, arguments)
    if locked.is_in_doubt:
        return EXIT_CONFIGURATION
    return 0 if locked.is_whole else EXIT_TEMPORARY


def _print_locked(locked: Locked, lock_path: Path, arguments: argparse.Namespace) -> None:
    from appliance.locking import CHANGED, EMPTY

    for host in locked.plain:
        print(f"oneke-agent: warning: {host}: {_PLAIN}", file=sys.stderr)
    if locked.is_in_doubt:
        print(f"oneke-agent: {lock_path}: {_IN_DOUBT}", file=sys.stderr)
    if arguments.json:
        findings = [asdict(one) for one in locked.findings]
        document = {"lock": str(lock_path), "dry_run": arguments.dry_run, "findings": findings}
        print(json.dumps(document, indent=1))
        return
    for one in locked.findings:
        print(f"{one.verdict:<7}  {one.subject}{f': {one.reason}' if one.reason else ''}")
    verdicts = [one.verdict for one in locked.findings]
    empty, changed = verdicts.count(EMPTY), verdicts.count(CHANGED)
    rest = f", {changed} changed and not followed" if changed else ""
    rest += "; nothing was written" if arguments.dry_run else ""
    print(f"{lock_path}: {len(verdicts)} looked for, {empty} left empty{rest}")


def _pair(text: str) -> tuple[str, str]:
    name, equals, version = text.partition("=")
    if not (name and equals and version):
        raise WrongUsage(f"install: --release {text}: expected NAME=VERSION")
    return name, version


def _build_of(arguments: argparse.Namespace, sources: Sources) -> Build | None:
    from appliance.imagecontent import Flavor
    from appliance.installplan import Build

    if arguments.flavor is None:
        return None
    return Build(Flavor(arguments.flavor), arguments.arch or _own_arch(), sources)


def _own_arch() -> str:
    import platform

    machine = platform.machine()
    return {"x86_64": "amd64", "aarch64": "arm64"}.get(machine, machine)


def _check(arguments: argparse.Namespace) -> int:
    from appliance.decision import read_services
    from appliance.imagecheck import Looked, check_image
    from appliance.install import find_lock, read_lock
    from appliance.lock import Sources
    from appliance.options import Options
    from appliance.system import real_system

    looked = Looked(
        _build_of(arguments, Sources()),
        artifacts=not arguments.without_artifacts,
        kernel=not arguments.without_kernel,
    )
    lock = read_lock(find_lock(arguments.lock_file))
    lines = check_image(real_system(), read_services(Options()), lock, looked)
    missing = [line for line in lines if not line.is_there]
    if arguments.json:
        print(json.dumps([asdict(line) for line in lines], indent=1))
        return 1 if missing else 0
    for line in lines:
        hint = f" ({line.hint})" if line.hint else ""
        print(f"{'ok' if line.is_there else 'MISSING':<7}  {line.subject}: {line.found}{hint}")
    print(f"{len(lines)} looked for, {len(missing)} missing")
    return 1 if missing else 0
