"""The demonstration: a gateway pair comes up by itself, serves, and follows OneGate."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Sequence

from tests.lab.basics import CommandFailed, wait_until
from tests.lab.context import PRIVATE_VIP, PUBLIC_VIP
from tests.lab.lab import Lab
from tests.lab.network import Host
from tests.lab.node import Node

READY_TIMEOUT_S = 180
SERVE_TIMEOUT_S = 60
INGRESS_PORT = 32080
BACKEND = "172.20.0.160"
CLIENT = "172.20.0.150"
PEER_URL = "http://198.51.100.1/"

Say = Callable[[str], None]


def main(*, once: bool = False) -> int:
    """Boot the pair, show what it does, and keep it up unless `once` is set.

    Returns:
        0 if both nodes reported READY=YES in time and requests went through, else 1.
    """
    started = time.monotonic()

    def say(text: str) -> None:
        print(f"[{time.monotonic() - started:6.1f} s] {text}", flush=True)

    with Lab() as lab:
        lab.add_service([("vnf", 2), ("worker", 0)])
        say("OneGate answers at 203.0.113.40:5030, beyond the public gateway")
        gateways = [lab.vnf(f"vnf{index}", index) for index in range(2)]
        backend = lab.host(
            "backend", network="private", address=f"{BACKEND}/24", gateway=PRIVATE_VIP
        )
        client = lab.host("client", network="private", address=f"{CLIENT}/24", gateway=PRIVATE_VIP)
        backend.serve(INGRESS_PORT)
        say(f"power on: {', '.join(node.name for node in gateways)}, made from one image")
        ready = show_coming_up(lab, gateways, say) and show_serving(lab, client, say)
        if not ready:
            print(lab.diagnose(), file=sys.stderr)
            return 1
        look_around(gateways, say)
        if not once:
            say("Ctrl-C ends the lab and everything in it")
            with contextlib.suppress(KeyboardInterrupt):
                threading.Event().wait()
    return 0


def show_coming_up(lab: Lab, gateways: Sequence[Node], say: Say) -> bool:
    """Tell each change of what the gateways publish, until both are ready or time is over."""
    deadline = time.monotonic() + READY_TIMEOUT_S
    shown: dict[str, str] = {}
    while time.monotonic() < deadline:
        for node in gateways:
            state = describe(lab, node)
            if shown.get(node.name) != state:
                shown[node.name] = state
                say(f"{node.name}: {state}")
        if all(_attributes(lab, node).get("READY") == "YES" for node in gateways):
            return True
        time.sleep(0.2)
    say(f"not ready after {READY_TIMEOUT_S} s")
    return False


def show_serving(lab: Lab, client: Host, say: Say) -> bool:
    """Send requests through NAT and, once a worker registers in OneGate, through the balancer."""
    try:
        answer = _fetch(client, PEER_URL)
        say(f'through NAT: a private client asks {PEER_URL}, which sees "{answer}"')
        registration = {"IP": "<ETH0_EP0>", "PORT": "80", "SERVER_HOST": BACKEND}
        lab.onegate.add_vm(
            role="worker",
            service_id=lab.service_id,
            nics=[],
            user_template={
                **{f"ONEGATE_HAPROXY_LB3_{key}": value for key, value in registration.items()},
                "ONEGATE_HAPROXY_LB3_SERVER_PORT": str(INGRESS_PORT),
            },
        )
        say(f"a worker registers {BACKEND}:{INGRESS_PORT} in OneGate")
        answer = _fetch(client, f"http://{PUBLIC_VIP}/")
        say(f'through the balancer: http://{PUBLIC_VIP}/ answers "{answer}"')
    except (CommandFailed, OSError) as error:
        say(f"no answer: {error}")
        return False
    return True


def _fetch(client: Host, url: str) -> str:
    return wait_until(
        lambda: client.fetch(url, timeout_s=2).strip(), SERVE_TIMEOUT_S, f"{url} to answer"
    )


def look_around(gateways: Sequence[Node], say: Say) -> None:
    """Show one node's status, and tell how to see more."""
    for node in gateways:
        say(f"{node.name}# oneke-agent status")
        print(node.run(["oneke-agent", "status"], check=False).stdout, flush=True)
    say("look around from a second terminal:")
    for command, meaning in (
        ("shell vnf0", "a root shell in a gateway"),
        ("shell vnf0 -- oneke-agent status", "what it holds, what is missing"),
        ("shell vnf0 -- oneke-agent configure --dry-run", "what a run would change: nothing"),
        ("shell vnf0 -- ip -brief address", f"who has {PUBLIC_VIP} and {PRIVATE_VIP}"),
        ("shell vnf0 -- systemctl stop haproxy", "the addresses move to the other gateway"),
        ("shell vnf1 -- journalctl -fu oneke-backends", "the daemon that follows OneGate"),
    ):
        print(f"    python3 -m tests.lab {command:<48} # {meaning}", flush=True)


def describe(lab: Lab, node: Node) -> str:
    """One line on a node: what OneGate knows of it, and which virtual addresses it holds."""
    known = _attributes(lab, node)
    if not known.get("ONEKE_STATE"):
        return "booting"
    told = [str(known["ONEKE_STATE"]), str(known.get("ONEKE_STEP") or "")]
    if known.get("ONEKE_ERROR"):
        told.append(str(known["ONEKE_ERROR"]))
    held = [vip for vip in (PUBLIC_VIP, PRIVATE_VIP) if vip in _addresses(node)]
    return ", ".join([*filter(None, told), *(f"holds {vip}" for vip in held)])


def _addresses(node: Node) -> str:
    if not node.is_running:
        return ""
    return node.run(["ip", "-4", "-o", "address", "show"], check=False).stdout


def _attributes(lab: Lab, node: Node) -> dict[str, object]:
    return {} if node.vm_id is None else dict(lab.onegate.user_template(node.vm_id))
