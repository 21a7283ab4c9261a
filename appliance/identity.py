"""Who this VM is, kept so that a node that converged once reboots without OneGate."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from appliance import paths
from appliance.errors import NotText
from appliance.system import System


@dataclass(frozen=True)
class Identity:
    """What OneGate told once and what was told to OneGate last.

    Attributes:
        vm_id: The VM this was learnt for; a copy of its disk in another VM must not believe it.
        published: The agent's own attributes as OneGate last stored them; no secrets are among
            them.
        service_id: The OneFlow service, which OneGate knows and the context need not.
    """

    vm_id: int | None = None
    role: str | None = None
    published: Mapping[str, str] = field(default_factory=dict)
    service_id: int | None = None


def read_identity(system: System, vm_id: int | None) -> Identity:
    """Return what is kept for this VM.

    It is an empty identity for another VM, or where nothing readable is kept.
    """
    try:
        kept = json.loads(system.files.read(paths.IDENTITY) or "{}")
        published = dict(kept.get("published", {}))
        service_id = kept.get("service_id")
        identity = Identity(kept.get("vm_id"), kept.get("role"), published, service_id)
    except (NotText, ValueError, AttributeError, TypeError):
        return Identity(vm_id)
    is_sound = isinstance(identity.role, str | None) and isinstance(service_id, int | None)
    is_own = identity.vm_id == vm_id and is_sound
    return identity if is_own else Identity(vm_id)


def keep_identity(system: System, identity: Identity) -> None:
    """Keep it for the next boot."""
    document = {
        "vm_id": identity.vm_id,
        "role": identity.role,
        "service_id": identity.service_id,
        "published": dict(identity.published),
    }
    system.files.ensure_folder(paths.STATE_DIR, mode=0o700)
    system.files.write(paths.IDENTITY, json.dumps(document, indent=1) + "\n", mode=0o600)
