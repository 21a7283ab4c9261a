"""What `oneke-agent status` shows: who this node is, how its last run ended, and what is so now."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, TextIO

from appliance import __version__, paths
from appliance.agent import describe_readiness
from appliance.contextfile import gather_context
from appliance.decision import decide, read_services, with_service
from appliance.errors import FileError, NotText, OnekeError
from appliance.facts import gather_facts
from appliance.identify import read_identity_of
from appliance.options import Options
from appliance.role import StatusLine
from appliance.system import System
from appliance.waiting import Ready


@dataclass(frozen=True)
class NodeStatus:
    """A node as a person wants to see it.

    Attributes:
        progress: What the last run said last: time, state, step, error; empty if there was none.
        readiness: What the role says now, in words; None where the role could not be asked.
        error: Why the node can not be described any further, or None.
    """

    vm_id: int | None
    role: str | None
    context: str | None
    published: Mapping[str, str]
    progress: Mapping[str, Any]
    lines: tuple[StatusLine, ...]
    readiness: str | None
    is_well: bool
    error: str | None

    def document(self) -> dict[str, Any]:
        """Return everything as JSON-ready values."""
        return {"version": __version__, **asdict(self)}


def describe_node(system: System, options: Options) -> NodeStatus:
    """Look at the machine; changes nothing, and asks nobody outside.

    Raises:
        FileError: The state directory can not be read, which takes root.
    """
    progress = _read_progress(system)
    try:
        services = read_services(options)
        context = gather_context(system, options.context_path)
        identity = read_identity_of(system, context, services)
    except FileError:
        raise
    except OnekeError as error:
        return NodeStatus(None, None, None, {}, progress, (), None, False, str(error))
    role_name = options.role or identity.role
    known = NodeStatus(
        identity.vm_id,
        role_name,
        context.source,
        identity.published,
        progress,
        (),
        None,
        False,
        None,
    )
    if role_name is None:
        return _with(known, error="its role is not known yet: OneGate was not asked successfully")
    try:
        decided = decide(role_name, with_service(context, identity), services)
    except OnekeError as error:
        return _with(known, error=str(error))
    facts = gather_facts(system, decided.role.facts_wanted(decided.params))
    readiness = decided.role.readiness(decided.params, facts)
    return _with(
        known,
        lines=decided.role.status(decided.params, facts),
        readiness=describe_readiness(readiness),
        is_well=isinstance(readiness, Ready),
    )


def _with(status: NodeStatus, **changes: Any) -> NodeStatus:
    return NodeStatus(**{**status.__dict__, **changes})


def _read_progress(system: System) -> Mapping[str, Any]:
    try:
        found = json.loads(system.files.read(paths.PROGRESS) or "{}")
    except (NotText, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def print_status(node: NodeStatus, out: TextIO) -> None:
    """Print it for a person, the subject first, what is wrong marked."""
    rows = [
        ("", "agent", __version__),
        ("", "vm", "unknown" if node.vm_id is None else str(node.vm_id)),
        ("", "role", node.role or "unknown"),
        ("", "context", node.context or "none"),
    ]
    if node.progress:
        last = node.progress
        said = last.get("error") or last.get("step") or ""
        rows.append(("", "last run", f"{last.get('state')}{f': {said}' if said else ''}"))
    rows += [("" if line.is_well else "!", line.subject, line.state) for line in node.lines]
    if node.readiness:
        rows.append(("" if node.is_well else "!", "node", node.readiness))
    if node.error:
        rows.append(("!", "error", node.error))
    width = max(len(subject) for _, subject, _ in rows)
    for mark, subject, state in rows:
        print(f"{mark or ' '} {subject:<{width}}  {state}", file=out)
