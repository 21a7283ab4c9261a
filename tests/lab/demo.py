"""The demonstration: boots the gateway pair of a service and shows how it comes up."""

from __future__ import annotations

import contextlib
import sys
import threading
import time

from tests.lab.context import PRIVATE_VIP, PUBLIC_VIP
from tests.lab.lab import Lab
from tests.lab.node import Node

READY_TIMEOUT_S = 180


def main(*, once: bool = False) -> int:
    """Boot the service, show what changes, and keep it up unless `once` is set.

    Returns:
        0 if every node reported READY=YES in time, else 1.
    """
    started = time.monotonic()

    def say(text: str) -> None:
        print(f"[{time.monotonic() - started:6.1f} s] {text}", flush=True)

    with Lab() as lab:
        say("OneGate listens at 203.0.113.40:5030, beyond the public gateway")
        gateways = [lab.vnf(f"vnf{index}", index) for index in range(2)]
        say(f"switched on: {', '.join(node.name for node in gateways)}")
        deadline = time.monotonic() + READY_TIMEOUT_S
        shown: dict[str, str] = {}
        ready = False
        while not ready and time.monotonic() < deadline:
            for node in gateways:
                state = describe(lab, node)
                if shown.get(node.name) != state:
                    shown[node.name] = state
                    say(f"{node.name}: {state}")
            ready = all(_attributes(lab, node).get("READY") == "YES" for node in gateways)
            time.sleep(0.5)
        say("the service is ready" if ready else f"not ready after {READY_TIMEOUT_S} s")
        if not ready:
            print(lab.diagnose(), file=sys.stderr)
        if not once:
            say("look around with: python3 -m tests.lab shell vnf0    (Ctrl-C ends the lab)")
            with contextlib.suppress(KeyboardInterrupt):
                threading.Event().wait()
    return 0 if ready else 1


def describe(lab: Lab, node: Node) -> str:
    """One line on a node: what OneGate knows, and which virtual addresses it holds."""
    known = _attributes(lab, node)
    told = [f"{key}={known[key]}" for key in sorted(known) if _is_told(key)]
    held = []
    if node.is_running:
        listed = node.run(["ip", "-4", "-o", "address", "show"], check=False).stdout
        held = [vip for vip in (PUBLIC_VIP, PRIVATE_VIP) if f" {vip}/" in listed]
    return " ".join([*(told or ["nothing published yet"]), *(f"holds {vip}" for vip in held)])


def _attributes(lab: Lab, node: Node) -> dict[str, object]:
    return {} if node.vm_id is None else dict(lab.onegate.user_template(node.vm_id))


def _is_told(key: str) -> bool:
    return key == "READY" or (key.startswith("ONEKE_") and "TOKEN" not in key)
