"""Every drop-in: it loads, its handler's view agrees, its examples parse, its docs are current."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields
from ipaddress import IPv4Address, IPv4Network, IPv6Network
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, get_args, get_origin, get_type_hints

import pytest

from appliance import paths
from appliance.cli import main
from appliance.component import COMPONENTS
from appliance.context import Context
from appliance.decision import decide
from appliance.export import to_markdown
from appliance.imagecontent import Flavor
from appliance.opennebula import TEMPLATES
from appliance.parameters import Entry, compile_name, parse_parameters
from appliance.registry import known_roles, make_role
from appliance.secret import Secret
from appliance.service import Service, load_services
from appliance.values import (
    TYPES,
    AddressRange,
    AddressWithPrefix,
    Endpoint,
    HostAndPort,
    InterfaceItem,
    Placeholder,
    PortForward,
    Rejected,
)
from tests.contexts import GATEWAY
from tests.unit.roles.nodes import NODE

DOCS = Path(__file__).parents[2] / "docs"
SERVICES = load_services((paths.packaged_services(),))
ENTRIES = [(service, entry) for service in SERVICES.values() for entry in service.entries]
# What no handler reads: names that are known so that nobody is warned about them.
UNREAD = "unbuilt"
# What masters read without knowing it by name.
COMPONENT_NAMES = {name for name, service in SERVICES.items() if service.component}

KINDS: Mapping[str, frozenset[object]] = {
    "boolean": frozenset({bool}),
    "integer": frozenset({int}),
    "seconds": frozenset({float}),
    "port": frozenset({int}),
    "ipv4": frozenset({IPv4Address}),
    "ipv4_with_prefix": frozenset({AddressWithPrefix}),
    "ipv4_or_placeholder": frozenset({AddressWithPrefix, Placeholder}),
    "netmask": frozenset({int}),
    "host": frozenset({str}),
    "url": frozenset({str}),
    "url_list": frozenset({tuple[str, ...]}),
    "choice": frozenset({str}),
    "text": frozenset({str}),
    "secret": frozenset({Secret}),
    "base64_text": frozenset({str}),
    "secret_text": frozenset({Secret}),
    "interface_list": frozenset({tuple[InterfaceItem, ...]}),
    "endpoint_list": frozenset({tuple[Endpoint, ...]}),
    "network_list": frozenset({tuple[IPv4Network, ...]}),
    "host_and_port": frozenset({HostAndPort}),
    "host_list": frozenset({tuple[str, ...]}),
    "word_list": frozenset({tuple[str, ...]}),
    "network_pair": frozenset({tuple[IPv4Network | IPv6Network, ...]}),
    "proxy": frozenset({Secret}),
    "address_ranges": frozenset({tuple[AddressRange, ...]}),
    "port_forward": frozenset({PortForward}),
}
WRONG: Mapping[str, str] = {
    "boolean": "maybe",
    "integer": "1.5",
    "seconds": "soon",
    "port": "65536",
    "ipv4": "10.0.0.256",
    "ipv4_with_prefix": "10.0.0.1/33",
    "ipv4_or_placeholder": "<ETH0>",
    "netmask": "255.0.255.0",
    "host": "a b",
    "url": "gopher://x",
    "url_list": "https://one.example gopher://x",
    "choice": "no such choice",
    "interface_list": "lo/10.0.0.1",
    "endpoint_list": "one.example",
    "network_list": "10.0.0.0/33",
    "host_and_port": "host:port",
    "host_list": "a_host,-",
    "network_pair": "10.42.0.0/16,10.43.0.0/16",
    "proxy": "http://user:a b@proxy.example.org",
    "address_ranges": "198.51.100.60-198.51.100.40",
    "port_forward": "80",
}


def name_of(value: object) -> str | None:
    """Name a case by its entry."""
    return value.name if isinstance(value, Entry) else None


def key_of(name: str) -> str:
    """Return a key of an entry: the name itself, or its first member."""
    member = name
    for part in ("<any>", *(f"<{part}>" for part in compile_name(name).groupindex)):
        member = member.replace(part, "X" if part == "<any>" else "0")
    return member


EVERY_ENTRY = pytest.mark.parametrize(("service", "entry"), ENTRIES, ids=name_of)


def parse(service: Service, entry: Entry, text: str) -> Any:
    """Parse one text as the only one of its drop-in."""
    context = Context({key_of(entry.name): text}, "test")
    return parse_parameters({service.name: service.entries}, context, legacy=False)


# --- declared as it should be ---------------------------------------------------------------------


@pytest.mark.parametrize("service", SERVICES.values(), ids=lambda one: one.name)
def test_a_drop_in_says_what_it_is(service: Service) -> None:
    assert service.summary.endswith(".")
    assert "\n" not in service.summary
    assert set(service.roles) <= {"vnf", "master", "worker", "storage"}


@EVERY_ENTRY
def test_an_entry_is_described_in_one_sentence(service: Service, entry: Entry) -> None:
    assert entry.description.endswith(".")
    assert "\n" not in entry.description
    assert "|" not in entry.description, "OneFlow separates with it"
    assert entry.description[0].isupper()


@EVERY_ENTRY
def test_an_example_parses(service: Service, entry: Entry) -> None:
    parsed = parse(service, entry, entry.example)
    if entry.refused and entry.example != "NO":
        pytest.fail("the example of a switch that must stay off is NO")
    assert parsed.problems == ()
    found = parsed.values[service.name][entry.field]
    assert found not in (None, {})


@EVERY_ENTRY
def test_a_default_parses(service: Service, entry: Entry) -> None:
    for default in (entry.default, entry.implied_before):
        if default:
            TYPES[entry.type].parse(default, entry)
    if entry.is_family:
        assert entry.default is None, "a family has no member that is unset"


@EVERY_ENTRY
def test_limits_fit_the_type(service: Service, entry: Entry) -> None:
    has_limits = entry.minimum is not None or entry.maximum is not None
    assert not has_limits or entry.type in ("integer", "seconds")
    assert bool(entry.choices) == (entry.type == "choice")
    if entry.minimum is not None and entry.maximum is not None:
        assert entry.minimum < entry.maximum


@pytest.mark.parametrize(
    ("service", "entry"),
    [(s, e) for s, e in ENTRIES if e.minimum is not None or e.maximum is not None],
    ids=name_of,
)
def test_a_limit_itself_is_accepted_and_what_is_beyond_is_not(
    service: Service, entry: Entry
) -> None:
    step = 0.001 if entry.type == "seconds" else 1
    for limit, beyond in ((entry.minimum, -step), (entry.maximum, step)):
        if limit is None:
            continue
        TYPES[entry.type].parse(f"{limit:g}", entry)
        with pytest.raises(Rejected):
            TYPES[entry.type].parse(f"{limit + beyond:.3f}".rstrip("0").rstrip("."), entry)


def test_no_key_means_two_things() -> None:
    """A key belongs to one entry, and an alias tells which member of a family it is."""
    owners: dict[str, str] = {}
    for _, entry in ENTRIES:
        if not entry.ignored:
            assert owners.setdefault(key_of(entry.name), entry.name) == entry.name
    names = {entry.name for _, entry in ENTRIES}
    for _, entry in ENTRIES:
        for alias in entry.aliases:
            assert alias.name not in names
            assert set(compile_name(entry.name).groupindex) == (
                set(compile_name(alias.name).groupindex) | set(alias.fixed)
            )


# --- wrong values ---------------------------------------------------------------------------------


def wrong_text(entry: Entry) -> str | None:
    """Return a text that an entry must refuse; None where every text is sound."""
    if entry.ignored:
        return None
    if entry.type in ("text", "secret") and entry.pattern:
        return "\n\x01"
    return WRONG.get(entry.type)


REFUSING = [(service, entry) for service, entry in ENTRIES if wrong_text(entry) is not None]


@pytest.mark.parametrize(("service", "entry"), REFUSING, ids=name_of)
def test_an_entry_refuses_a_wrong_value_with_one_problem(service: Service, entry: Entry) -> None:
    parsed = parse(service, entry, str(wrong_text(entry)))
    (problem,) = parsed.problems
    assert problem.key == key_of(entry.name)
    assert "expected" in problem.accepted


def role_for(service: Service, entry: Entry) -> str:
    """A role that reads the entry, the gateway if it does."""
    roles = entry.roles or service.roles
    return "vnf" if not roles or "vnf" in roles else roles[0]


@pytest.mark.parametrize(("service", "entry"), REFUSING, ids=name_of)
def test_a_context_with_a_wrong_value_is_refused_with_78_and_one_problem(
    service: Service, entry: Entry, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key, text = key_of(entry.name), str(wrong_text(entry))
    file = tmp_path / "context.sh"
    values = {**GATEWAY, key: text}
    file.write_text("".join(f"{k}='{v}'\n" for k, v in values.items()), encoding="utf-8")
    assert (
        main(["validate", "--context", str(file), "--role", role_for(service, entry), "--json"])
        == 78
    )
    problems = json.loads(capsys.readouterr().out)["problems"]
    assert [problem["key"] for problem in problems] == [key]


@pytest.mark.parametrize(
    ("service", "entry"), [(s, e) for s, e in ENTRIES if e.refused], ids=name_of
)
def test_a_switch_that_must_stay_off_is_refused_by_name(service: Service, entry: Entry) -> None:
    (problem,) = parse(service, entry, "YES").problems
    assert problem.accepted == entry.refused
    assert parse(service, entry, "NO").problems == ()


# --- the views of the handlers --------------------------------------------------------------------

VIEWS = [
    (role, one.name, get_type_hints(make_role(role, SERVICES).params_type)[one.name])
    for role in known_roles()
    for one in fields(make_role(role, SERVICES).params_type)
    if one.name != COMPONENTS
]


@pytest.mark.parametrize(("role", "name", "view"), VIEWS, ids=lambda value: str(value))
def test_a_view_reads_every_declared_field_and_nothing_else(
    role: str, name: str, view: type
) -> None:
    declared = {
        entry.field
        for entry in SERVICES[name].entries
        if not entry.ignored and (not entry.roles or role in entry.roles)
    }
    assert {one.name for one in fields(view)} == declared


def members(hint: object) -> frozenset[object]:
    """Return the alternatives of a type."""
    return frozenset(get_args(hint)) if isinstance(hint, UnionType) else frozenset({hint})


@pytest.mark.parametrize(("role", "name", "view"), VIEWS, ids=lambda value: str(value))
def test_a_field_of_a_view_has_the_type_its_entry_gives(role: str, name: str, view: type) -> None:
    entries = {entry.field: entry for entry in SERVICES[name].entries}
    for field, hint in get_type_hints(view).items():
        entry = entries[field]
        wanted = KINDS[entry.type]
        if entry.is_family:
            assert get_origin(hint) is Mapping, field
            index, value = get_args(hint)
            assert index == (int if len(entry.parts) == 1 else tuple[(int,) * len(entry.parts)])
            assert members(value) == wanted | ({NoneType} if entry.keep_empty else set()), field
        else:
            is_optional = entry.default is None or entry.type == "interface_list"
            assert members(hint) == wanted | ({NoneType} if is_optional else set()), field


@pytest.mark.parametrize("name", sorted({name for _, name, _ in VIEWS}))
def test_a_drop_in_is_read_by_the_roles_it_names(name: str) -> None:
    readers = {role for role, read, _ in VIEWS if read == name}
    assert not SERVICES[name].roles or readers <= set(SERVICES[name].roles)


def test_every_drop_in_is_read_by_somebody() -> None:
    assert set(SERVICES) - {name for _, name, _ in VIEWS} - COMPONENT_NAMES == {UNREAD}


@pytest.mark.parametrize("name", sorted(COMPONENT_NAMES))
def test_masters_alone_read_a_component_but_for_the_switch_of_one_with_images(name: str) -> None:
    service = SERVICES[name]
    assert service.component is not None
    switch = service.component.switch
    is_wide = bool(service.image.images or service.image.lists) and switch is not None
    assert service.roles == (("master", "worker", "storage") if is_wide else ("master",))
    for entry in service.entries:
        is_switch = is_wide and switch is not None and entry.field == switch.name
        assert entry.roles == (("master", "worker", "storage") if is_switch else ("master",))
    params = decide("master", Context(NODE, "test"), SERVICES).params
    assert set(params.components[name]) == {entry.field for entry in service.entries}


@pytest.mark.parametrize("name", sorted(COMPONENT_NAMES))
def test_what_a_component_names_is_there_and_read_by_masters(name: str) -> None:
    service = SERVICES[name]
    assert service.component is not None
    read = {view for role, view, _ in VIEWS if role == "master"} | COMPONENT_NAMES
    assert {field.service for field in service.component.fields()} <= read
    templates = {file.name for folder in service.folders for file in folder.glob("templates/*")}
    assert {one.template for one in service.component.manifests if one.template} == templates


# --- what is made of them -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "form", "role"),
    [
        ("service-template.json", "oneflow", None),
        ("service-template-7.json", "oneflow-7", None),
        ("instantiate.json", "oneflow-values", None),
        ("marketplace.yaml", "marketplace", None),
        *((f"{role}.tmpl", "vm-template", role) for role in known_roles()),
    ],
)
def test_the_templates_for_opennebula_are_current(file: str, form: str, role: str | None) -> None:
    written = (DOCS / "opennebula" / file).read_text(encoding="utf-8")
    assert written == TEMPLATES[form](SERVICES.values(), role, Flavor.CE), (
        "make docs writes it anew"
    )


def test_the_table_of_parameters_is_current() -> None:
    written = (DOCS / "parameters.md").read_text(encoding="utf-8")
    assert written == to_markdown(SERVICES.values(), None), "make docs writes it anew"
