"""From a context to parameters that were found sound: every problem at once, nothing touched."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from appliance import paths
from appliance.component import COMPONENTS
from appliance.context import Context
from appliance.errors import (
    ParameterProblems,
    Problem,
)
from appliance.identity import Identity
from appliance.options import Options
from appliance.parameters import (
    ParsedParameters,
    build_view,
    compile_name,
    find_near_misses,
    parse_parameters,
)
from appliance.registry import make_role
from appliance.role import AnyRole
from appliance.service import Service, all_names, find_legacy_mark, load_services

BASE = "opennebula"


@dataclass(frozen=True)
class Decided:
    """Parameters that were found sound, with the role that reads them."""

    role_name: str
    role: AnyRole
    params: Any
    warnings: tuple[str, ...]


def read_services(options: Options) -> dict[str, Service]:
    """Read the drop-ins, the administrator's winning over the packaged ones."""
    folders = options.service_folders or (
        Path(paths.ADMINISTRATOR_SERVICES),
        paths.packaged_services(),
    )
    return load_services(folders)


def decide(role_name: str, context: Context, services: Mapping[str, Service]) -> Decided:
    """Parse and check every parameter of a role.

    Raises:
        ParameterProblems: All that is wrong, at once.
        UnknownRole: No handler exists for the role.
    """
    role = make_role(role_name, services)
    parsed, legacy = parse_for_role(role_name, context, services)
    params = build_view(role.params_type, values_for(role.params_type, parsed, services))
    findings = role.check(params)
    problems = parsed.problems + tuple(
        problem for problem in findings.problems if not is_consequence(problem, parsed.bad_keys)
    )
    if problems:
        raise ParameterProblems([replace(one, source=context.source) for one in problems])
    generation = (
        (
            (
                f"{legacy} marks a template of the 1.24 generation: what it leaves unset means what"
                " it meant then"
            ),
        )
        if legacy
        else ()
    )
    near = find_near_misses(all_names(services.values()), context)
    warnings = (*context.warnings, *generation, *parsed.warnings, *near, *findings.warnings)
    return Decided(role_name, role, params, warnings)


def values_for(
    view: type[Any], parsed: ParsedParameters, services: Mapping[str, Service]
) -> dict[str, object]:
    """Return what a role's view is filled with: what it names, and all components together."""
    values: dict[str, object] = dict(parsed.values)
    values[COMPONENTS] = {
        name: of for name, of in parsed.values.items() if services[name].component is not None
    }
    return {field.name: values[field.name] for field in fields(view)}


@dataclass(frozen=True)
class Fit:
    """Which roles a context is sound for, where nobody says which it is meant for.

    Attributes:
        sound: The roles it is sound for.
        unfit: Role to what is wrong for it.
    """

    sound: tuple[Decided, ...]
    unfit: Mapping[str, ParameterProblems]


def find_fit(context: Context, services: Mapping[str, Service], roles: Iterable[str]) -> Fit:
    """Check a context for several roles.

    The context of one role need not make sense for another, but what is malformed is so for all.

    Raises:
        ParameterProblems: Something is malformed, or it is sound for none of the roles: all that
            is wrong for any of them.
    """
    sound: list[Decided] = []
    unfit: dict[str, ParameterProblems] = {}
    for name in roles:
        try:
            sound.append(decide(name, context, services))
        except ParameterProblems as wrong:
            unfit[name] = wrong
    malformed = parse_for_role(None, context, services)[0].problems
    if unfit and (malformed or not sound):
        every = dict.fromkeys(one for wrong in unfit.values() for one in wrong.problems)
        raise ParameterProblems(tuple(every))
    return Fit(tuple(sound), unfit)


def is_consequence(problem: Problem, bad_keys: frozenset[str]) -> bool:
    """Say whether a finding only follows from a key that is wrong itself."""
    rests_on = [compile_name(name) for name in (problem.key, *problem.depends_on)]
    return any(name.match(key) for name in rests_on for key in bad_keys)


def parse_for_role(
    role_name: str | None, context: Context, services: Mapping[str, Service]
) -> tuple[ParsedParameters, str | None]:
    """Parse the parameters of every drop-in the role uses.

    Returns:
        The parameters, and the key that marks a template of the 1.24 generation, if any.
    """
    legacy = find_legacy_mark(services.values(), context, role_name)
    entries = {
        name: service.entries
        for name, service in services.items()
        if role_name is None or not service.roles or role_name in service.roles
    }
    return parse_parameters(entries, context, legacy=legacy is not None, role=role_name), legacy


def parse_base(context: Context, services: Mapping[str, Service]) -> ParsedParameters:
    """Parse what tells who this VM is and where OneGate is.

    Problems come up again with all others, once the role is known.
    """
    return parse_parameters({BASE: services[BASE].entries}, context, legacy=False)


def with_service(context: Context, identity: Identity) -> Context:
    """Add the service's id to a context that lacks it."""
    if identity.service_id is None or context.get("SERVICE_ID"):
        return context
    values = {**context.values, "SERVICE_ID": str(identity.service_id)}
    return replace(context, values=values)
