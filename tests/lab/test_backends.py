"""Backends that follow OneGate on real gateways: no reload, no cut connection, no silent stop."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.lab.bake import Image
from tests.lab.basics import LabError
from tests.lab.context import PRIVATE_VIP, PUBLIC_VIP
from tests.lab.gateway_node import (
    Echo,
    Talk,
    agent,
    configured,
    give_context,
    main_pids,
    server_states,
    wait_fetch,
    wait_ready,
)
from tests.lab.lab import Lab
from tests.lab.network import Host
from tests.lab.node import Node

pytestmark = pytest.mark.lab

UNIT = "oneke-backends.service"
PORT = 32080
URL = f"http://{PUBLIC_VIP}/"
FOLLOW = {"ONEAPP_VNF_HAPROXY_ONEGATE_ENABLED": "YES", "ONEAPP_VNF_HAPROXY_REFRESH_RATE": "1"}
RUNNING, DEPLOYING = 2, 1


def registration(host: str, port: str = str(PORT)) -> dict[str, str]:
    """What a worker writes to be behind the ingress balancer."""
    values = {"IP": "<ETH0_EP0>", "PORT": "80", "SERVER_HOST": host, "SERVER_PORT": port}
    return {f"ONEGATE_HAPROXY_LB3_{key}": value for key, value in values.items()}


@dataclass
class Service:
    """A gateway that follows OneGate, two workers that can register, and a client."""

    lab: Lab
    gateway: Node
    outside: Host
    workers: dict[str, Host]
    vms: dict[str, str] = field(default_factory=dict)

    def register(self, name: str, host: str | None = None) -> None:
        """Let a worker come, as a VM of the service that registers itself."""
        made = self.lab.onegate.add_vm(
            role="worker",
            service_id=self.lab.service_id,
            nics=[],
            user_template=registration(host or ADDRESSES[name]),
        )
        self.vms[name] = made["id"]

    def remove(self, name: str) -> None:
        """Let a worker's VM go, as OneFlow does: out of its role, the cardinality lowered."""
        self.lab.onegate.remove_vm(self.vms.pop(name))
        self.lab.onegate.set_service(
            self.lab.service_id, roles={"worker": {"cardinality": len(self.vms)}}
        )

    def wait_servers(self, *names: str) -> None:
        """Wait until HAProxy runs exactly these workers behind the ingress balancer."""
        wanted = sorted(f"lb3_{ADDRESSES[name]}_{PORT}" for name in names)

        def there() -> bool:
            found = sorted(n for n in server_states(self.gateway) if n.startswith("lb3_"))
            if found == wanted:
                return True
            raise LabError(f"HAProxy runs {found}")

        self.gateway.wait_until(there, 30, f"HAProxy to run {wanted}")

    def last_cycle(self) -> dict[str, Any]:
        """What the daemon left of its last cycle."""
        return dict(json.loads(self.gateway.read("/run/oneke/backends-cycle.json")))

    def daemon_pid(self) -> str:
        """The daemon's process."""
        shown = self.gateway.run(["systemctl", "show", "-p", "MainPID", "--value", UNIT])
        return shown.stdout.strip()


ADDRESSES = {"one": "172.20.0.61", "two": "172.20.0.62"}


@pytest.fixture(scope="module")
def service(lab_image: Image) -> Iterator[Service]:
    """The gateway with its surroundings, once for all tests of this file."""
    with Lab(lab_image) as lab:
        lab.add_service([("vnf", 1), ("worker", 0)])
        gateway = lab.vnf("vnf0", 0, **FOLLOW)
        outside = lab.host(
            "outside", network="public", address="10.2.11.50/24", gateway="10.2.11.1"
        )
        workers = {
            name: lab.host(name, network="private", address=f"{address}/24", gateway=PRIVATE_VIP)
            for name, address in ADDRESSES.items()
        }
        for worker in workers.values():
            worker.serve(PORT)
        yield Service(lab, gateway, outside, workers)


def test_a_gateway_is_ready_before_any_backend_registers(service: Service) -> None:
    wait_ready(service.lab, service.gateway)
    service.wait_servers()


def test_a_worker_that_registers_is_served_without_a_reload(service: Service) -> None:
    before = main_pids(service.gateway)
    service.register("one")
    wait_fetch(service.outside, URL, "one")
    assert main_pids(service.gateway) == before
    assert f"server lb3_{ADDRESSES['one']}_{PORT}" in service.gateway.read(
        "/etc/haproxy/haproxy.cfg"
    )


def test_configure_agrees_with_the_daemon_and_changes_nothing(service: Service) -> None:
    assert configured(service.gateway)["changes"] == 0
    service.wait_servers("one")


def test_a_worker_that_goes_keeps_its_open_connections_until_they_end(service: Service) -> None:
    echo = Echo(service.workers["two"], PORT + 1)
    try:
        service.register("two", ADDRESSES["two"])
        service.wait_servers("one", "two")
        service.lab.onegate.set_user_template(
            service.vms["two"], {"ONEGATE_HAPROXY_LB3_SERVER_PORT": str(PORT + 1)}
        )
        name = f"lb3_{ADDRESSES['two']}_{PORT + 1}"
        service.gateway.wait_until(
            lambda: server_states(service.gateway).get(name, "").startswith("UP"), 30, "the echo"
        )
        talks = [Talk(service.outside, PUBLIC_VIP, 80) for _ in range(2)]
        held = [talk for talk in talks if talk.says("hello") == "hello"]
        assert held
        service.remove("two")
        service.gateway.wait_until(
            lambda: server_states(service.gateway).get(name) == "DRAIN", 30, "it to drain"
        )
        assert [talk.says("still") for talk in held] == ["still"] * len(held)
        assert name in str(service.last_cycle()["leaving"])
        for talk in talks:
            talk.close()
        service.wait_servers("one")
    finally:
        echo.close()


FAULTS: dict[str, tuple[str, dict[str, Any], str]] = {
    "down": ("down", {}, "Connection refused"),
    "refusing everything": ("oned_down", {}, "status 401"),
    "without OneFlow": ("oneflow_down", {}, "status 404"),
    "breaking": ("status", {"status": 500, "text": "Internal server error"}, "status 500"),
    "cut short": ("truncated", {"path": "/service"}, "OneGate GET /service"),
    "babbling": ("garbage", {"text": "<html>"}, "not JSON"),
    "hanging": ("hanging", {}, ""),
    "slow": ("slow", {"seconds": 3}, ""),
    "behind the times": ("stale", {}, ""),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_traffic_goes_on_whatever_onegate_does(service: Service, fault: str) -> None:
    kind, options, words = FAULTS[fault]
    pid = service.daemon_pid()
    service.lab.onegate.fault(kind, **options)
    try:
        if words:
            service.gateway.wait_until(
                lambda: words in service.last_cycle()["onegate_error"], 30, f"{words} to be seen"
            )
            assert words in agent(service.gateway, "status").stdout
        for _ in range(10):
            assert service.outside.fetch(URL, timeout_s=5) == "one"
    finally:
        service.lab.onegate.heal()
    service.gateway.wait_until(
        lambda: service.last_cycle()["onegate_error"] == "", 60, "OneGate to answer again"
    )
    assert service.daemon_pid() == pid
    service.wait_servers("one")


def test_a_vm_that_can_not_be_read_takes_nobody_away(service: Service) -> None:
    service.register("two")
    service.wait_servers("one", "two")
    service.lab.onegate.fault("unreadable", vm_id=service.vms["two"])
    try:
        service.lab.onegate.clear_requests()
        service.gateway.wait_until(
            lambda: (
                sum(request["path"] == "/service" for request in service.lab.onegate.requests())
                >= 3
            ),
            60,
            "the daemon to look again",
        )
        service.wait_servers("one", "two")
    finally:
        service.lab.onegate.heal()


def test_garbage_of_one_vm_costs_only_its_own_server(service: Service) -> None:
    bad = {"ONEGATE_HAPROXY_LB3_SERVER_HOST": "x 172.20.0.62:32080 #"}
    service.lab.onegate.set_user_template(service.vms["two"], bad)
    service.wait_servers("one")
    shown = agent(service.gateway, "status").stdout
    assert f"VM {service.vms['two']}" in shown
    assert "expected an IPv4 address" in shown
    assert service.outside.fetch(URL, timeout_s=5) == "one"
    service.lab.onegate.set_user_template(service.vms["two"], registration(ADDRESSES["two"]))
    service.wait_servers("one", "two")


def test_everything_known_is_served_after_a_reboot_without_onegate(service: Service) -> None:
    service.lab.onegate.fault("down")
    try:
        service.gateway.reboot()
        service.gateway.wait_running(60)
        service.wait_servers("one", "two")
        wait_fetch(service.outside, URL)
    finally:
        service.lab.onegate.heal()
    wait_ready(service.lab, service.gateway)


def test_the_daemon_is_taken_up_again_when_it_is_killed(service: Service) -> None:
    pid = service.daemon_pid()
    service.gateway.run(["systemctl", "kill", "--signal=SIGKILL", UNIT])
    service.gateway.wait_until(lambda: service.daemon_pid() not in ("0", pid), 30, "another daemon")
    service.remove("two")
    service.wait_servers("one")


def test_the_daemon_stops_when_it_is_asked_to_even_while_onegate_hangs(service: Service) -> None:
    service.lab.onegate.fault("hanging")
    try:
        service.gateway.run(["systemctl", "stop", UNIT], timeout_s=15)
        result = service.gateway.run(["systemctl", "show", "-p", "Result", "--value", UNIT])
        assert result.stdout.strip() == "success"
    finally:
        service.lab.onegate.heal()
    service.gateway.run(["systemctl", "start", UNIT])


def test_a_changed_parameter_reaches_the_daemon_without_a_restart(service: Service) -> None:
    pid = service.daemon_pid()
    give_context(service.lab, service.gateway, 0, **FOLLOW, ONEAPP_VNF_HAPROXY_LB3_PORT="8080")
    configured(service.gateway)
    changed = registration(ADDRESSES["one"]) | {"ONEGATE_HAPROXY_LB3_PORT": "8080"}
    service.lab.onegate.set_user_template(service.vms["one"], changed)
    wait_fetch(service.outside, f"http://{PUBLIC_VIP}:8080/", "one")
    assert service.daemon_pid() == pid
    service.lab.onegate.set_user_template(service.vms["one"], registration(ADDRESSES["one"]))
    give_context(service.lab, service.gateway, 0, **FOLLOW)
    configured(service.gateway)
    wait_fetch(service.outside, URL, "one")


def test_following_can_be_switched_off(service: Service) -> None:
    give_context(
        service.lab, service.gateway, 0, **FOLLOW | {"ONEAPP_VNF_HAPROXY_ONEGATE_ENABLED": "NO"}
    )
    configured(service.gateway)
    assert service.gateway.run(["systemctl", "is-active", UNIT], check=False).stdout == "inactive\n"
    service.wait_servers()
    give_context(service.lab, service.gateway, 0, **FOLLOW)
    configured(service.gateway)
    wait_fetch(service.outside, URL, "one")
