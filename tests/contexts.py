"""Contexts of gateways that tests start from."""

from __future__ import annotations

from collections.abc import Mapping

from appliance.context import Context
from appliance.decision import Decided, decide, read_services
from appliance.options import Options

GATEWAY: Mapping[str, str] = {
    "VMID": "365",
    "SERVICE_ID": "23",
    "ONEGATE_ENDPOINT": "http://203.0.113.40:5030",
    "TOKENTXT": "dG9rZW4tb2YtdGhlLXZtIQ==",
    "REPORT_READY": "YES",
    "ETH0_IP": "10.2.11.200",
    "ETH0_MASK": "255.255.255.0",
    "ETH0_GATEWAY": "10.2.11.1",
    "ETH1_IP": "172.20.0.100",
    "ETH1_MASK": "255.255.255.0",
    "ONEAPP_VROUTER_ETH0_VIP0": "10.2.11.86",
    "ONEAPP_VROUTER_ETH1_VIP0": "172.20.0.86",
    "ONEAPP_VNF_HAPROXY_ENABLED": "YES",
    "ONEAPP_VNF_HAPROXY_LB0_IP": "<ETH0_EP0>",
    "ONEAPP_VNF_HAPROXY_LB0_PORT": "9345",
    "ONEAPP_VNF_HAPROXY_LB1_IP": "<ETH0_EP0>",
    "ONEAPP_VNF_HAPROXY_LB1_PORT": "6443",
    "ONEAPP_VNF_HAPROXY_LB1_SERVER0_HOST": "172.20.0.101",
    "ONEAPP_VNF_HAPROXY_LB1_SERVER0_PORT": "6443",
    "ONEAPP_VNF_HAPROXY_LB3_IP": "<ETH0_EP0>",
    "ONEAPP_VNF_HAPROXY_LB3_PORT": "80",
    "ONEAPP_VNF_HAPROXY_LB3_SERVER0_HOST": "172.20.0.102",
    "ONEAPP_VNF_HAPROXY_LB3_SERVER0_PORT": "32080",
    "ONEAPP_VNF_NAT4_ENABLED": "YES",
    "ONEAPP_VNF_NAT4_INTERFACES_OUT": "eth0",
    "ONEAPP_VNF_NAT4_PORT_FWD0": "2222:172.20.0.101:22",
    "ONEAPP_VNF_NAT4_PORT_FWD1": "<ETH0_VIP0>:8443:172.20.0.102",
    "ONEAPP_VNF_ROUTER4_ENABLED": "YES",
    "ONEAPP_VNF_ROUTER4_INTERFACES": "eth0,eth1",
    "ONEAPP_VNF_KEEPALIVED_PASSWORD": "s3cr3t}#",
}

SERVICES = read_services(Options())


def gateway_context(**changes: str | None) -> Context:
    """Return the context of a gateway with keys set, or taken away where the value is None."""
    values = {**GATEWAY, **changes}
    return Context({k: v for k, v in values.items() if v is not None}, "test")


def decide_gateway(**changes: str | None) -> Decided:
    """Decide on a gateway whose context differs so from the usual one."""
    return decide("vnf", gateway_context(**changes), SERVICES)
