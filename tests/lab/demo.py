"""The demonstration: a whole service comes up by itself and serves."""

from __future__ import annotations

import contextlib
import sys
import time

from tests.lab.basics import CommandFailed, LabError, wait_until
from tests.lab.board import Board
from tests.lab.context import PUBLIC_VIP
from tests.lab.lab import Lab
from tests.lab.node import Node
from tests.lab.onegate.state import FlowState
from tests.lab.service import Service

READY_TIMEOUT_S = 300
SERVE_TIMEOUT_S = 60
CLIENT = "10.2.11.50"

_OVER = (
    *(FlowState.RUNNING, FlowState.FAILED_DEPLOYING, FlowState.FAILED_SCALING),
    FlowState.DONE,
)


def main(
    *, once: bool = False, vnf: int = 1, master: int = 1, worker: int = 1, storage: int = 1
) -> int:
    """Boot a service, show how it comes up and what it does, and keep it up unless `once` is set.

    Args:
        once: Whether to end when all was shown.
        vnf: How many gateways.
        master: How many masters.
        worker: How many workers.
        storage: How many storage nodes.

    Returns:
        0 if it was RUNNING in time and a request through the ingress went through, else 1.
    """
    started = time.monotonic()
    with Lab() as lab:
        service = lab.service(vnf=vnf, master=master, worker=worker, storage=storage)
        board = Board(service, started)
        board.say("OneFlow deploys OneKE: gateways first, the rest when they are ready")
        if not (show_coming_up(board) and show_serving(lab, service, board)):
            print(lab.diagnose(), file=sys.stderr)
            return 1
        look_around(service, board)
        if not once:
            board.say("Ctrl-C ends the lab and everything in it; until then the board goes on")
            with contextlib.suppress(KeyboardInterrupt):
                board.show_until(lambda state: state == FlowState.DONE)
    return 0


def show_coming_up(board: Board) -> bool:
    """Show the service until it runs; false if it failed or takes too long."""
    deadline = time.monotonic() + READY_TIMEOUT_S
    state = board.show_until(lambda state: state in _OVER or time.monotonic() > deadline)
    if state is FlowState.RUNNING:
        return True
    board.say(f"the service is {state.name} after {READY_TIMEOUT_S} s at most")
    return False


def show_serving(lab: Lab, service: Service, board: Board) -> bool:
    """Show the cluster's nodes, and a request from outside that a worker answers."""
    try:
        [master, *_] = service.nodes("master")
        board.say(f"{master.name}# kubectl get nodes")
        print(kubectl(master, "get nodes"), flush=True)
        if service.nodes("worker"):
            client = lab.host(
                "client", network="public", address=f"{CLIENT}/24", gateway="10.2.11.1"
            )
            url = f"http://{PUBLIC_VIP}/"
            answer = wait_until(
                lambda: client.fetch(url, timeout_s=2), SERVE_TIMEOUT_S, f"{url} to answer"
            )
            board.say(f'through the ingress: {CLIENT} asks {url}, and "{answer}" answers')
    except (CommandFailed, LabError) as error:
        board.say(f"no answer: {error}")
        return False
    return True


def look_around(service: Service, board: Board) -> None:
    """Show what a node says of itself, and tell how to see more."""
    [master, *_] = service.nodes("master")
    board.say(f"{master.name}# oneke-agent status")
    print(master.run(["oneke-agent", "status"], check=False).stdout, flush=True)
    board.say("look around from a second terminal:")
    name = master.name
    for command, meaning in (
        (f"shell {name}", "a root shell in a node; exit leaves it"),
        (f"shell {name} -- bash -lc 'kubectl get pods -A'", "what runs in the cluster"),
        (f"shell {name} -- oneke-agent configure --dry-run", "what a run would change: nothing"),
        (f"shell {name} -- journalctl -fu oneke-agent", "how the node came to be"),
        ("shell vnf0 -- oneke-agent status", "virtual addresses, balancers and their servers"),
        ("scale worker 2", "OneFlow makes one more worker; the board shows it come up"),
        ("scale worker 1", "the oldest worker leaves"),
    ):
        print(f"    python3 -m tests.lab {command:<52} # {meaning}", flush=True)


def kubectl(node: Node, arguments: str) -> str:
    """Run kubectl as root on a node, as in a login shell."""
    return node.run(["bash", "-lc", f"kubectl {arguments}"]).stdout
