"""A node of the cluster as the reference sets it up, and as the agent does, aspect by aspect.

An aspect is a deviation of its own where deciding it the agent's way changes the outcome, alone or
last of all.
Source: OpenNebula one-apps (Apache-2.0), appliances/OneKE/{config,kubernetes,vnf,onegate}.rb, read.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from ipaddress import IPv4Address, IPv4Interface, IPv6Address
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
    with_prefix,
)
from tests.conformance.rules.base import is_on_for_us, older_address, our_floating
from tests.conformance.rules.files import our_ipv4s, their_ipv4s
from tests.conformance.vectors import Inputs

VIP = "ONEAPP_VROUTER_ETH0_VIP0"
SUPERVISOR, CONTROL_PLANE = "ONEAPP_RKE2_SUPERVISOR_EP", "ONEAPP_K8S_CONTROL_PLANE_EP"
SANS = "ONEAPP_K8S_EXTRA_SANS"
PODS, OLDER_PODS = "ONEAPP_K8S_CLUSTER_CIDR", "ONEAPP_K8S_PODS_NETWORK"
SERVICES = "ONEAPP_K8S_SERVICE_CIDR"
PLUGIN, MULTUS = "ONEAPP_K8S_CNI_PLUGIN", "ONEAPP_K8S_MULTUS_ENABLED"
CLOUD_CONTROLLER = "ONEAPP_RKE2_CLOUD_CONTROLLER_ENABLED"
PROXIES = ("ONEAPP_K8S_HTTP_PROXY", "ONEAPP_K8S_HTTPS_PROXY")
NO_PROXY = "ONEAPP_K8S_NO_PROXY"
JOIN_ADDRESS, OLDER_PORT = "ONEAPP_K8S_ADDRESS", "ONEAPP_K8S_PORT"

_DEFAULT_PORTS = ("9345", "6443", "443", "80")
_ENDPOINT = re.compile(r"(?:https://)?(?:\[([^\]]*)\]|([^:/\[\]]+))(?::([0-9]+))?/?\Z")
_VIRTUAL = re.compile(r"<(?:ONEAPP_VROUTER_)?ETH([0-9]+)_(?:VIP|EP)([0-9]+)>\Z")
_LEGACY = ("ONEAPP_K8S_LOADBALANCER_RANGE", "ONEAPP_K8S_LOADBALANCER_CONFIG")

ASPECTS = (
    "older-names",
    "endpoint-address-text",
    "endpoint-text",
    "endpoint-fallback",
    "certificate-names",
    "supervisor-in-certificate",
    "network-text",
    "node-switch-words",
    "plug-in",
    "private-network-nic",
    "server-port",
    "own-balancer",
    "kubeconfig-keeps-name",
    "proxy-exceptions",
)

Ours = Collection[str]
Outcome = dict[str, Any]


class Settings:
    """A context, with some aspects read the agent's way."""

    def __init__(self, context: Context, ours: Ours, own_address: str = "") -> None:
        """Keep what is read, and the address of a founder, which is its own first master."""
        self.context = context
        self.ours = ours
        self.own_address = own_address

    def vip(self) -> str | None:
        """Return the public floating address."""
        text = env(self.context, VIP)
        if text is None and "older-names" in self.ours:
            text = our_floating(self.context).get(("eth0", "0"))
        return self._address(text)

    def _address(self, text: str | None) -> str | None:
        if text is None or "endpoint-address-text" not in self.ours:
            return text
        bare = text.strip()
        if bare.startswith("<"):
            return bare.split("/")[0].replace("<ONEAPP_VROUTER_", "<")
        return bare.split("/")[0]

    def balancer(self, number: int) -> tuple[str | None, str]:
        """Return a balancer's address and port, as texts."""
        address = env(self.context, f"ONEAPP_VNF_HAPROXY_LB{number}_IP")
        port = env(self.context, f"ONEAPP_VNF_HAPROXY_LB{number}_PORT")
        if port is None and number == 1 and "older-names" in self.ours:
            port = older_port(self.context)
        if port and "endpoint-address-text" in self.ours:
            port = _number(port)
        return (
            self._address(address) if address else self.vip(),
            port or _DEFAULT_PORTS[number],
        )

    def endpoint(self, number: int) -> str | None:
        """Return where the supervisor (0) or the API (1) is reached; None where that is open."""
        given = env(self.context, (SUPERVISOR, CONTROL_PLANE)[number])
        port = self.balancer(number)[1]
        if given is not None:
            return self._endpoint_text(given, port)
        vip = self.vip()
        if vip is None and "endpoint-fallback" in self.ours:
            return self._fallback(number, port)
        return f"{vip or ''}:{port}"

    def _endpoint_text(self, given: str, port: str) -> str:
        found = _ENDPOINT.match(given.strip())
        if "endpoint-text" not in self.ours or not found:
            return given
        host = f"[{IPv6Address(found[1])}]" if found[1] is not None else found[2]
        return f"{host}:{int(found[3] or port)}"

    def _fallback(self, number: int, port: str) -> str | None:
        address = self._address(env(self.context, f"ONEAPP_VNF_HAPROXY_LB{number}_IP"))
        virtual = _VIRTUAL.match(address or "")
        if virtual:
            text = our_floating(self.context).get((f"eth{virtual[1]}", virtual[2]))
            address = text.strip().split("/")[0] if text else None
        elif address and address.startswith("<"):
            address = None
        if address:
            return f"{address}:{port}"
        master = (env(self.context, JOIN_ADDRESS) or "").strip() or self.own_address
        return f"{master}:{'9345' if number == 0 else port}" if master else None

    def certificate_names(self) -> list[str | None]:
        """Return the further names of the certificate, each once."""
        text = env(self.context, SANS) or "localhost,127.0.0.1"
        names: list[str | None]
        if "certificate-names" in self.ours:
            words = filter(None, re.split(r"[\s,;]+", text))
            names = [str(IPv6Address(word)) if ":" in word else word for word in words]
        else:
            names = [name.strip() for name in split(text, ",")]
        ends = [self.endpoint(1)]
        if "supervisor-in-certificate" in self.ours:
            ends.append(self.endpoint(0))
        hosts = [uri_host(f"https://{end}") for end in ends if end is not None]
        if "endpoint-text" in self.ours:
            hosts = [host.strip("[]") if host else host for host in hosts]
        if "endpoint-fallback" in self.ours:
            hosts = [host for host in hosts if host is not None]
        return list(dict.fromkeys([*names, *hosts]))

    def switch(self, name: str, default: str) -> bool:
        """Read a switch."""
        text = env(self.context, name) or default
        return is_on_for_us(text) if "node-switch-words" in self.ours else is_on(text)

    def networks(self, name: str, older: str, default: str) -> str:
        """Return a network, or a pair."""
        text = env(self.context, name)
        if text is None and older and "older-names" in self.ours:
            text = env(self.context, older)
        if text is None or "network-text" not in self.ours:
            return text or default
        return ",".join(canonical_network(word) for word in text.split(","))

    def plugin(self) -> str:
        """Return the network plug-in."""
        text = env(self.context, PLUGIN)
        if "plug-in" not in self.ours:
            return text or "cilium"
        is_legacy = any(key in self.context for key in _LEGACY)
        return text.strip().lower() if text else "canal" if is_legacy else "cilium"


def canonical_network(text: str) -> str:
    """Write a network with its prefix length; what is none stays."""
    address, slash, prefix = text.strip().partition("/")
    if slash and re.fullmatch(r"[0-9.]+", prefix) and "." in prefix:
        bits = "".join(f"{int(octet):08b}" for octet in prefix.split("."))
        return f"{address}/{bits.count('1')}"
    if slash and ":" in address and prefix.isdecimal():
        return f"{IPv6Address(address)}/{int(prefix)}"
    return f"{address}{slash}{prefix}"


def older_port(context: Context) -> str | None:
    """Return the API's port under an older name."""
    port = env(context, OLDER_PORT)
    if port is None and older_address(context) is not None:
        port = (env(context, "ONEAPP_VNF_LB0_IP") or "").partition(":")[2] or None
    return port


# ---- whole outcomes


def with_links(inputs: Inputs) -> Inputs:
    """Tell the local interfaces: where nothing is said of them, they are the NICs of the VM."""
    if inputs.call.get("ip_addr") is not None:
        return inputs
    try:
        nics = inputs.onegate["vm"]["VM"]["TEMPLATE"]["NIC"]
        links = [
            {
                "ifname": f"eth{number}",
                "address": nic["MAC"],
                "addr_info": [{"family": "inet", "local": nic["IP"]}],
            }
            for number, nic in enumerate(nics)
        ]
    except (KeyError, TypeError):
        links = []
    return Inputs(inputs.context, {**inputs.call, "ip_addr": links}, inputs.onegate)


def _own_address(inputs: Inputs, ours: Ours) -> str:
    if "private-network-nic" in ours:
        addresses = our_ipv4s(with_links(inputs)) or []
        found = _private_address(inputs, addresses) or next(iter(addresses), "")
    else:
        found = (their_ipv4s(with_links(inputs)) or [""])[0]
    if not found:
        raise ReferenceFails("exit status 1: no own address")
    return found


def _private_address(inputs: Inputs, addresses: list[str]) -> str | None:
    """Return the address in whose network the private gateway is, if that network is told."""
    context = inputs.context
    vip = our_floating(context).get(("eth1", "0"))
    gateway = (vip or env(context, "FALLBACK_GW") or "").strip().split("/")[0]
    for number, nic in enumerate(inputs.onegate["vm"]["VM"]["TEMPLATE"]["NIC"]):
        if nic.get("IP") not in addresses or not gateway:
            continue
        if env(context, f"ETH{number}_MASK") or env(context, f"ETH{number}_NETWORK"):
            network = IPv4Interface(with_prefix(context, str(number), nic["IP"])).network
            if IPv4Address(gateway) in network:
                return str(nic["IP"])
    return None


def endpoints_outcome(inputs: Inputs, ours: Ours) -> Outcome:
    """Decide the area `oneke_endpoints`."""
    settings = Settings(inputs.context, ours)
    supervisor, control_plane = settings.endpoint(0), settings.endpoint(1)
    balancers = [settings.balancer(number) for number in range(4)]
    return {
        "supervisor": supervisor,
        "control plane": control_plane,
        "balancers": [(address, _number(port)) for address, port in balancers],
        "names": sorted(map(str, settings.certificate_names())),
    }


def _number(text: str) -> str:
    return str(int(text)) if re.fullmatch(r"\s*[0-9]{1,15}\s*", text) else text


def config_outcome(inputs: Inputs, ours: Ours) -> Outcome:
    """Decide the area `node_config`."""
    action = inputs.call["role"]
    own = _own_address(inputs, ours)
    settings = Settings(inputs.context, ours, own if action == "init_master" else "")
    _require_balancers(settings, action, ours)
    outcome: Outcome = {"name": own, "server": settings.endpoint(0)}
    if any(env(inputs.context, name) for name in PROXIES):
        outcome["environment"] = [
            *(env(inputs.context, name) for name in PROXIES),
            _exceptions(settings, ours),
        ]
    if not action.endswith("_master"):
        return outcome
    plugin = settings.plugin()
    return outcome | {
        "names": sorted(map(str, settings.certificate_names())),
        "cni": [*(["multus"] if settings.switch(MULTUS, "NO") else []), plugin],
        "pods": settings.networks(PODS, OLDER_PODS, "10.42.0.0/16"),
        "services": settings.networks(SERVICES, "", "10.43.0.0/16"),
        "cloud controller": settings.switch(CLOUD_CONTROLLER, "YES"),
        "kubeconfig": _kubeconfig(settings, inputs, ours),
    }


def _exceptions(settings: Settings, ours: Ours) -> object:
    if "proxy-exceptions" in ours:
        return "the cluster and what it rests on"
    given = env(settings.context, NO_PROXY)
    if given is not None:
        return given
    for number in (1, 0):
        end = settings.endpoint(number)
        if end is not None:
            uri_host(end if "://" in end else f"http://{end}")
    return "the endpoints"


def _kubeconfig(settings: Settings, inputs: Inputs, ours: Ours) -> str | None:
    end = settings.endpoint(1)
    if "kubeconfig-keeps-name" in ours or end is None:
        return end
    host = uri_host(f"https://{end}") or ""
    port = re.search(r":([0-9]+)\Z", end)
    hosts = inputs.call.get("hosts") or {}
    address = host if re.fullmatch(r"[0-9.]+", host) else hosts.get(host)
    if address is None:
        raise ReferenceFails("NameError: a name that does not resolve")
    return f"{address}:{int(port[1]) if port else 443}"


def _require_balancers(settings: Settings, action: str, ours: Ours) -> None:
    """End as the reference does without a balancer's address or with a port that is no number."""
    if ours:
        return
    for number in _registers(action):
        address, port = settings.balancer(number)
        if address is None or integer(port) is None:
            raise ReferenceFails("exit status 1: balancer")


def _registers(action: str) -> tuple[int, ...]:
    if action == "join_worker":
        return (2, 3)
    return (0, 1) if action.endswith("_master") else ()


def registration_outcome(inputs: Inputs, ours: Ours) -> Outcome:
    """Decide the area `backend_registration`."""
    action = inputs.call["role"]
    config_outcome(inputs, ours)
    own = _own_address(inputs, ours)
    settings = Settings(inputs.context, ours, own)
    published: Outcome = {"name": own}
    for number in _registers(action):
        address, port = settings.balancer(number)
        served = _served(number, port, ours)
        if address is not None:
            host = own if "own-balancer" in ours else _host(inputs, address, own, ours)
            published[str(number)] = (address, _number(port), host, served)
    return published


def _host(inputs: Inputs, balancer: str, own: str, ours: Ours) -> str:
    addresses = [own] if "private-network-nic" in ours else their_ipv4s(with_links(inputs)) or []
    return next((address for address in addresses if address != balancer), "")


def _served(number: int, port: str, ours: Ours) -> str:
    if "server-port" in ours:
        return ("9345", "6443", "32443", "32080")[number]
    return _number(port) if number < 2 else str(to_i(port) + 32000)


OUTCOMES = {
    "oneke_endpoints": endpoints_outcome,
    "node_config": config_outcome,
    "backend_registration": registration_outcome,
}


def is_changed_by(area: str, inputs: Inputs, aspect: str) -> bool:
    """Say whether deciding one aspect the agent's way matters, alone or last of all."""
    decide = OUTCOMES[area]
    theirs, own = decide(inputs, ()), decide(inputs, ASPECTS)
    if theirs == own:
        return False
    others = [one for one in ASPECTS if one != aspect]
    return _decide(area, inputs, (aspect,)) != theirs or _decide(area, inputs, others) != own


def _decide(area: str, inputs: Inputs, ours: Ours) -> Outcome | None:
    """Decide half the agent's way, which may have no result where both whole ways have one."""
    try:
        return OUTCOMES[area](inputs, ours)
    except ReferenceFails:
        return None


def aspects_of(area: str) -> Iterator[str]:
    """Yield the aspects that an area shows."""
    unseen = {
        "oneke_endpoints": (
            *("network-text", "node-switch-words", "plug-in", "private-network-nic", "server-port"),
            *("own-balancer", "kubeconfig-keeps-name", "proxy-exceptions"),
        ),
        "node_config": ("server-port", "own-balancer"),
        "backend_registration": (
            *("endpoint-text", "endpoint-fallback", "certificate-names", "network-text"),
            *("supervisor-in-certificate", "node-switch-words", "plug-in", "kubeconfig-keeps-name"),
            "proxy-exceptions",
        ),
    }[area]
    return (aspect for aspect in ASPECTS if aspect not in unseen)
