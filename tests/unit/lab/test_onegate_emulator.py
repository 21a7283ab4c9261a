"""The emulator beyond the recordings: control socket, faults, concurrency, the process."""

from __future__ import annotations

import concurrent.futures
import http.client
import json
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote_plus, urlsplit

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.lab.onegate.control import Control, ControlError, ControlServer
from tests.lab.onegate.faults import Fault, FaultError, FaultKind
from tests.lab.onegate.operations import Operations
from tests.lab.onegate.server import Emulator, load_tls, running_emulator, running_server
from tests.lab.onegate.state import Cloud, Nic, StateError
from tests.lab.onegate.template import (
    TemplateRefusedError,
    Version,
    parse_update,
    quote_values,
    reports_ready,
)
from tests.unit.lab.recordings import read_context

REPOSITORY = Path(__file__).parents[3]
FORM = {"Content-Type": "application/x-www-form-urlencoded"}


class Gate:
    """A VM's view of the emulator."""

    def __init__(self, base_url: str, vm_id: int | str, token: str) -> None:
        self.address = urlsplit(base_url).netloc
        self.headers = {"X-ONEGATE-TOKEN": token, "X-ONEGATE-VMID": str(vm_id)}

    def ask(self, method: str, path: str, body: str | None = None) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection(self.address, timeout=5)
        try:
            headers = {**self.headers, **(FORM if body else {})}
            connection.request(method, path, body, headers)
            with connection.getresponse() as response:
                return response.status, response.read()
        finally:
            connection.close()

    def get(self, path: str) -> Any:
        status, body = self.ask("GET", path)
        assert status == 200, body
        return json.loads(body)

    def put(self, text: str, path: str = "/vm") -> int:
        return self.ask("PUT", path, f"data={quote_plus(text)}")[0]


@pytest.fixture
def emulator() -> Iterator[Emulator]:
    """One service with two vnf (VM 0 and 1) and a master (VM 2)."""
    cloud = Cloud()
    service = cloud.add_service("OneKE/1", [("vnf", 2), ("master", 1)])
    for role in ("vnf", "vnf", "master"):
        cloud.add_vm(role=role, service_id=service.service_id, token=f"token of {len(cloud.vms)}")
    with running_emulator(Emulator(cloud)) as running:
        yield running


@pytest.fixture
def gate(emulator: Emulator) -> Gate:
    return Gate(emulator.base_url, 0, "token of 0")


@pytest.fixture
def control(emulator: Emulator, tmp_path: Path) -> Iterator[Control]:
    server = ControlServer(tmp_path / "control", Operations(emulator))
    server.start()
    yield Control(tmp_path / "control")
    server.stop()


# --- READY --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "is_ready"),
    [
        ("READY=YES", True),
        ('READY="YES"', True),
        ("A=1\nREADY=YES\nB=2", True),
        (' READY = " YES " ', True),
        ("ONEAPP_NODE_READY=YES", True),
        ("ONEAPP_NODE_READY=YES_BUT", True),
        ("READY=NO", False),
        ("ready=YES", False),
        ("READY=yes", False),
        ("A=READY", False),
        ("READY_A=YES", False),
        ("", False),
    ],
)
def test_reports_ready(text: str, is_ready: bool) -> None:
    assert reports_ready(text) == is_ready


def test_the_first_report_counts_and_is_not_taken_back(control: Control, gate: Gate) -> None:
    assert control.vm(0)["ready"] is None
    assert gate.put("READY=YES\nA=1,2") == 500
    assert control.vm(0)["ready"] is None
    before = time.time()
    assert gate.put("NODE_READY=YES") == 200
    first = control.vm(0)["ready"]
    assert before <= first <= time.time()
    assert gate.put("NODE_READY=NO") == gate.put("READY=YES") == 200
    assert control.vm(0)["ready"] == first


def test_a_peer_may_report_for_another_vm(control: Control, gate: Gate) -> None:
    assert gate.put("READY=YES", "/vms/2") == 200
    assert control.vm(2)["ready"] and not control.vm(0)["ready"]


# --- the text of an update ----------------------------------------------------------------------


HARMLESS = "abcXYZ019=+/-_.:;&|$#%<>?*(){}~^!@'`"
HEADS = HARMLESS.replace(
    "=", ""
)  # a bracket right after a = can pass: the server takes it for its own


@given(st.text(HARMLESS, min_size=1), st.sampled_from(Version))
@settings(max_examples=200, database=None, deadline=None, derandomize=True)
def test_values_of_harmless_characters_are_stored_intact(value: str, version: Version) -> None:
    assert parse_update(quote_values(f"KEY={value}"), version) == [("KEY", value)]


@given(st.text(HEADS, min_size=1), st.sampled_from('",[]'), st.text(HARMLESS, min_size=1))
@settings(max_examples=200, database=None, deadline=None, derandomize=True)
def test_values_with_a_dangerous_character_are_never_stored_intact(
    head: str, danger: str, tail: str
) -> None:
    value = head + danger + tail
    try:
        stored = parse_update(quote_values(f"KEY={value}\nLAST=1"), Version.V7_4)
    except TemplateRefusedError:
        return
    assert stored != [("KEY", value), ("LAST", "1")]


@pytest.mark.parametrize(
    "text", ["A=[", "A=[B", "A=[B=1", "=", ",", "]", "A=[B=1,]", "#", "A", "\n=A"]
)
def test_odd_texts_are_refused_or_stored_but_end(text: str) -> None:
    try:
        parse_update(quote_values(text), Version.V7_4)
    except TemplateRefusedError as refused:
        assert "Parse error" in str(refused)


# --- serving ------------------------------------------------------------------------------------


def test_running_server_serves_a_cloud() -> None:
    cloud = Cloud()
    vm = cloud.add_vm(nics=[Nic({"IP": "10.0.0.1", "NETWORK": "Public"})])
    with running_server(cloud, version="6.4") as base_url:
        shown = Gate(base_url, vm.vm_id, vm.token).get("/vm")["VM"]
    assert shown["TEMPLATE"]["NIC"] == [{"IP": "10.0.0.1", "NAME": "_NIC0", "NETWORK": "Public"}]


def test_a_recorded_context_can_be_served(control: Control, emulator: Emulator) -> None:
    context, token = read_context("7.4", "001-context-and-token-vnf.txt")
    assert (context["VMID"], len(token)) == ("365", 24)
    added = control.add_vm("vnf", 1, context=context, vm_id=context["VMID"], token=token)
    assert added == {"id": "365", "token": token}
    service = Gate(emulator.base_url, 365, token).get("/service?extended=true")["SERVICE"]
    vnf = service["roles"][0]
    assert (vnf["cardinality"], vnf["nodes"][-1]["deploy_id"]) == (3, 365)
    assert vnf["nodes"][-1]["vm_info"]["VM"]["TEMPLATE"]["CONTEXT"] == context


def test_one_connection_takes_many_requests_even_after_errors(emulator: Emulator) -> None:
    connection = http.client.HTTPConnection(*emulator.address, timeout=5)
    headers = {"X-ONEGATE-TOKEN": "token of 0", "X-ONEGATE-VMID": "0"}
    statuses = []
    for method, path in [("GET", "/vm"), ("PUT", "/nowhere"), ("HEAD", "/vm"), ("PUT", "/vm")]:
        connection.request(method, path, "data=A%3D1" if method == "PUT" else None, headers | FORM)
        with connection.getresponse() as response:
            response.read()
            statuses.append(response.status)
    connection.close()
    assert statuses == [200, 400, 200, 200]


def test_parallel_updates_lose_nothing(control: Control, emulator: Emulator) -> None:
    gates = [Gate(emulator.base_url, vm_id, f"token of {vm_id}") for vm_id in (0, 1, 2)]
    with concurrent.futures.ThreadPoolExecutor(20) as pool:
        calls = [pool.submit(gates[n % 3].put, f"KEY{n}={n}", "/vms/0") for n in range(60)]
        assert {call.result() for call in calls} == {200}
    stored = control.user_template(0)
    assert {key: stored[key] for key in stored if key.startswith("KEY")} == {
        f"KEY{n}": str(n) for n in range(60)
    }


def test_https_is_spoken(tmp_path: Path) -> None:
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is not installed")
    cert, key = tmp_path / "cert", tmp_path / "key"
    make = [openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    make += ["-nodes", "-subj", "/CN=gate", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run([*make, "-keyout", key, "-out", cert], check=True, capture_output=True)
    context = ssl.create_default_context(cafile=cert)
    with running_emulator(Emulator(Cloud(), tls=load_tls(cert, key))) as running:
        assert running.base_url.startswith("https://")
        with pytest.raises(ssl.SSLCertVerificationError):
            ask_for_nothing(running.address, ssl.create_default_context())
        assert ask_for_nothing(running.address, context) == 401


def ask_for_nothing(address: tuple[str, int], context: ssl.SSLContext) -> int:
    connection = http.client.HTTPSConnection(*address, timeout=5, context=context)
    try:
        connection.request("GET", "/vm")
        with connection.getresponse() as response:
            return response.status
    finally:
        connection.close()


# --- control ------------------------------------------------------------------------------------


def test_services_and_vms_are_made_and_described(control: Control, emulator: Emulator) -> None:
    service_id = control.add_service(name="OneKE/2", roles=[("vnf", 2), ("master", 0)])
    nic = {"IP": "10.0.0.7", "MAC": "02:00:0a:00:00:07", "NETWORK": "Public"}
    added = control.add_vm(
        role="vnf", service_id=service_id, nics=[nic], user_template={"A": "1", "V": {"B": "2"}}
    )
    vm = control.vm(added["id"])
    assert (service_id, added["id"], len(added["token"])) == (2, "3", 24)
    assert control.services() == [1, 2]
    assert (vm["name"], vm["state"], vm["lcm_state"]) == ("vnf_0_(service_2)", 3, 3)
    assert vm["nics"][0]["IP"] == "10.0.0.7"
    assert control.user_template(added["id"]) == {
        "A": "1",
        "V": {"B": "2"},
        "ROLE_NAME": "vnf",
        "SERVICE_ID": "2",
    }
    shown = Gate(emulator.base_url, added["id"], added["token"]).get("/service")["SERVICE"]
    assert [role["cardinality"] for role in shown["roles"]] == [2, 0]
    assert [role["state"] for role in shown["roles"]] == [1, 0]


def test_states_and_templates_are_changed(control: Control, gate: Gate) -> None:
    control.set_vm(2, state=3, lcm_state=12)
    control.set_user_template(2, {"A": "1,2", "ROLE_NAME": None})
    control.set_service(1, state=2, roles={"vnf": {"state": 2}, "master": {"cardinality": 5}})
    vm = gate.get("/vms/2")["VM"]
    assert (vm["STATE"], vm["LCM_STATE"]) == ("3", "12")
    assert vm["USER_TEMPLATE"] == {"A": "1,2", "SERVICE_ID": "1"}
    service = gate.get("/service")["SERVICE"]
    assert service["state"] == 2
    assert [(role["state"], role["cardinality"]) for role in service["roles"]] == [(2, 2), (1, 5)]
    control.set_user_template(2, {"B": "2"}, replace=True)
    assert control.user_template(2) == {"B": "2"}


def test_a_pending_vm_has_no_history(control: Control, gate: Gate) -> None:
    control.add_vm("master", 1, state=1, lcm_state=0)
    master = gate.get("/service?extended=true")["SERVICE"]["roles"][1]
    raw = master["nodes"][1]["vm_info"]["VM"]
    assert (raw["STATE"], raw["HISTORY_RECORDS"], raw["DEPLOY_ID"]) == ("1", {}, {})


def test_a_removed_vm_leaves_its_role_but_its_token_lives_on(
    control: Control, emulator: Emulator, gate: Gate
) -> None:
    control.remove_vm(1)
    vnf = gate.get("/service")["SERVICE"]["roles"][0]
    assert (vnf["cardinality"], [node["deploy_id"] for node in vnf["nodes"]]) == (1, [0])
    leaver = Gate(emulator.base_url, 1, "token of 1")
    assert leaver.get("/vm")["VM"]["STATE"] == "6"
    assert leaver.ask("GET", "/service") == (400, b"Service 1 does not contain VM 1.")
    control.remove_vm(1, forget=True)
    assert leaver.ask("GET", "/vm") == (401, b"Not authorized")


def test_requests_are_noted_without_secrets(control: Control, gate: Gate) -> None:
    gate.get("/service?extended=true")
    gate.ask("PUT", "/vm?data=SECRET%3D1")
    requests = control.requests()
    assert [request["path"] for request in requests] == ["/service", "/vm"]
    assert [request["extended"] for request in requests] == [True, False]
    assert [(request["vmid"], request["status"]) for request in requests] == [("0", 200)] * 2
    assert all(request["duration_s"] >= 0 for request in requests)
    assert "SECRET" not in str(requests) and "token" not in str(requests)
    control.clear_requests()
    assert control.requests() == []


def test_wrong_calls_are_refused_with_a_reason(control: Control, tmp_path: Path) -> None:
    with pytest.raises(ControlError, match="no role storage, only vnf, master"):
        control.add_vm("storage", 1)
    with pytest.raises(ControlError, match="there is no VM 99"):
        control.vm(99)
    with pytest.raises(ControlError, match="VM 0 exists already"):
        control.add_vm(vm_id=0)
    with pytest.raises(ControlError, match="'loud' is not a valid FaultKind"):
        control.fault("loud")
    with pytest.raises(ControlError, match="unknown options of a fault: volume"):
        control.fault("slow", volume=3)
    with pytest.raises(ControlError, match="nothing"):
        Control(tmp_path / "nothing").wait_until_up(timeout_s=0)
    with pytest.raises(StateError, match="together or not at all"):
        Cloud().add_vm(role="vnf")


# --- faults -------------------------------------------------------------------------------------


def test_down_refuses_connections_and_cuts_those_there_are(
    control: Control, emulator: Emulator, gate: Gate
) -> None:
    with socket.create_connection(emulator.address, timeout=5) as idle:
        gate.get("/vm")
        control.fault("down")
        assert idle.recv(1) == b""
    with pytest.raises(ConnectionRefusedError):
        gate.get("/vm")
    control.heal()
    assert gate.get("/vm")


def test_slow_delays_only_what_it_is_limited_to(control: Control, gate: Gate) -> None:
    control.fault("slow", seconds=0.2, path="/service", extended=True)
    for path, is_slow in (("/vm", False), ("/service", False), ("/service?extended=1", True)):
        begin = time.monotonic()
        gate.get(path)
        assert (time.monotonic() - begin >= 0.2) == is_slow


def test_hanging_never_answers_and_lets_go_when_healed(control: Control, gate: Gate) -> None:
    control.fault("hanging", vm_id=0)
    healer = threading.Timer(0.2, control.heal)
    healer.start()
    with pytest.raises(http.client.RemoteDisconnected):
        gate.ask("GET", "/vm")
    healer.join()
    assert control.requests()[-1]["status"] == 0
    assert gate.get("/vm")


@pytest.mark.parametrize(
    ("options", "answer"),
    [
        ({"status": 401}, (401, b"Not authorized")),
        ({"status": 404}, (404, b"Service 1 not found")),
        ({"status": 500}, (500, b"Internal server error")),
        ({"status": 503, "text": "try later"}, (503, b"try later")),
    ],
)
def test_status_answers_with_the_usual_text_as_often_as_told(
    control: Control, gate: Gate, options: dict[str, Any], answer: tuple[int, bytes]
) -> None:
    control.fault("status", count=2, **options)
    assert [gate.ask("GET", "/service") for _ in range(2)] == [answer] * 2
    assert gate.ask("GET", "/service")[0] == 200


def test_oned_and_oneflow_down(control: Control, gate: Gate) -> None:
    control.fault("oneflow_down")
    paths = ("/vm", "/vms/0", "/vms/1", "/service")
    assert [gate.ask("GET", path)[0] for path in paths] == [200, 200, 404, 404]
    control.fault("oned_down")
    assert [gate.ask("GET", path)[0] for path in paths] == [401] * 4
    control.heal("oned_down")
    assert gate.ask("GET", "/service") == (404, b"Service 1 not found")


def test_truncated_breaks_off_though_the_update_took_place(control: Control, gate: Gate) -> None:
    control.fault("truncated", count=2)
    with pytest.raises(http.client.IncompleteRead):
        gate.ask("GET", "/vm")
    assert gate.put("A=1") == 200  # its answer has no body to cut
    assert control.user_template(0)["A"] == "1"


def test_garbage_is_no_json(control: Control, gate: Gate) -> None:
    control.fault("garbage", method="GET")
    status, body = gate.ask("GET", "/vm")
    assert status == 200
    with pytest.raises(json.JSONDecodeError):
        json.loads(body)
    assert gate.put("A=1") == 200


def test_stale_shows_the_past_while_updates_are_stored(control: Control, gate: Gate) -> None:
    control.fault("stale")
    assert gate.put("A=1") == 200
    control.remove_vm(1)
    assert "A" not in gate.get("/vm")["VM"]["USER_TEMPLATE"]
    assert len(gate.get("/service")["SERVICE"]["roles"][0]["nodes"]) == 2
    control.heal()
    assert gate.get("/vm")["VM"]["USER_TEMPLATE"]["A"] == "1"


UNREADABLE = (404, b"[one.vm.info] User [2] : Not authorized to perform USE VM [1].")


@pytest.mark.parametrize("is_fault", [True, False])
def test_an_unreadable_vm_spoils_the_extended_answer_of_others(
    control: Control, emulator: Emulator, gate: Gate, is_fault: bool
) -> None:
    """As in the recordings 260 to 264, as a fault or as a VM that belongs to serveradmin."""
    if is_fault:
        control.fault("unreadable", vm_id=1)
    else:
        control.remove_vm(1, forget=True)
        control.add_vm("vnf", 1, vm_id=1, token="token of 1", unreadable=True)
    assert gate.ask("GET", "/service?extended=true") == UNREADABLE
    assert gate.ask("GET", "/vms/1") == UNREADABLE
    assert gate.ask("PUT", "/vms/1", "data=A%3D1") == UNREADABLE
    assert gate.ask("GET", "/service")[0] == gate.ask("GET", "/vms/2")[0] == 200
    itself = Gate(emulator.base_url, 1, "token of 1")
    assert itself.ask("GET", "/vm")[0] == itself.ask("GET", "/service")[0] == 200


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (FaultKind.DOWN, {"count": 3}),
        (FaultKind.UNREADABLE, {}),
        (FaultKind.SLOW, {}),
    ],
)
def test_senseless_faults_are_refused(kind: FaultKind, options: dict[str, Any]) -> None:
    with pytest.raises(FaultError):
        Fault(kind, **options)


# --- the process --------------------------------------------------------------------------------


@contextmanager
def running_process(*arguments: str | Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "tests.lab.onegate", "--listen", "127.0.0.1:0", *arguments]
    with subprocess.Popen(
        command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def test_the_process_serves_a_state_file_and_stops_cleanly(tmp_path: Path) -> None:
    state, log, control_path = tmp_path / "state.json", tmp_path / "log", tmp_path / "control"
    vm = {"role": "vnf", "service_id": 7, "vm_id": 365, "token": "recorded"}
    service = {"name": "OneKE/7", "roles": [["vnf", 1]], "service_id": 7}
    state.write_text(json.dumps({"services": [service], "vms": [vm]}), encoding="utf-8")
    options = ("--version", "6.4", "--control", control_path, "--state", state, "--log", log)
    with running_process(*options) as process:
        control = Control(control_path)
        control.wait_until_up(timeout_s=10)
        gate = Gate(control.info()["base_url"], 365, "recorded")
        assert control.info()["version"] == "6.4"
        assert gate.get("/service")["SERVICE"]["id"] == "7"
        assert gate.put("A=1,2") == 500
        control.fault("hanging")
        with pytest.raises(http.client.RemoteDisconnected):
            threading.Timer(0.1, process.send_signal, [signal.SIGTERM]).start()
            gate.ask("GET", "/vm")
        output, _ = process.communicate(timeout=10)
    assert process.returncode == 0
    assert output == f"OneGate 6.4 at http://{gate.address}\n"
    assert not control_path.exists()
    statuses = [json.loads(line)["status"] for line in log.read_text("utf-8").splitlines()]
    assert statuses == [200, 500, 0]


def test_the_process_needs_nothing_but_the_standard_library() -> None:
    command = [sys.executable, "-S", "-E", "-s", "-m", "tests.lab.onegate", "--help"]
    helped = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert "--listen" in helped.stdout
