"""What the reference makes of a node of the cluster, and variations of what it is asked."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

from tests.conformance.reference import (
    Context,
    ReferenceFails,
    env,
    integer,
    is_on,
    split,
    to_i,
    uri_host,
)
from tests.conformance.vectors import Inputs

Decision = dict[str, Any]

_VIP = "ONEAPP_VROUTER_ETH0_VIP0"
_DEFAULT_PORTS = ("9345", "6443", "443", "80")
_NODE_TOKEN = "K10feed::server:feed"


def _balancer(context: Context, number: int) -> tuple[str | None, str]:
    stem = f"ONEAPP_VNF_HAPROXY_LB{number}_"
    address = env(context, f"{stem}IP") or env(context, _VIP)
    return address, env(context, f"{stem}PORT") or _DEFAULT_PORTS[number]


def _ends(context: Context) -> tuple[str, str]:
    vip = env(context, _VIP) or ""
    supervisor = env(context, "ONEAPP_RKE2_SUPERVISOR_EP")
    control_plane = env(context, "ONEAPP_K8S_CONTROL_PLANE_EP")
    return (
        supervisor or f"{vip}:{_balancer(context, 0)[1]}",
        control_plane or f"{vip}:{_balancer(context, 1)[1]}",
    )


def _names(context: Context) -> list[str | None]:
    given = env(context, "ONEAPP_K8S_EXTRA_SANS") or "localhost,127.0.0.1"
    names: list[str | None] = [name.strip() for name in split(given, ",")]
    return list(dict.fromkeys([*names, uri_host(f"https://{_ends(context)[1]}")]))


def endpoints(inputs: Inputs) -> Decision:
    supervisor, control_plane = _ends(inputs.context)
    balancers = [_balancer(inputs.context, number) for number in range(4)]
    return {
        "supervisor_endpoint": supervisor,
        "control_plane_endpoint": control_plane,
        "supervisor_url": f"https://{supervisor}",
        "load_balancers": [
            {"index": number, "ip": address, "port": port}
            for number, (address, port) in enumerate(balancers)
        ],
        "tls_sans": _names(inputs.context),
    }


def _addresses(inputs: Inputs) -> list[str]:
    """Return the VM's addresses that are configured."""
    nics = inputs.onegate["vm"]["VM"]["TEMPLATE"]["NIC"]
    found = [nic["IP"] for nic in nics]
    links = inputs.call.get("ip_addr")
    if links is not None:
        local = {
            (link["address"].lower(), info["local"])
            for link in links
            for info in link["addr_info"]
            if info["family"] == "inet"
        }
        found = [nic["IP"] for nic in nics if (nic["MAC"].lower(), nic["IP"]) in local]
    if not found:
        raise ReferenceFails("exit status 1")
    return found


def config(inputs: Inputs) -> Decision:
    context, action = inputs.context, inputs.call["role"]
    registration(inputs)
    address = _addresses(inputs)[0]
    name = f"oneke-ip-{address.replace('.', '-')}"
    server = f"https://{_ends(context)[0]}"
    is_master = action.endswith("_master")
    unit = f"rke2-{'server' if is_master else 'agent'}"
    decision: Decision = {
        "node_name": name,
        "unit": f"{unit}.service",
        "environment_file": _environment(context, unit),
    }
    if not is_master:
        longhorn = "node.longhorn.io/create-default-disk=true"
        of_storage = {"node-taint": [f"{longhorn}:NoSchedule"], "node-label": [longhorn]}
        found = {"node-name": name, "server": server, "token": inputs.call["token"]}
        return {**decision, "config": found | (of_storage if action == "join_storage" else {})}
    settings = {"node-name": name, **_server_settings(context)}
    token = _NODE_TOKEN if action == "init_master" else inputs.call["token"]
    decision["config"] = {**settings, "server": server, "token": token}
    if action == "init_master":
        decision["first_start_config"] = {**settings, "token": "<generated>"}
    decision["published_kubeconfig_server"] = _kubeconfig(inputs)
    return decision


def _server_settings(context: Context) -> Decision:
    plugin = env(context, "ONEAPP_K8S_CNI_PLUGIN") or "cilium"
    has_multus = is_on(env(context, "ONEAPP_K8S_MULTUS_ENABLED"))
    controller = env(context, "ONEAPP_RKE2_CLOUD_CONTROLLER_ENABLED") or "YES"
    return {
        "tls-san": _names(context),
        "node-taint": ["CriticalAddonsOnly=true:NoExecute"],
        "disable": ["rke2-ingress-nginx"],
        "cni": (["multus"] if has_multus else []) + [plugin],
        "cluster-cidr": env(context, "ONEAPP_K8S_CLUSTER_CIDR") or "10.42.0.0/16",
        "service-cidr": env(context, "ONEAPP_K8S_SERVICE_CIDR") or "10.43.0.0/16",
        "disable-kube-proxy": plugin == "cilium",
        "disable-cloud-controller": not is_on(controller),
    }


def _environment(context: Context, unit: str) -> Decision | None:
    found: Decision = {}
    for kind in ("HTTP_PROXY", "HTTPS_PROXY"):
        proxy = env(context, f"ONEAPP_K8S_{kind}")
        if proxy is not None:
            found[kind] = proxy
    if not found:
        return None
    given = env(context, "ONEAPP_K8S_NO_PROXY")
    if given is None:
        supervisor, control_plane = _ends(context)
        items = ["127.0.0.0/8", "localhost", _excepted(control_plane), _excepted(supervisor)]
        items.append(env(context, "ONEAPP_K8S_CLUSTER_CIDR") or "10.42.0.0/16")
        items.append(env(context, "ONEAPP_K8S_SERVICE_CIDR") or "10.43.0.0/16")
        given = ",".join(dict.fromkeys(items))
    return {"path": f"/etc/default/{unit}", "vars": {**found, "NO_PROXY": given}}


def _excepted(end: str) -> str:
    host = uri_host(end if "://" in end else f"http://{end}") or ""
    return f"{host}/32" if re.fullmatch(r"[0-9]+(\.[0-9]+){3}", host) else host


def _kubeconfig(inputs: Inputs) -> str:
    end = _ends(inputs.context)[1]
    host = uri_host(f"https://{end}") or ""
    address = host
    if not re.fullmatch(r"[0-9.]+", host):
        address = (inputs.call.get("hosts") or {}).get(host)
    if not address:
        raise ReferenceFails("NameError")
    port = re.search(r":([0-9]+)\Z", end)
    return f"https://{address}:{int(port[1]) if port else 443}"


def registration(inputs: Inputs) -> Decision:
    """Return what is published by a node that gets through to the end."""
    context, action = inputs.context, inputs.call["role"]
    addresses = _addresses(inputs)
    address = addresses[0]
    published = {"ONEGATE_K8S_NODE_NAME": f"oneke-ip-{address.replace('.', '-')}"}
    numbers: tuple[int, ...] = ()
    if action.endswith("_master"):
        numbers = (0, 1)
        published["ONEGATE_K8S_MASTER"] = address
        token = _NODE_TOKEN if action == "init_master" else inputs.call["token"]
        published["ONEGATE_K8S_TOKEN"] = token
        _names(context)
        _kubeconfig(inputs)
    elif action == "join_worker":
        numbers = (2, 3)
    _environment(context, "")
    for number in numbers:
        balancer, port = _balancer(context, number)
        if balancer is None or integer(port) is None:
            raise ReferenceFails("exit status 1")
        served = port if number < 2 else str(to_i(port) + 32000)
        stem = f"ONEGATE_HAPROXY_LB{number}_"
        published |= {
            f"{stem}IP": balancer,
            f"{stem}PORT": port,
            f"{stem}SERVER_HOST": next((one for one in addresses if one != balancer), ""),
            f"{stem}SERVER_PORT": served,
        }
    return {"published": published}


# ---- variations

_ENDPOINTS = (
    "",
    "sup.example.org:9345",
    "api.example.org:6443",
    "api.example.org:16443",
    "198.51.100.220:6443",
    "https://api.example.org:6443",
    "http://api.example.org:6443",
    "a b:1",
    "api.example.org:api",
)
_ADDRESSES = (
    "",
    "198.51.100.200",
    "198.51.100.210",
    "198.51.100.200/24",
    "10.77.1.61",
    "10.77.1.64",
    "<ETH0_EP0>",
    "<ETH0_VIP0>/24",
    "<ONEAPP_VROUTER_ETH0_VIP0>",
    "<eth0>",
    "vip",
)
_PORTS = ("", "9345", "6443", "443", "8443", "19345", "0x1bb", "rke2", "70000", "0", " 443")
_SWITCHES = ("", "YES", "NO", "true", "1", "0", "maybe", "on")
_NETWORKS = (
    "",
    "10.142.0.0/16",
    "10.142.0.0/16,2001:db8:42::/56",
    "10.42.0.0/255.255.0.0",
    "10.42.1.1/16",
    "10.43.0.0/17",
    "pods",
)
_PROXIES = ("", "http://proxy.example.org:3128", "proxy:3128", 'http://u:p"w @proxy:1', "http://")

POOL: Mapping[str, Sequence[str]] = {
    _VIP: ("", "198.51.100.200", "198.51.100.200", "198.51.100.210/24", "vip"),
    "ONEAPP_RKE2_SUPERVISOR_EP": _ENDPOINTS,
    "ONEAPP_K8S_CONTROL_PLANE_EP": _ENDPOINTS,
    **{f"ONEAPP_VNF_HAPROXY_LB{number}_IP": _ADDRESSES for number in range(4)},
    **{f"ONEAPP_VNF_HAPROXY_LB{number}_PORT": _PORTS for number in range(4)},
    "ONEAPP_K8S_EXTRA_SANS": (
        "",
        "localhost,127.0.0.1",
        "a.example.org,b.example.org",
        "a.example.org, b.example.org,",
        "a.example.org b.example.org",
        "a.example.org,,b.example.org",
        "-",
        "2001:DB8::1",
    ),
    "ETH0_VROUTER_IP": ("", "198.51.100.230"),
    "ONEAPP_K8S_PORT": ("", "7443"),
    "ONEAPP_VNF_LB0_IP": ("", "198.51.100.240:7443"),
    "ONEAPP_K8S_ADDRESS": ("", "10.77.1.60"),
}
_OF_NODES: Mapping[str, Sequence[str]] = {
    "ONEAPP_K8S_CLUSTER_CIDR": _NETWORKS,
    "ONEAPP_K8S_PODS_NETWORK": _NETWORKS,
    "ONEAPP_K8S_SERVICE_CIDR": ("", "10.143.0.0/16", "10.143.0.0/16,2001:db8:43::/112", "x"),
    "ONEAPP_K8S_CNI_PLUGIN": ("", "cilium", "canal", "Calico", "none", "weave"),
    "ONEAPP_K8S_MULTUS_ENABLED": _SWITCHES,
    "ONEAPP_RKE2_CLOUD_CONTROLLER_ENABLED": _SWITCHES,
    "ONEAPP_K8S_HTTP_PROXY": _PROXIES,
    "ONEAPP_K8S_HTTPS_PROXY": _PROXIES,
    "ONEAPP_K8S_NO_PROXY": ("", "10.0.0.0/8", ".example.org"),
    "ONEAPP_K8S_LOADBALANCER_RANGE": ("", "172.20.0.87"),
    "ONEAPP_VROUTER_ETH1_VIP0": ("", "10.77.0.200", "10.77.0.200/16", "172.22.5.1", "vip"),
    "ETH0_MASK": ("", "255.255.0.0", "255.0.255.0"),
    "ETH1_MASK": ("", "255.255.0.0"),
    "FALLBACK_GW": ("", "10.77.0.1", "gw"),
}


def vary_endpoints(base: Inputs, chance: random.Random) -> Inputs:
    """Change the context of a node."""
    return Inputs(_changed(base.context, POOL, chance))


def vary_node(base: Inputs, chance: random.Random) -> Inputs:
    """Change the context, the node's role, its NICs, and which names resolve."""
    context = dict(base.context)
    if chance.random() < 0.8:
        context = _changed(context, {**POOL, **_OF_NODES}, chance)
    call, onegate = dict(base.call), deepcopy(dict(base.onegate))
    if chance.random() < 0.4:
        call["role"] = chance.choice(("init_master", "join_master", "join_worker", "join_storage"))
        call["token"] = None if call["role"] == "init_master" else "K10cafe::server:cafe"
    if chance.random() < 0.7:
        call["hosts"] = {"api.example.org": "192.0.2.20", "sup.example.org": "192.0.2.21"}
    if chance.random() < 0.2:
        nics = onegate["vm"]["VM"]["TEMPLATE"]["NIC"]
        nics.insert(chance.randrange(2), {"IP": "172.22.5.64", "MAC": "02:00:ac:16:05:40"})
    if chance.random() < 0.05:
        call["ip_addr"] = []
    return Inputs(context, call, onegate)


def _changed(
    context: Mapping[str, str], pool: Mapping[str, Sequence[str]], chance: random.Random
) -> dict[str, str]:
    changed = dict(context)
    for _ in range(chance.choice((1, 1, 1, 2, 2, 3))):
        key = chance.choice(sorted(pool))
        changed[key] = chance.choice(pool[key])
    return changed
