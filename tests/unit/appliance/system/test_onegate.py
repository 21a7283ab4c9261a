"""OneGate's answers as recorded, and updates that are stored as they were sent or refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.errors import OneGateMalformed, OneGateRefused
from appliance.system.onegate import (
    Vm,
    VmNic,
    encode_update,
    parse_service,
    parse_vm,
    readable,
)
from tests.lab.onegate.template import Version, parse_update, quote_values, reports_ready
from tests.unit.lab.recordings import Recording, find, load

VERSIONS = ("6.4", "7.4")
ANSWERS = [
    recording
    for version in VERSIONS
    for recording in load(version)
    if recording.status == 200 and isinstance(recording.answer, bytes)
    if recording.answer.startswith(b"{")
]


def answers(kind: str) -> Any:
    """Return a table of the recorded answers of a kind, VM or SERVICE."""
    chosen = [one for one in ANSWERS if kind in json.loads(bytes(one.answer))]
    assert len(chosen) > 3
    return pytest.mark.parametrize("recording", chosen, ids=lambda r: f"{r.version}-{r.name}")


def document(recording: Recording) -> dict[str, Any]:
    """Return the answer of a recording."""
    assert isinstance(recording.answer, bytes)
    found: dict[str, Any] = json.loads(recording.answer)
    return found


# --- answers --------------------------------------------------------------------------------------


@answers("VM")
def test_every_recorded_vm_is_read(recording: Recording) -> None:
    raw = document(recording)["VM"]
    vm = parse_vm(document(recording))
    assert vm.vm_id == int(raw["ID"])
    assert vm.name == raw["NAME"]
    assert dict(vm.attributes) == raw["USER_TEMPLATE"]
    if "STATE" in raw:
        assert (vm.state, vm.lcm_state) == (int(raw["STATE"]), int(raw["LCM_STATE"]))
    shown = raw["TEMPLATE"].get("NIC", [])
    listed = shown if isinstance(shown, list) else [shown]
    assert [nic.ip for nic in vm.nics] == [nic.get("IP", "") for nic in listed]


@answers("SERVICE")
def test_every_recorded_service_is_read(recording: Recording) -> None:
    raw = document(recording)["SERVICE"]
    service = parse_service(document(recording))
    assert str(service.service_id) == str(raw["id"])
    assert [role.name for role in service.roles] == [role["name"] for role in raw["roles"]]
    for role, shown_role in zip(service.roles, raw["roles"], strict=True):
        nodes = shown_role["nodes"] or []
        assert role.cardinality == shown_role["cardinality"]
        assert list(role.vm_ids) == [node["deploy_id"] for node in nodes]
        shown = [n for n in nodes if "USER_TEMPLATE" in (n.get("vm_info") or {}).get("VM", {})]
        assert [vm.vm_id for vm in role.vms] == [node["deploy_id"] for node in shown]


@pytest.mark.parametrize("version", VERSIONS)
def test_only_the_extended_answer_is_complete_and_shows_attributes(version: str) -> None:
    plain = parse_service(document(find(version, 28)))
    extended = parse_service(document(find(version, 30)))
    assert not plain.complete
    assert not any(role.vms for role in plain.roles)
    assert extended.complete
    vnf = extended.role("vnf")
    assert vnf is not None
    assert [vm.text("ROLE_NAME") for vm in vnf.vms] == ["vnf"] * vnf.cardinality
    assert extended.role("butler") is None


def node(vm_id: object, **vm: object) -> dict[str, object]:
    """Return a node of a service."""
    return {"deploy_id": vm_id, "vm_info": {"VM": {"ID": str(vm_id), "USER_TEMPLATE": {}, **vm}}}


ENTRY = {"deploy_id": 4, "vm_info": {"VM": {"ID": "4"}}}


@pytest.mark.parametrize(
    ("role", "is_clear"),
    [
        ({"cardinality": 1, "nodes": [ENTRY]}, True),
        ({"cardinality": "1", "nodes": ENTRY}, True),
        ({"cardinality": 0, "nodes": None}, True),
        ({"cardinality": 0}, True),
        ({"cardinality": 1, "nodes": [{"vm_info": {"VM": {"ID": "4"}}}]}, True),
        ({"cardinality": 1, "nodes": [{"deploy_id": "4", "vm_info": None}]}, True),
        ({"nodes": None}, False),
        ({"cardinality": None, "nodes": [ENTRY]}, False),
        ({"cardinality": 1, "nodes": [ENTRY, None]}, False),
        ({"cardinality": 1, "nodes": "x"}, False),
        ({"cardinality": 1, "nodes": [ENTRY, {}]}, False),
        ({"cardinality": 1, "nodes": [{**ENTRY, "deploy_id": 5}]}, False),
    ],
)
def test_a_role_is_clear_where_it_names_each_of_its_vms(role: Any, is_clear: bool) -> None:
    service = parse_service({"SERVICE": {"id": "7", "roles": [{"name": "worker", **role}]}})
    assert service.roles[0].is_clear is is_clear


@answers("SERVICE")
def test_every_recorded_role_is_clear(recording: Recording) -> None:
    assert all(role.is_clear for role in parse_service(document(recording)).roles)


@pytest.mark.parametrize(
    ("cardinality", "nodes", "complete"),
    [
        (2, [node(1), node(2)], True),
        (0, [], True),
        (0, None, True),
        (1, node(1), True),
        (2, [node(1)], False),
        (1, [node(1), node(2)], True),
        (1, [], False),
        (2, [node(1), {"deploy_id": 2, "vm_info": {"VM": {"ID": "2"}}}], False),
        (2, [node(1), {"deploy_id": 2, "vm_info": None}], False),
        (2, [node(1), {"deploy_id": 2}], False),
        (2, [node(1), {"deploy_id": None, "vm_info": None}], False),
        (2, [node(1), "nonsense"], False),
    ],
)
def test_an_answer_is_complete_only_with_every_vm_there_should_be(
    cardinality: int, nodes: object, complete: bool
) -> None:
    role = {"name": "vnf", "cardinality": cardinality, "state": 1, "nodes": nodes}
    service = parse_service({"SERVICE": {"id": "1", "name": "x", "state": 1, "roles": [role]}})
    assert service.complete == complete


@pytest.mark.parametrize(
    "broken",
    [
        {},
        {"VM": None},
        {"VM": []},
        {"VM": {}},
        {"VM": {"ID": "x"}},
        {"VM": {"ID": True}},
        {"vm": {}},
    ],
)
def test_an_answer_without_a_vm_is_malformed(broken: dict[str, Any]) -> None:
    with pytest.raises(OneGateMalformed) as caught:
        parse_vm(broken)
    assert caught.value.retryable


@pytest.mark.parametrize(
    "broken", [{}, {"SERVICE": None}, {"SERVICE": {}}, {"SERVICE": {"id": ""}}]
)
def test_an_answer_without_a_service_is_malformed(broken: dict[str, Any]) -> None:
    with pytest.raises(OneGateMalformed):
        parse_service(broken)


@pytest.mark.parametrize(
    ("vm", "nics"),
    [
        ({}, ()),
        ({"TEMPLATE": {}}, ()),
        ({"TEMPLATE": {"NIC": {}}}, ()),
        ({"TEMPLATE": {"NIC": {"IP": "10.0.0.1"}}}, (VmNic("10.0.0.1", "", ""),)),
        (
            {"TEMPLATE": {"NIC": [{"MAC": "02:AA", "NETWORK": "Public"}, 5]}},
            (VmNic("", "02:aa", "Public"),),
        ),
        ({"TEMPLATE": "x", "USER_TEMPLATE": "y", "STATE": "z"}, ()),
    ],
)
def test_what_an_answer_leaves_out_is_empty(vm: dict[str, Any], nics: tuple[VmNic, ...]) -> None:
    parsed = parse_vm({"VM": {"ID": "1", **vm}})
    assert parsed == Vm(1, "", None, None, {}, nics)


@pytest.mark.parametrize(
    ("value", "found"), [("x", "x"), ("", None), (["x"], None), ({"A": "b"}, None), (None, None)]
)
def test_an_attribute_is_a_text_or_nothing(value: object, found: str | None) -> None:
    vm = parse_vm({"VM": {"ID": "1", "USER_TEMPLATE": {"A": value}}})
    assert vm.text("A") == found
    assert vm.text("B") is None


def test_attributes_of_siblings_are_not_shown_when_a_vm_is_printed() -> None:
    vm = parse_vm({"VM": {"ID": "1", "USER_TEMPLATE": {"ONEGATE_K8S_TOKEN": "pl4nt3d"}}})
    assert "pl4nt3d" not in repr(vm)


# --- updates --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"A": "1"}, "A=1"),
        ({"A": "1", "B_2": "x y"}, "A=1\nB_2=x y"),
        ({"A": ""}, 'A=""'),
        ({"READY": "YES"}, "READY=YES"),
        ({"ONEKE_STATE": "READY", "READY": "YES"}, "ONEKE_STATE=READY\nREADY=YES"),
        ({"A": "a=b"}, "A=a=b"),
        ({"A": "dG9rZW4+/=="}, "A=dG9rZW4+/=="),
        ({"A": "ünïcödé"}, "A=ünïcödé"),
    ],
)
def test_an_update_is_a_line_for_each_key(values: dict[str, str], text: str) -> None:
    assert encode_update(values) == text


@pytest.mark.parametrize("value", [*',"[]\\\n\r\0\x07\x7f', "a\nREADY=YES", "\U0001f600"])
def test_what_oned_would_change_is_refused(value: str) -> None:
    with pytest.raises(OneGateRefused, match="A: OneGate does not store") as caught:
        encode_update({"A": f"a{value}b"})
    assert not caught.value.retryable


@pytest.mark.parametrize("value", [" a", "a ", "\ta", " "])
def test_blanks_that_would_be_lost_are_refused(value: str) -> None:
    with pytest.raises(OneGateRefused, match="a blank at its end"):
        encode_update({"A": value})


@pytest.mark.parametrize(
    "key", ["a", "A-B", "A.B", "1A", "", "A B", "A=B", "A\n", "ROLE_NAME", "SERVICE_ID", "Ä"]
)
def test_a_key_that_is_not_stored_is_refused(key: str) -> None:
    with pytest.raises(OneGateRefused):
        encode_update({key: "x"})


@pytest.mark.parametrize("key", ["NODE_READY", "NOT_READY", "ALREADY"])
def test_no_key_but_ready_ends_in_ready(key: str) -> None:
    with pytest.raises(OneGateRefused, match="ends in READY"):
        encode_update({key: "NO"})


@pytest.mark.parametrize("value", ["READY=YES", "x READY=YES", "READY = YES", "ready=yes"])
def test_a_value_that_would_make_the_vm_ready_is_refused(value: str) -> None:
    with pytest.raises(OneGateRefused, match="READY"):
        encode_update({"ONEKE_STEP": value})
    with pytest.raises(OneGateRefused, match="READY"):
        encode_update({"ONEKE_STEP": value, "READY": "NO"})


KEYS = st.sampled_from(["A", "ONEKE_STATE", "ONEKE_ERROR", "READY", "X_1", "ROLE_NAME", "A_READY"])
VALUES = st.one_of(
    st.text(max_size=12), st.text(alphabet='READY=YES"\n ,[]\\', max_size=14), st.just("YES")
)


@pytest.mark.parametrize("version", list(Version))
@given(values=st.dictionaries(KEYS, VALUES, max_size=4))
def test_what_is_sent_is_stored_as_it_is(version: Version, values: dict[str, str]) -> None:
    """Whatever is not refused comes back unchanged from the emulator held to the recordings."""
    try:
        text = encode_update(values)
    except OneGateRefused:
        return
    quoted = quote_values(text)
    assert dict(parse_update(quoted, version)) == values
    assert reports_ready(quoted) == (values.get("READY", "").strip() == "YES")


# --- texts for people -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain", "plain"),
        ('a, "b" [c] \\d = e', "a; 'b' (c) /d : e"),
        ("one\ntwo\r\n  three", "one two three"),
        ("READY=YES", "READY:YES"),
        ("x" * 300, "x" * 200),
        ("a\x00b\x1b[31mc", "ab(31mc"),
        ("\U0001f600 ünï", "ünï"),
        ("", ""),
        (" \n ", ""),
    ],
)
def test_a_text_for_people_stays_readable(text: str, shown: str) -> None:
    assert readable(text) == shown


@given(st.one_of(st.text(), st.text(alphabet='READY=YES \n\t"\u00a0\u200b')))
def test_any_text_for_people_is_stored_and_makes_nobody_ready(text: str) -> None:
    shown = readable(text)
    assert len(shown) <= 200
    encoded = quote_values(encode_update({"ONEKE_ERROR": shown}))
    assert not reports_ready(encoded)
    for version in Version:
        assert dict(parse_update(encoded, version)) == {"ONEKE_ERROR": shown}
