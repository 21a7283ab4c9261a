"""What the gateway's templates render, judged by the daemons that have to take it."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.actions import ReplaceTable, WriteFile
from appliance.facts import Facts
from appliance.plan import Stage
from tests.contexts import decide_gateway

pytestmark = pytest.mark.functional

NAMESPACE = "oneke-judge"

CASES: dict[str, dict[str, str | None]] = {
    "the usual gateway": {},
    "no virtual address": {
        "ONEAPP_VROUTER_ETH0_VIP0": None,
        "ONEAPP_VROUTER_ETH1_VIP0": None,
        "ONEAPP_VNF_NAT4_PORT_FWD1": None,
    },
    "two router ids": {"ONEAPP_VNF_KEEPALIVED_ETH1_VRID": "77"},
    "an interval with a fraction": {"ONEAPP_VNF_KEEPALIVED_INTERVAL": "0.25"},
    "a password of two words": {"ONEAPP_VNF_KEEPALIVED_PASSWORD": "two words and more"},
    "an interface without address": {
        "ETH0_IP": "",
        "ETH0_GATEWAY": "10.2.11.1",
        "ONEAPP_VROUTER_ETH0_VIP0": "10.2.11.86/24",
    },
    "no balancer": {
        key: None
        for balancer in (0, 1, 3)
        for key in (
            f"ONEAPP_VNF_HAPROXY_LB{balancer}_IP",
            f"ONEAPP_VNF_HAPROXY_LB{balancer}_PORT",
            f"ONEAPP_VNF_HAPROXY_LB{balancer}_SERVER0_HOST",
            f"ONEAPP_VNF_HAPROXY_LB{balancer}_SERVER0_PORT",
        )
    },
    "an own HAProxy configuration": {
        "ONEAPP_VNF_HAPROXY_CONFIG": "listen metrics\n    mode http\n    bind 127.0.0.1:8404\n"
    },
    "a resolver that forwards": {
        "ONEAPP_VNF_DNS_ENABLED": "YES",
        "ONEAPP_VNF_DNS_INTERFACES": "eth1",
        "ONEAPP_VNF_DNS_NAMESERVERS": "1.1.1.1,8.8.8.8@5353",
        "ONEAPP_VNF_DNS_ALLOWED_NETWORKS": "172.20.0.0/24 10.0.0.0/8",
    },
    "a resolver of its own": {
        "ONEAPP_VNF_DNS_ENABLED": "YES",
        "ONEAPP_VNF_DNS_USE_ROOTSERVERS": "YES",
        "ONEAPP_VNF_DNS_TCP_DISABLED": "YES",
        "ONEAPP_VNF_DNS_CONFIG": "server:\n    qname-minimisation: yes\n",
    },
    "backends that follow OneGate": {"ONEAPP_VNF_HAPROXY_ONEGATE_ENABLED": "YES"},
    "forwards only": {"ONEAPP_VNF_NAT4_INTERFACES_OUT": None},
}


@pytest.fixture(scope="module")
def links() -> Iterator[None]:
    """A network namespace with the links that keepalived is told of."""
    if shutil.which("ip") is None:
        pytest.fail("iproute2 is missing: tests/lab/setup.sh installs it")
    ip = ["ip", "-n", NAMESPACE]
    subprocess.run(["ip", "netns", "delete", NAMESPACE], check=False, capture_output=True)
    subprocess.run(["ip", "netns", "add", NAMESPACE], check=True)
    try:
        for number in (0, 1):
            peer = ["peer", "name", f"other{number}"]
            subprocess.run([*ip, "link", "add", f"eth{number}", "type", "veth", *peer], check=True)
            subprocess.run([*ip, "link", "set", f"eth{number}", "up"], check=True)
        yield
    finally:
        subprocess.run(["ip", "netns", "delete", NAMESPACE], check=True)


def judge(argv: list[str], stdin: str | None = None) -> str:
    """Run a judge in the namespace and return what it complained of; empty if it is content."""
    completed = subprocess.run(
        ["ip", "netns", "exec", NAMESPACE, *argv],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    said = completed.stdout + completed.stderr
    return said or f"exit status {completed.returncode}" if completed.returncode else ""


def files_of(case: str) -> dict[str, str]:
    """Return the files that the plan of a case writes, by name."""
    decided = decide_gateway(**CASES[case])
    plan = decided.role.plan(Stage.CONFIGURE, decided.params, Facts())
    return {a.path.name: a.text for a in plan.actions if isinstance(a, WriteFile)}


@pytest.mark.parametrize("case", CASES)
def test_haproxy_takes_its_configuration_without_a_warning(
    case: str, links: None, tmp_path: Path
) -> None:
    path = tmp_path / "haproxy.cfg"
    path.write_text(files_of(case)["haproxy.cfg"])
    assert judge(["haproxy", "-c", "-dW", "-f", str(path)]) == ""


@pytest.mark.parametrize("case", CASES)
def test_keepalived_takes_its_configuration(case: str, links: None, tmp_path: Path) -> None:
    text = files_of(case).get("keepalived.conf")
    if text is None:
        assert case == "no virtual address"
        return
    path, log = tmp_path / "keepalived.conf", tmp_path / "log"
    path.write_text(text)
    complaint = judge(["keepalived", f"--config-test={log}", "-f", str(path)])
    assert complaint == "", log.read_text()


@pytest.mark.parametrize("case", CASES)
def test_nft_takes_the_table_and_lists_every_rule(case: str, links: None) -> None:
    decided = decide_gateway(**CASES[case])
    plan = decided.role.plan(Stage.CONFIGURE, decided.params, Facts())
    (table,) = (action for action in plan.actions if isinstance(action, ReplaceTable))
    script = f"table ip oneke\ndelete table ip oneke\n{table.rules}"
    assert judge(["nft", "-f", "-"], script) == ""
    listed = subprocess.run(
        ["ip", "netns", "exec", NAMESPACE, "nft", "-s", "list", "table", "ip", "oneke"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    for keyword in ("masquerade", "dnat to"):
        assert listed.count(keyword) == table.rules.count(keyword)


@pytest.mark.parametrize("case", [case for case in CASES if "resolver" in case])
def test_unbound_takes_its_configuration(case: str, links: None, tmp_path: Path) -> None:
    path = tmp_path / "50-oneke.conf"
    path.write_text(files_of(case)["50-oneke.conf"])
    complaint = judge(["unbound-checkconf", str(path)])
    assert complaint == ""


def test_the_state_script_is_a_sound_shell_script(tmp_path: Path) -> None:
    path = tmp_path / "vrrp-state"
    path.write_text(files_of("the usual gateway")["vrrp-state"])
    subprocess.run(["shellcheck", str(path)], check=True, capture_output=True)
