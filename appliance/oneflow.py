"""What a service of OpenNebula asks and passes on, as values: made of the drop-ins' declarations.

Source: OpenNebula one, src/flow/lib/models/{service,service_template}.rb and
src/cli/one_helper.rb (parse_user_inputs), of 6.10 and 7.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise

from appliance.errors import ServiceDefinitionError
from appliance.flowshape import Flow, Offer, RoleShape, Shape, parse_flow
from appliance.parameters import Entry, compile_name
from appliance.service import Service, find_first, read_mapping
from appliance.values import TYPES, Rejected

FILE = "oneflow.yaml"

# What only the contextualization package and oned read, and what makes a VM find OneGate.
_OWN_CONTEXT = {
    "NETWORK": "YES",
    "REPORT_READY": "YES",
    "SERVICE_ID": "$SERVICE_ID",
    "SSH_PUBLIC_KEY": "$USER[SSH_PUBLIC_KEY]",
    "TOKEN": "YES",
}
_PASSED = ("ONEAPP_", "FALLBACK_")
# Kinds of user inputs that the command line takes an empty answer for. For the others it asks on,
# ends, or leaves the input out, and then OneFlow refuses the whole service.
_MAY_BE_EMPTY = ("text", "text64", "password")


@dataclass(frozen=True)
class Input:
    """One question to the operator.

    Attributes:
        roles: The roles that act on the answer.
        value: The answer where none is given.
    """

    name: str
    roles: tuple[str, ...]
    is_required: bool
    kind: str
    description: str
    options: str
    value: str

    @property
    def text(self) -> str:
        """What OneFlow and Sunstone read: five parts with a pipe between them."""
        parts = ("M" if self.is_required else "O", self.kind, self.description, self.options)
        return "|".join((*(part.replace("|", "/") for part in parts), self.value))


@dataclass(frozen=True)
class Blueprint:
    """All that the templates of a service are made of.

    Attributes:
        inputs: In the order they are asked for.
        contexts: Role to what the context of its VMs holds: a text, or `$NAME` for what the VM is
            given under that name.
    """

    shape: Shape
    inputs: tuple[Input, ...]
    contexts: Mapping[str, Mapping[str, str]]

    def inputs_of(self, role: RoleShape) -> tuple[Input, ...]:
        """The questions whose answers a role acts on."""
        return tuple(one for one in self.inputs if role.name in one.roles)

    def find_role(self, name: str | None) -> RoleShape:
        """Return a role.

        Raises:
            ServiceDefinitionError: There is none of that name.
        """
        for role in self.shape.roles:
            if role.name == name:
                return role
        known = ", ".join(role.name for role in self.shape.roles)
        given = "no role was given" if name is None else f"role {name}"
        raise ServiceDefinitionError(f"{given}: expected one of {known}")


@dataclass(frozen=True)
class _Source:
    """A drop-in with what it has to say to OneFlow."""

    service: Service
    flow: Flow
    where: str

    def find_entry(self, name: str) -> Entry:
        """Return the declaration of a name: in full, or as a member of a family."""
        entries = sorted(self.service.entries, key=lambda entry: entry.is_family)
        for entry in entries:
            if compile_name(entry.name).match(name) and not entry.ignored and not entry.refused:
                return entry
        raise ServiceDefinitionError(f"{self.where}: {name} is no parameter of {self.service.name}")

    @cached_property
    def fixed(self) -> Mapping[str, tuple[str, ...]]:
        """The names that are set without asking, with the roles that act on them."""
        return {name: self.roles_of(self.find_entry(name)) for name in self.flow.fixed}

    def roles_of(self, entry: Entry) -> tuple[str, ...]:
        """The roles that act on a parameter; empty for all."""
        return entry.roles or self.service.roles


def build_blueprint(services: Iterable[Service]) -> Blueprint:
    """Put together what the drop-ins say.

    Raises:
        ServiceDefinitionError: Something in an oneflow.yaml does not fit the declarations.
    """
    sources = [_read(service) for service in services]
    shapes = [source.flow.shape for source in sources if source.flow.shape is not None]
    if len(shapes) != 1:
        raise ServiceDefinitionError(f"{FILE}: expected roles in one drop-in, not in {len(shapes)}")
    [shape] = shapes
    every = tuple(role.name for role in shape.roles)
    inputs = tuple(
        _input(source, offer, every)
        for source in sorted(sources, key=lambda one: _rank(one.service.name, shape))
        for offer in source.flow.offers
    )
    _refuse_overlapping(inputs, shape)
    contexts = {role: _context(role, sources, inputs) for role in every}
    return Blueprint(shape, inputs, contexts)


def _read(service: Service) -> _Source:
    path = find_first(service.folders, FILE)
    if path is None:
        return _Source(service, Flow((), {}, None), FILE)
    return _Source(service, parse_flow(read_mapping(path), str(path)), str(path))


def _rank(name: str, shape: Shape) -> tuple[int, str]:
    is_named = name in shape.order
    return (shape.order.index(name) if is_named else len(shape.order)), name


def _input(source: _Source, offer: Offer, every: tuple[str, ...]) -> Input:
    entry = source.find_entry(offer.name)
    default = None if entry.is_secret() else entry.default
    value = (offer.value if offer.value is not None else default) or ""
    try:
        if value:
            TYPES[entry.type].parse(value, entry)
    except Rejected as rejected:
        raise ServiceDefinitionError(
            f"{source.where}: {offer.name}={value}: {rejected}"
        ) from rejected
    asked = Input(
        offer.name,
        source.roles_of(entry) or every,
        entry.required,
        TYPES[entry.type].oneflow,
        offer.description or entry.description,
        ",".join(entry.choices),
        value,
    )
    if entry.type == "integer" and entry.minimum is not None and entry.maximum is not None:
        bounds = f"{entry.minimum:g}..{entry.maximum:g}"
        asked = replace(asked, kind="range", options=bounds)
    if not value and asked.kind not in _MAY_BE_EMPTY:
        asked = replace(asked, kind="text", options="")
    return asked


def _refuse_overlapping(inputs: Iterable[Input], shape: Shape) -> None:
    """Refuse names that OneFlow up to 6.10 would mix up: it puts values in for `$NAME` as text."""
    names = sorted([one.name for one in inputs] + list(shape.networks))
    for first, second in pairwise(names):
        if second.startswith(first):
            raise ServiceDefinitionError(
                f"{FILE}: {second} begins with {first}, which OneFlow takes for the former"
            )


def _context(role: str, sources: Iterable[_Source], inputs: Iterable[Input]) -> dict[str, str]:
    found = dict(_OWN_CONTEXT)
    for source in sources:
        found |= {name: f"${name}" for name in _passed_on(source, role)}
    found |= {one.name: f"${one.name}" for one in inputs if role in one.roles}
    for source in sources:
        for name, roles in source.fixed.items():
            if not roles or role in roles:
                found[name] = source.flow.fixed[name]
    return dict(sorted(found.items()))


def _passed_on(source: _Source, role: str) -> Iterator[str]:
    """Name what a VM of the role may be given, whether it is asked for or not."""
    for entry in source.service.entries:
        has_effect = not (entry.is_family or entry.ignored or entry.refused)
        roles = source.roles_of(entry)
        if has_effect and entry.name.startswith(_PASSED) and (not roles or role in roles):
            yield entry.name
