"""The OneGate client against the emulator that is held to the recordings of real servers.

What holds for the client holds for the fake too, as far as both can: the contract tests run on
either.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from appliance import paths
from appliance.errors import (
    ConfigurationRefused,
    OneGateError,
    OneGateMalformed,
    OneGatePassing,
    OneGateRefused,
    OneGateUnavailable,
)
from appliance.identify import connect
from appliance.secret import Secret
from appliance.system import System
from appliance.system.files import RealFiles
from appliance.system.onegate import OneGate
from appliance.system.onegatehttp import HttpOneGate
from tests.fakes import FakeLog, FakeOneGate, make_system
from tests.lab.onegate.faults import Fault, FaultKind
from tests.lab.onegate.server import Emulator, load_tls, running_emulator
from tests.lab.onegate.state import Cloud
from tests.lab.onegate.template import Version

TOKEN = "cGxhbnRlZC10b2tlbi0wMQ=="
VERSIONS = pytest.mark.parametrize("version", list(Version), ids=str)
ROLES = ("vnf", "vnf", "master", "worker")


def make_cloud() -> Cloud:
    """Return a cloud with one service: vnf 0 and 1, master 2, worker 3."""
    cloud = Cloud()
    cardinalities = [(role, ROLES.count(role)) for role in dict.fromkeys(ROLES)]
    service = cloud.add_service("OneKE/1", cardinalities)
    for vm_id, role in enumerate(ROLES):
        token = TOKEN if vm_id == 0 else f"token of {vm_id}"
        cloud.add_vm(
            role=role,
            service_id=service.service_id,
            token=token,
            user_template={"ONEGATE_K8S_MASTER": f"172.20.0.10{vm_id}"},
        )
    return cloud


@dataclass(frozen=True)
class Site:
    """An emulator and VM 0's client of it."""

    emulator: Emulator
    client: HttpOneGate

    def requests(self) -> list[tuple[str, str]]:
        """Return method and path of every request."""
        return [(one.method, one.path) for one in self.emulator.log.list_entries()]


@pytest.fixture(params=list(Version), ids=str)
def site(request: pytest.FixtureRequest) -> Iterator[Site]:
    """A OneGate of either version."""
    with running_emulator(Emulator(make_cloud(), request.param)) as emulator:
        yield Site(emulator, HttpOneGate(emulator.base_url, 0, Secret(TOKEN)))


# --- the same for client and fake -----------------------------------------------------------------


@pytest.fixture(params=["http", "fake"])
def onegate(request: pytest.FixtureRequest) -> Iterator[OneGate]:
    """The real client, or the fake that unit tests use."""
    if request.param == "fake":
        attributes = [
            {"ROLE_NAME": role, "SERVICE_ID": "1", "ONEGATE_K8S_MASTER": f"172.20.0.10{vm_id}"}
            for vm_id, role in enumerate(ROLES)
        ]
        fake = FakeOneGate(0, attributes[0])
        for vm_id in (1, 2, 3):
            fake.add_vm(vm_id, attributes[vm_id])
        yield fake
    else:
        with running_emulator(Emulator(make_cloud())) as emulator:
            yield HttpOneGate(emulator.base_url, 0, Secret(TOKEN))


def test_a_vm_learns_its_role(onegate: OneGate) -> None:
    vm = onegate.own_vm()
    assert vm.vm_id == 0
    assert vm.text("ROLE_NAME") == "vnf"
    assert (vm.state, vm.lcm_state) == (3, 3)


def test_the_service_shows_every_vm_with_its_attributes(onegate: OneGate) -> None:
    service = onegate.service()
    assert service.complete
    assert {role.name: role.vm_ids for role in service.roles} == {
        "vnf": (0, 1),
        "master": (2,),
        "worker": (3,),
    }
    master = service.role("master")
    assert master is not None
    assert [vm.text("ONEGATE_K8S_MASTER") for vm in master.vms] == ["172.20.0.102"]


def test_a_sibling_is_read_by_its_id(onegate: OneGate) -> None:
    assert onegate.vm(2).text("ROLE_NAME") == "master"


@pytest.mark.parametrize(
    "values",
    [
        {"ONEKE_STATE": "WAITING"},
        {"ONEKE_STATE": "READY", "ONEKE_STEP": "", "ONEKE_ERROR": ""},
        {"ONEKE_STEP": "a=b c&d%41+; ünï #$'()"},
        {"READY": "YES", "ONEKE_STATE": "READY"},
        {"TOKEN": "K10abc::server:dG9rZW4+/=="},
    ],
)
def test_what_is_stored_is_read_back_as_it_was(onegate: OneGate, values: dict[str, str]) -> None:
    onegate.update({"ONEKE_STEP": "before"})
    onegate.update(values)
    found = onegate.own_vm().attributes
    assert {key: found[key] for key in values} == values
    assert found["ROLE_NAME"] == "vnf"


@pytest.mark.parametrize("values", [{"A": "x,y"}, {"ROLE_NAME": "x"}, {"A": 'READY="YES"'}])
def test_what_would_be_changed_is_not_sent(onegate: OneGate, values: dict[str, str]) -> None:
    before = dict(onegate.own_vm().attributes)
    with pytest.raises(OneGateRefused):
        onegate.update({"B": "1", **values})
    assert onegate.own_vm().attributes == before


# --- HTTP -----------------------------------------------------------------------------------------


def test_many_requests_share_one_connection(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[object] = []
    server = site.emulator._server
    assert server is not None
    process = server.process_request

    def count(request: object, client_address: object) -> None:
        opened.append(client_address)
        process(request, client_address)

    monkeypatch.setattr(server, "process_request", count)
    for number in range(10):
        site.client.own_vm()
        site.client.service()
        site.client.update({"ONEKE_STEP": f"step {number}"})
    assert len(site.requests()) == 30
    assert len(opened) == 1


def test_a_refusal_before_sending_makes_no_request(site: Site) -> None:
    with pytest.raises(OneGateRefused):
        site.client.update({"A": "x,y"})
    assert site.requests() == []


def test_several_keys_go_in_one_request(site: Site) -> None:
    site.client.update({"A": "1", "B": "2", "C": ""})
    assert site.requests() == [("PUT", "/vm")]


def test_a_trailing_slash_of_the_endpoint_does_no_harm(site: Site) -> None:
    client = HttpOneGate(f"{site.emulator.base_url}/", 0, Secret(TOKEN))
    assert client.own_vm().vm_id == 0


def test_a_server_that_comes_back_is_found_again(site: Site) -> None:
    site.client.own_vm()
    site.emulator.stop()
    with pytest.raises(OneGateUnavailable):
        site.client.own_vm()
    site.emulator.start()
    assert site.client.own_vm().vm_id == 0


def test_a_proxy_of_the_environment_is_not_used(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    assert site.client.own_vm().vm_id == 0


# --- faults ---------------------------------------------------------------------------------------


@pytest.mark.usefixtures("no_collection")
@pytest.mark.parametrize(
    ("fault", "error", "words", "retryable"),
    [
        (Fault(FaultKind.DOWN), OneGateUnavailable, "refused", True),
        (Fault(FaultKind.STATUS, status=401), OneGatePassing, "status 401", True),
        (Fault(FaultKind.STATUS, status=404), OneGatePassing, "status 404", True),
        (Fault(FaultKind.STATUS, status=429), OneGatePassing, "status 429", True),
        (Fault(FaultKind.STATUS, status=502), OneGatePassing, "status 502", True),
        (Fault(FaultKind.STATUS, status=503), OneGatePassing, "status 503", True),
        (Fault(FaultKind.STATUS, status=504), OneGatePassing, "status 504", True),
        (Fault(FaultKind.STATUS, status=400), OneGateRefused, "status 400", False),
        (Fault(FaultKind.STATUS, status=403), OneGateRefused, "status 403", False),
        (Fault(FaultKind.STATUS, status=302), OneGateRefused, "status 302", False),
        (Fault(FaultKind.GARBAGE), OneGateMalformed, "not JSON", True),
        (Fault(FaultKind.GARBAGE, text="[1, 2]"), OneGateMalformed, "no JSON object", True),
        (Fault(FaultKind.GARBAGE, text="{}"), OneGateMalformed, "holds no", True),
        (Fault(FaultKind.GARBAGE, text="null"), OneGateMalformed, "no JSON object", True),
        (Fault(FaultKind.GARBAGE, text=""), OneGateMalformed, "not JSON", True),
        (Fault(FaultKind.GARBAGE, text="\x00\x01"), OneGateMalformed, "not JSON", True),
        (Fault(FaultKind.GARBAGE, text="[" * 100_000), OneGateMalformed, "not JSON", True),
        (Fault(FaultKind.GARBAGE, text="9" * 5000), OneGateMalformed, "JSON", True),
        (Fault(FaultKind.TRUNCATED), OneGateUnavailable, "OneGate GET", True),
        (Fault(FaultKind.ONED_DOWN), OneGatePassing, "status 401", True),
    ],
    ids=lambda value: f"{value.kind}-{value.status}" if isinstance(value, Fault) else None,
)
@pytest.mark.parametrize("verb", ["own_vm", "service"])
def test_errors_are_told_apart(
    site: Site,
    fault: Fault,
    error: type[OneGateError],
    words: str,
    retryable: bool,
    verb: str,
) -> None:
    site.emulator.set_fault(Fault(fault.kind, status=fault.status, text=fault.text))
    with pytest.raises(error, match=words) as caught:
        getattr(site.client, verb)()
    assert type(caught.value) is error
    assert caught.value.retryable == retryable
    assert caught.value.exit_code == 75
    assert TOKEN not in repr(caught.value) + str(caught.value) + str(caught.value.hint)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


def test_a_server_error_of_oned_is_told_with_its_words(site: Site) -> None:
    site.emulator.set_fault(
        Fault(FaultKind.STATUS, status=500, text="[one.template.parse] syntax error")
    )
    with pytest.raises(OneGateError, match=r"status 500: .*syntax error"):
        site.client.update({"A": "1"})


def test_oneflow_that_is_down_is_a_404_of_the_service_only(site: Site) -> None:
    site.emulator.set_fault(Fault(FaultKind.ONEFLOW_DOWN))
    assert site.client.own_vm().text("ROLE_NAME") == "vnf"
    with pytest.raises(OneGatePassing) as caught:
        site.client.service()
    assert caught.value.status == 404
    assert "OneFlow" in str(caught.value.hint)


def test_an_answer_that_does_not_come_is_given_up(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("appliance.system.onegatehttp.OWN_TIMEOUT_S", 0.2)
    site.emulator.set_fault(Fault(FaultKind.HANGING))
    with pytest.raises(OneGateUnavailable, match="no answer in time") as caught:
        site.client.own_vm()
    assert caught.value.retryable
    site.emulator.heal()
    assert site.client.own_vm().vm_id == 0


def test_who_has_little_time_waits_no_longer(site: Site) -> None:
    hurried = HttpOneGate(site.emulator.base_url, 0, Secret(TOKEN), longest_s=0.2)
    site.emulator.set_fault(Fault(FaultKind.SLOW, seconds=1))
    for ask in (hurried.own_vm, hurried.service, lambda: hurried.update({"ONEKE_STEP": "x"})):
        with pytest.raises(OneGateUnavailable, match="in time"):
            ask()


def test_an_answer_of_several_requests_takes_no_longer_than_one_may(site: Site) -> None:
    """Each of its requests alone would have come in time."""
    hurried = HttpOneGate(site.emulator.base_url, 0, Secret(TOKEN), longest_s=1.5)
    site.emulator.set_fault(Fault(FaultKind.UNREADABLE, vm_id=3))
    site.emulator.set_fault(Fault(FaultKind.SLOW, seconds=1))
    began = time.monotonic()
    with pytest.raises(OneGateUnavailable, match=r"GET /service: .*in time"):
        hurried.service()
    assert time.monotonic() - began < 4
    assert ("GET", "/vms/0") not in site.requests()


def test_vms_for_which_no_time_is_left_are_missing_and_the_answer_is_not_complete(
    site: Site,
) -> None:
    hurried = HttpOneGate(site.emulator.base_url, 0, Secret(TOKEN), longest_s=1.5)
    site.emulator.set_fault(Fault(FaultKind.UNREADABLE, vm_id=3))
    site.emulator.set_fault(Fault(FaultKind.SLOW, seconds=1, path="/vms"))
    began = time.monotonic()
    service = hurried.service()
    assert time.monotonic() - began < 4
    assert [vm.vm_id for role in service.roles for vm in role.vms] == [0]
    assert not service.complete


def test_a_slow_answer_is_waited_for(site: Site) -> None:
    site.emulator.set_fault(Fault(FaultKind.SLOW, seconds=0.3))
    assert site.client.own_vm().vm_id == 0


def test_a_wrong_token_is_told_as_what_it_may_be(site: Site) -> None:
    client = HttpOneGate(site.emulator.base_url, 0, Secret("planted-wrong-token"))
    with pytest.raises(OneGatePassing, match="status 401") as caught:
        client.own_vm()
    assert "oned is down" in str(caught.value.hint)
    assert "planted-wrong-token" not in repr(caught.value) + str(caught.value)


def test_a_token_that_no_header_can_carry_is_not_told(site: Site) -> None:
    client = HttpOneGate(site.emulator.base_url, 0, Secret("planted\ntoken"))
    with pytest.raises(OneGateError) as caught:
        client.own_vm()
    assert "planted" not in f"{caught.value!r} {caught.value} {caught.value.hint}"


def test_a_name_that_does_not_resolve_is_unavailable() -> None:
    client = HttpOneGate("http://onegate.invalid:5030", 0, Secret(TOKEN))
    with pytest.raises(OneGateUnavailable, match=r"onegate\.invalid"):
        client.own_vm()


# --- an extended answer that is spoilt ------------------------------------------------------------


def test_one_unreadable_vm_costs_completeness_and_not_the_others(site: Site) -> None:
    site.emulator.set_fault(Fault(FaultKind.UNREADABLE, vm_id=3))
    service = site.client.service(["master", "vnf"])
    assert not service.complete
    read = {role.name: [vm.vm_id for vm in role.vms] for role in service.roles}
    assert read == {"vnf": [0, 1], "master": [2], "worker": []}
    assert {role.name: role.vm_ids for role in service.roles}["worker"] == (3,)
    assert ("GET", "/vms/3") not in site.requests()


def test_the_unreadable_vm_itself_is_left_out(site: Site) -> None:
    site.emulator.set_fault(Fault(FaultKind.UNREADABLE, vm_id=2))
    service = site.client.service(["master", "worker"])
    assert not service.complete
    master, worker = service.role("master"), service.role("worker")
    assert master is not None
    assert worker is not None
    assert master.vms == ()
    assert [vm.vm_id for vm in worker.vms] == [3]


def test_without_a_wish_every_role_is_asked_for(site: Site) -> None:
    site.emulator.set_fault(Fault(FaultKind.UNREADABLE, vm_id=3))
    service = site.client.service()
    assert sorted(vm.vm_id for role in service.roles for vm in role.vms) == [0, 1, 2]
    assert not service.complete


def test_a_server_that_goes_down_in_between_is_an_error_and_no_empty_service(site: Site) -> None:
    site.emulator.set_fault(Fault(FaultKind.UNREADABLE, vm_id=3))
    site.emulator.set_fault(Fault(FaultKind.GARBAGE, path="/vms"))
    with pytest.raises(OneGateMalformed):
        site.client.service()


def test_a_vm_that_is_gone_leaves_an_answer_that_is_complete_again(site: Site) -> None:
    site.emulator.cloud.remove_vm(3)
    service = site.client.service()
    worker = service.role("worker")
    assert worker is not None
    assert worker.vm_ids == ()
    assert service.complete


# --- TLS ------------------------------------------------------------------------------------------


def make_certificate(folder: Path, address: str = "127.0.0.1") -> tuple[Path, Path]:
    """Make a self-signed certificate for an address."""
    cert, key = folder / "cert.pem", folder / "key.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt"),
            *("ec_paramgen_curve:prime256v1", "-nodes", "-days", "2", "-subj", "/CN=onegate"),
            *("-addext", f"subjectAltName=IP:{address}", "-keyout", str(key), "-out", str(cert)),
        ],
        check=True,
        capture_output=True,
        timeout=60,
    )
    return cert, key


@contextmanager
def secure_site(folder: Path, address: str = "127.0.0.1") -> Iterator[tuple[Emulator, Path]]:
    """Serve HTTPS with a self-made certificate."""
    cert, key = make_certificate(folder, address)
    with running_emulator(Emulator(make_cloud(), tls=load_tls(cert, key))) as emulator:
        yield emulator, cert


def connected(emulator: Emulator, system: System, log: FakeLog, **base: object) -> OneGate:
    """Connect as the agent does with these parameters."""
    values = {
        "onegate_endpoint": emulator.base_url,
        "vm_id": 0,
        "onegate_token": Secret(TOKEN),
        "onegate_ca": None,
        "onegate_tls_verify": True,
        **base,
    }
    onegate = connect(system, values, log).onegate
    assert onegate is not None
    return onegate


def test_a_certificate_that_nobody_vouches_for_is_refused_by_default(tmp_path: Path) -> None:
    with secure_site(tmp_path) as (emulator, _):
        onegate = connected(emulator, make_system(), FakeLog())
        with pytest.raises(OneGateUnavailable, match=r"certificate .* does not verify") as caught:
            onegate.own_vm()
        assert "ONEAPP_ONEGATE_CA" in str(caught.value.hint)
        assert TOKEN not in repr(caught.value) + str(caught.value)
        assert emulator.log.list_entries() == []


@pytest.mark.parametrize("given", ["path", "text"])
def test_a_certificate_that_the_parameter_vouches_for_is_accepted(
    tmp_path: Path, given: str
) -> None:
    with secure_site(tmp_path) as (emulator, cert):
        if given == "path":
            system, ca = make_system(files=RealFiles("/")), str(cert)
        else:
            system, ca = make_system(files=RealFiles(str(tmp_path / "root"))), cert.read_text()
        assert connected(emulator, system, FakeLog(), onegate_ca=ca).own_vm().vm_id == 0
        kept = tmp_path / "root" / paths.RUN_DIR.relative_to("/") / "onegate-ca.pem"
        assert kept.exists() == (given == "text")


def test_a_certificate_of_another_address_is_refused(tmp_path: Path) -> None:
    with secure_site(tmp_path, "192.0.2.1") as (emulator, cert):
        system = make_system(files=RealFiles("/"))
        onegate = connected(emulator, system, FakeLog(), onegate_ca=str(cert))
        with pytest.raises(OneGateUnavailable, match="does not verify"):
            onegate.own_vm()


@pytest.mark.filterwarnings("ignore:Unverified HTTPS request")
def test_checking_can_be_switched_off_and_that_is_logged(tmp_path: Path) -> None:
    with secure_site(tmp_path) as (emulator, _):
        log = FakeLog()
        onegate = connected(emulator, make_system(), log, onegate_tls_verify=False)
        assert onegate.own_vm().vm_id == 0
        assert log.events() == ["onegate.unverified"]
        assert log.lines[0]["level"] == "warning"


@pytest.mark.parametrize("text", [None, "", "no certificate"])
def test_certificates_that_can_not_be_read_are_named(tmp_path: Path, text: str | None) -> None:
    with secure_site(tmp_path) as (emulator, _):
        ca = tmp_path / "ca.pem"
        if text is not None:
            ca.write_text(text)
        system = make_system(files=RealFiles("/"))
        with pytest.raises(ConfigurationRefused, match="ONEAPP_ONEGATE_CA"):
            connected(emulator, system, FakeLog(), onegate_ca=str(ca))
