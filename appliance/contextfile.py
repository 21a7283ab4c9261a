"""Where a VM's context comes from: the contextualization package's files, else the disc."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import PurePosixPath

from appliance import paths
from appliance.context import (
    MAX_CONTEXT_BYTES,
    Ambiguous,
    Context,
    is_doubtful,
    parse_context,
    parse_context_sh,
    parse_one_env,
)
from appliance.errors import CommandError, ContextError, FileError
from appliance.system import System

_TOKEN_BYTES = 4096
# How templates name what a VM of another role has.
_REFERENCE = re.compile(r"\$\{\w+\.TEMPLATE\.[\w.]+\}")
_TOKEN_LINE = re.compile(r'^export TOKENTXT="([A-Za-z0-9+/=]*)"\s*$', re.MULTILINE)


def gather_context(system: System, explicit: PurePosixPath | None = None) -> Context:
    """Read the context of this VM.

    The order is: the file asked for; one_env, with the context.sh beside it as the judge of
    doubtful values; context.sh alone; a block device labelled CONTEXT.

    Raises:
        ContextError: There is none, or what is there is no context.
    """
    return _without_references(_gather(system, explicit))


def _gather(system: System, explicit: PurePosixPath | None) -> Context:
    if explicit is not None:
        text = _read(system, explicit)
        if text is None:
            raise ContextError(f"{explicit}: no such file")
        return parse_context(text, str(explicit))
    for path in paths.ONE_ENV:
        text = _read(system, path)
        if text is not None:
            return _from_one_env(system, text, path)
    for path in paths.ONE_ENV:
        judge = _context_sh_beside(system, path)
        if judge is not None:
            return _with_token(judge, _read(system, path.parent / "token.txt"))
    return _from_disc(system)


def _without_references(context: Context) -> Context:
    """Take as empty what the front-end should have put in for, as older ones do not."""
    left = [key for key, value in context.values.items() if _REFERENCE.search(value)]
    if not left:
        return context
    values = {key: _REFERENCE.sub("", value) for key, value in context.values.items()}
    warning = f"{', '.join(sorted(left))}: OneFlow put nothing in for references to other VMs"
    return replace(context, values=values, warnings=(*context.warnings, warning))


def keep_context(system: System, context: Context) -> None:
    """Leave the context a run works with for daemons, which can not mount a disc."""
    document = {"source": context.source, "values": dict(context.values)}
    text = json.dumps(document) + "\n"
    if system.files.read(paths.CONTEXT_IN_FORCE) != text:
        system.files.write(paths.CONTEXT_IN_FORCE, text, mode=0o600)


def context_in_force(system: System, explicit: PurePosixPath | None = None) -> Context:
    """Return the context that the last sound run worked with, else read it as a run does.

    Raises:
        ContextError: There is none, or what is there is no context.
    """
    text = None if explicit else _read(system, paths.CONTEXT_IN_FORCE)
    try:
        kept = json.loads(text or "null")
        if kept is not None:
            return Context(kept["values"], kept["source"])
    except (ValueError, KeyError, TypeError):
        pass
    return gather_context(system, explicit)


def _read(system: System, path: PurePosixPath) -> str | None:
    try:
        return system.files.read(path, limit=MAX_CONTEXT_BYTES)
    except FileError as error:
        raise ContextError(str(error)) from error


def _context_sh_beside(system: System, one_env: PurePosixPath) -> Context | None:
    for name in paths.CONTEXT_SH_NAMES:
        path = one_env.parent / name
        text = _read(system, path)
        if text is not None:
            return Context(parse_context_sh(text, str(path)), str(path))
    return None


def _from_one_env(system: System, text: str, path: PurePosixPath) -> Context:
    """Take one_env, unless it is doubtful and a context.sh can decide."""
    try:
        values = parse_one_env(text, str(path))
        doubt = "values that hold quotes or backslashes" if is_doubtful(values) else ""
    except Ambiguous as ambiguous:
        judge = _context_sh_beside(system, path)
        if judge is None:
            raise
        return _judged(judge, text, path, str(ambiguous))
    judge = _context_sh_beside(system, path)
    if judge is None:
        return Context(values, str(path))
    different = sorted(
        key for key, value in judge.values.items() if values.get(key, value) != value
    )
    if different:
        doubt = f"another value for {', '.join(different[:5])}"
    elif doubt or any("\nexport " in value for value in judge.values.values()):
        doubt = doubt or "a value with a line that looks like an export"
    if doubt:
        return _judged(judge, text, path, f"{path} holds {doubt}")
    return Context({**values, **judge.values}, str(path))


def _judged(judge: Context, one_env: str, path: PurePosixPath, doubt: str) -> Context:
    token = _TOKEN_LINE.search(one_env)
    values = dict(judge.values)
    if token and token[1]:
        values.setdefault("TOKENTXT", token[1])
    warning = f"{doubt}; {judge.source} was taken instead of {path}"
    return Context(values, judge.source, (warning,))


def _with_token(context: Context, token: str | None) -> Context:
    if not token or context.get("TOKENTXT"):
        return context
    values = {**context.values, "TOKENTXT": token.strip()}
    return Context(values, context.source, context.warnings)


def _from_disc(system: System) -> Context:
    """Mount the context disc read-only, read it, and unmount it."""
    found = system.commands.run(("blkid", "-L", paths.CONTEXT_DISC_LABEL), check=False)
    device = found.stdout.strip()
    if not device:
        searched = ", ".join(str(path) for path in paths.ONE_ENV)
        raise ContextError(
            f"no context: none of {searched} is there, nor a disc labelled"
            f" {paths.CONTEXT_DISC_LABEL}",
            hint=(
                "does the VM template have a CONTEXT section, and is the contextualization package"
                " installed? A file can be given with --context"
            ),
        )
    mounted_at = system.files.real(paths.CONTEXT_MOUNT)
    system.files.ensure_folder(paths.CONTEXT_MOUNT, mode=0o700)
    try:
        system.commands.run(("mount", "-o", "ro,nosuid,nodev,noexec", device, mounted_at))
    except CommandError as error:
        raise ContextError(f"the context disc {device} can not be mounted: {error}") from error
    try:
        text = _read(system, paths.CONTEXT_MOUNT / "context.sh")
        token = system.files.read(paths.CONTEXT_MOUNT / "token.txt", limit=_TOKEN_BYTES)
    finally:
        system.commands.run(("umount", mounted_at), check=False)
    if text is None:
        raise ContextError(f"the context disc {device} holds no context.sh")
    return _with_token(Context(parse_context_sh(text, f"{device}: context.sh"), device), token)
