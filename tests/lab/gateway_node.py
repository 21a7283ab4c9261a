"""What the tests of the gateway ask a node: its agent, its balancers, its virtual addresses, its
state."""

from __future__ import annotations

import ctypes
import json
import os
import socket
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any, TypeVar

from tests.lab.basics import CommandFailed, LabError, wait_until
from tests.lab.context import (
    PRIVATE_VIP,
    PUBLIC_VIP,
    context_text,
    override,
    vnf_context,
)
from tests.lab.lab import Lab
from tests.lab.network import Host
from tests.lab.node import Node

AGENT_UNIT = "oneke-agent.service"
PEER_URL = "http://198.51.100.1/"
VIPS = (PUBLIC_VIP, PRIVATE_VIP)

_CLONE_NEWNET = 0x40000000
_READY_S = 120
_MOVE_S = 15

_T = TypeVar("_T")


# --- the agent ------------------------------------------------------------------------------------


def agent(node: Node, *arguments: str, check: bool = False) -> CompletedProcess[str]:
    """Run the agent by hand, as a person logged in would."""
    return node.run(["oneke-agent", *arguments], check=check, timeout_s=_READY_S)


def configured(node: Node, *arguments: str) -> dict[str, Any]:
    """Converge the node and return what the run did.

    Raises:
        LabError: It did not end well; with what the agent said.
    """
    done = agent(node, "configure", "--json", *arguments)
    if done.returncode != 0:
        raise LabError(f"{node.name}: configure: {done.returncode}: {done.stdout} {done.stderr}")
    return dict(json.loads(done.stdout))


def previewed(node: Node, *arguments: str) -> dict[str, Any]:
    """Return what a run would do."""
    done = node.run(["oneke-agent", "configure", "--dry-run", "--json", *arguments])
    return dict(json.loads(done.stdout))


def changes_of(result: Mapping[str, Any]) -> dict[str, str]:
    """What a run changes, by action."""
    return {
        action["action"]: action["change"]
        for stage in result["stages"]
        for action in stage["actions"]
        if action["change"]
    }


def gateway_context(lab: Lab, node: Node, index: int, **changes: object) -> dict[str, str]:
    """The context of a gateway made by `Lab.vnf`, with changes."""
    values = vnf_context(index, lab.service_id) | {"VMID": str(node.vm_id)}
    return override(values, changes)


def give_context(lab: Lab, node: Node, index: int, **changes: object) -> None:
    """Change the context of a running gateway, as `onevm updateconf` does."""
    node.set_context(context_text(gateway_context(lab, node, index, **changes)), node.token)


def wait_ready(lab: Lab, node: Node, timeout_s: float = _READY_S) -> dict[str, Any]:
    """Wait until OneGate knows that the node is ready, and return what else it knows."""

    def known() -> dict[str, Any]:
        found = published(lab, node)
        if (found.get("READY"), found.get("ONEKE_STATE")) != ("YES", "READY"):
            raise LabError(f"OneGate knows {found}")
        return found

    return node.wait_until(known, timeout_s, "READY=YES")


def published(lab: Lab, node: Node) -> dict[str, Any]:
    """What the agent told OneGate."""
    if node.vm_id is None:
        raise LabError(f"{node.name}: plays no VM of OneGate")
    known = lab.onegate.user_template(node.vm_id)
    return {key: known[key] for key in known if key.startswith("ONEKE_") or key == "READY"}


def unit_property(node: Node, unit: str, name: str) -> str:
    """A property of a unit, as systemd writes it."""
    return node.run(["systemctl", "show", unit, f"--property={name}", "--value"]).stdout.strip()


# --- virtual addresses ----------------------------------------------------------------------------


def held(node: Node, vips: Iterable[str] = VIPS) -> list[str]:
    """The virtual addresses that a node holds; none if it is off."""
    if not node.is_running:
        return []
    listed = node.run(["ip", "-4", "-o", "address", "show"]).stdout
    return [vip for vip in vips if f" {vip}/" in listed]


def holder_of(nodes: Sequence[Node], timeout_s: float = _MOVE_S) -> tuple[Node, Node]:
    """Wait until one node holds all virtual addresses and the other none; the holder is first."""

    def found() -> tuple[Node, Node]:
        now = {node.name: held(node) for node in nodes}
        holders = [node for node in nodes if len(now[node.name]) == len(VIPS)]
        empty = [node for node in nodes if not now[node.name]]
        if len(holders) != 1 or len(empty) != 1:
            raise LabError(f"held: {now}")
        return holders[0], empty[0]

    return wait_until(found, timeout_s, "all virtual addresses to be on one node")


def wait_moved(loser: Node, winner: Node, timeout_s: float = _MOVE_S) -> None:
    """Wait until `winner` holds all virtual addresses and `loser` none."""

    def moved() -> bool:
        if held(loser) or len(held(winner)) != len(VIPS):
            raise LabError(f"{loser.name} {held(loser)}, {winner.name} {held(winner)}")
        return True

    wait_until(moved, timeout_s, f"the virtual addresses to be on {winner.name}")


# --- the machine ----------------------------------------------------------------------------------

_DIGESTS = r"""
cd / && set -- etc usr/local var/lib/oneke/loaded -xdev -not -path etc/resolv.conf \
    -not -path 'etc/issue.d*' -not -path 'etc/motd.d*' -not -name '*.pyc'
find "$@" -printf '/%p %M %u:%g %l\n' 2> /dev/null | sort
find "$@" -type f -print0 2> /dev/null | sort -z | xargs -0 sha256sum
"""
_UNITS = r"""
systemctl show --property=Id,ActiveState,UnitFileState \
    haproxy keepalived nftables oneke-backends | paste -sd ' ' | sed 's/  /\n/g'
"""
_KERNEL = r"""
cd /proc/sys/net/ipv4 && grep -r . ip_forward ip_nonlocal_bind conf/*/forwarding
nft --stateless list ruleset
ip -4 -o address show | awk '{print $2, $4}' | sort
ip -4 route show
"""


def machine_state(node: Node) -> dict[str, list[str]]:
    """What a run may change: files by digest, units, kernel settings, packet filter, addresses."""
    scripts = {"files": _DIGESTS, "units": _UNITS, "kernel": _KERNEL}
    return {
        name: node.run(["bash", "-c", script], check=False).stdout.splitlines()
        for name, script in scripts.items()
    }


def main_pids(node: Node) -> dict[str, str]:
    """Main process of HAProxy and of keepalived."""
    return {unit: unit_property(node, unit, "MainPID") for unit in ("haproxy", "keepalived")}


def state_differences(before: dict[str, list[str]], after: dict[str, list[str]]) -> list[str]:
    """What is in one of two states of a machine and not in the other."""
    return sorted(line for name in before for line in set(before[name]) ^ set(after[name]))


# --- HAProxy --------------------------------------------------------------------------------------


def server_states(node: Node) -> dict[str, str]:
    """What HAProxy thinks of each server, by its name."""
    shown = node.run(["socat", "-", "/run/haproxy/admin.sock"], input="show stat\n").stdout
    lines = [line.split(",") for line in shown.splitlines() if line.strip()]
    names = {name.lstrip("# "): number for number, name in enumerate(lines[0])}
    rows = [line for line in lines[1:] if line[names["svname"]] not in ("FRONTEND", "BACKEND")]
    return {line[names["svname"]]: line[names["status"]] for line in rows}


def wait_servers(node: Node, wanted: Mapping[str, str], timeout_s: float = 20) -> None:
    """Wait until HAProxy's checks say this of these servers, by the beginning of the state."""

    def told() -> bool:
        states = server_states(node)
        if all(states.get(name, "").startswith(state) for name, state in wanted.items()):
            return True
        raise LabError(f"HAProxy says {states}")

    node.wait_until(told, timeout_s, f"HAProxy to say {dict(wanted)}")


# --- clients --------------------------------------------------------------------------------------


def in_namespace(name: str, call: Callable[[], _T]) -> _T:
    """Call a function in a thread that is in a named network namespace; sockets it makes stay
    there."""
    answers: list[_T] = []
    errors: list[BaseException] = []

    def there() -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        handle = os.open(f"/run/netns/{name}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            if libc.setns(handle, _CLONE_NEWNET) != 0:
                raise OSError(ctypes.get_errno(), f"setns {name}")
            answers.append(call())
        except BaseException as error:  # handed to the caller's thread
            errors.append(error)
        finally:
            os.close(handle)

    thread = threading.Thread(target=there)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return answers[0]


class Echo:
    """A server in a host's network that sends back what it gets."""

    def __init__(self, host: Host, port: int) -> None:
        """Listen on every address of the host."""
        self._listening: socket.socket = in_namespace(
            host.namespace, lambda: socket.create_server(("0.0.0.0", port), reuse_port=False)
        )
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        """Take no more connections."""
        self._listening.close()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            threading.Thread(target=_send_back, args=(connection,), daemon=True).start()


def _send_back(connection: socket.socket) -> None:
    with connection:
        try:
            while data := connection.recv(4096):
                connection.sendall(data)
        except OSError:
            return


class Talk:
    """A connection from a host that is kept open."""

    def __init__(self, host: Host, address: str, port: int) -> None:
        """Connect."""
        self._socket: socket.socket = in_namespace(
            host.namespace, lambda: socket.create_connection((address, port), timeout=10)
        )
        self._socket.settimeout(10)

    def says(self, text: str) -> str:
        """Send a text and return what comes back; empty if the connection was closed."""
        try:
            self._socket.sendall(text.encode())
            return self._socket.recv(4096).decode()
        except OSError as error:
            return f"({error})"

    def close(self) -> None:
        """Hang up."""
        self._socket.close()


def wait_fetch(host: Host, url: str, wanted: str | None = None, timeout_s: float = _MOVE_S) -> str:
    """Ask a URL again and again until it answers, with this text if one is given."""

    def asked() -> str | None:
        answer = host.fetch(url, timeout_s=2)
        if wanted is not None and answer != wanted:
            raise LabError(f"it answers {answer!r}")
        return answer

    return wait_until(asked, timeout_s, f"{host.name}: {url} to answer {wanted or 'anything'}")


def answers(host: Host, url: str, times: int) -> set[str]:
    """The different answers of a URL asked some times; `nothing` where none came."""
    found = set()
    for _ in range(times):
        try:
            found.add(host.fetch(url, timeout_s=3))
        except CommandFailed:
            found.add("nothing")
    return found


# --- secrets --------------------------------------------------------------------------------------


class ArgumentWatch:
    """Collects the arguments of every process of the box, nodes included, while it is entered."""

    def __init__(self) -> None:
        """Collect nothing yet."""
        self.seen: set[bytes] = set()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> ArgumentWatch:
        """Begin."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End."""
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(0.02):
            for folder in Path("/proc").iterdir():
                if folder.name.isdigit():
                    try:
                        self.seen.add((folder / "cmdline").read_bytes())
                    except OSError:
                        continue

    def naming(self, secret: str) -> list[str]:
        """Those that hold a text."""
        return [
            line.replace(b"\0", b" ").decode(errors="replace")
            for line in self.seen
            if secret.encode() in line
        ]


def world_readable_files_with(node: Node, secret: str) -> list[str]:
    """Files of a node that anybody may read and that hold a text."""
    script = (
        "find /etc /run /var /tmp /root /home /usr/local /opt/oneke/share -xdev -type f -perm /004"
        " -size -8M -print0 2>/dev/null | xargs -0 grep -lsF -f /dev/stdin"
    )
    # Who may not enter a folder reads nothing in it.
    found = node.run(["bash", "-c", script], check=False, input=f"{secret}\n").stdout.split()
    closed = "/var/lib/oneke/", "/run/oneke/", "/run/one-context/", "/root/"
    return [path for path in found if not path.startswith(closed)]
