"""The stage `install`, run once when an image is built."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from pathlib import Path

from appliance import __version__, paths
from appliance.apply import Journal, Outcome, apply, preflight, preview
from appliance.errors import LockFileError, OnekeError
from appliance.installplan import Build, build_install_plan, build_links_plan
from appliance.lock import FILE, Lock, parse_lock
from appliance.logs import Logger
from appliance.plan import Plan
from appliance.service import Service
from appliance.system import System


def find_lock(given: Path | None) -> Path:
    """Return the lock that is meant: the one given, the administrator's, the packaged one."""
    if given is not None:
        return given
    own = Path(paths.ADMINISTRATOR_SERVICES) / FILE
    return own if own.is_file() else paths.packaged_services() / FILE


def read_lock(path: Path, *, may_be_new: bool = False) -> Lock:
    """Read a lock.

    Args:
        path: The file.
        may_be_new: Whether one that is not there yet is one that pins nothing.

    Raises:
        LockFileError: It is not well formed, not there, or can not be read.
    """
    try:
        return parse_lock(path.read_text(encoding="utf-8"), str(path))
    except FileNotFoundError as error:
        if may_be_new:
            return Lock()
        hint = "oneke-agent install --lock writes one"
        raise LockFileError(f"{path}: there is no such lock", hint=hint) from error
    except (OSError, UnicodeDecodeError) as error:
        raise LockFileError(f"{path}: can not be read: {error}") from error


def run_install(
    system: System,
    services: Mapping[str, Service],
    lock: Lock,
    build: Build,
    log: Logger,
    *,
    dry_run: bool,
) -> Outcome:
    """Have everything in place that the lock names, or find out what is missing.

    What is missing is asked for before anything is fetched: the first error tells all of them.

    Raises:
        OnekeError: What kept it from being done; what came until then is gone on with.
    """
    plan = build_install_plan(services, lock, build)
    log = log.bind(flavor=build.flavor.value, arch=build.arch)
    return _run(system, plan, log, {"flavor": build.flavor.value}, dry_run=dry_run)


def run_links(
    system: System, services: Mapping[str, Service], log: Logger, *, dry_run: bool
) -> Outcome:
    """Have the links in place of an image whose artifacts come another way.

    Raises:
        OnekeError: What kept it from being done.
    """
    return _run(system, build_links_plan(services), log, {}, dry_run=dry_run)


def _run(
    system: System, plan: Plan, log: Logger, told: Mapping[str, str], *, dry_run: bool
) -> Outcome:
    if dry_run:
        return preview(plan, system)
    system.files.ensure_folder(paths.RUN_DIR, mode=0o700)
    with system.files.lock(paths.LOCK):
        system.files.ensure_folder(paths.STATE_DIR, mode=0o700)
        system.files.ensure_folder(paths.IMAGE_DIR)
        journal = Journal(system, uuid.uuid4().hex[:12], paths.INSTALL_JOURNAL)
        log = log.bind(stage=plan.stage.value)
        found = preview(plan, system)
        if not found.changes:
            return found
        preflight((action for action, _ in found.changes), system)
        journal.record("run.start", version=__version__, **told)
        try:
            outcome = apply(plan, system, journal, log)
        except OnekeError as error:
            journal.record("run.end", state="FAILED", error=str(error))
            raise
        journal.record("run.end", state="DONE", changes=len(outcome.changes))
        return outcome
