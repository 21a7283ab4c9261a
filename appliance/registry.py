"""From a role's name to its handler: the one dynamic import."""

from __future__ import annotations

import pkgutil
from collections.abc import Mapping
from importlib import import_module
from importlib.util import find_spec

from appliance.errors import UnknownRole
from appliance.role import AnyRole
from appliance.service import Service

_PACKAGE = "roles"


def known_roles() -> tuple[str, ...]:
    """List the roles that have a handler, by name.

    A handler is a module or package of `roles` with an attribute HANDLER; `common` is shared code.
    """
    spec = find_spec(_PACKAGE)
    locations = spec.submodule_search_locations if spec else None
    return tuple(
        sorted(m.name for m in pkgutil.iter_modules(locations or []) if m.name != "common")
    )


def make_role(name: str, services: Mapping[str, Service]) -> AnyRole:
    """Return the handler of a role.

    Raises:
        UnknownRole: There is none of this name.
    """
    if name not in known_roles():
        raise UnknownRole(
            f"role {name!r}: this agent has no handler for it; it has {', '.join(known_roles())}",
            hint="role names are fixed: vnf, master, worker, storage",
        )
    handler: type[AnyRole] = import_module(f"{_PACKAGE}.{name}").HANDLER
    return handler(services)
