"""The control socket of a running emulator: its client, and the server end.

Protocol: one connection per call, one JSON object per line: {"call": NAME, "arguments": {...}} one
way, {"result": VALUE} or {"error": TEXT} the other.
"""

from __future__ import annotations

import json
import socket
import socketserver
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

_CALL_TIMEOUT_S = 30.0
_RETRY_S = 0.05


class ControlError(RuntimeError):
    """The emulator refused a call, or cannot be reached."""


class Control:
    """Changes and watches a running emulator.

    VM ids may be given as number or text; they come back as text.
    """

    def __init__(self, socket_path: str | Path) -> None:
        """Name the socket; nothing is opened before the first call."""
        self._socket_path = str(socket_path)

    def wait_until_up(self, timeout_s: float = 10.0) -> None:
        """Return as soon as the emulator answers calls (it then listens for requests too).

        Raises:
            ControlError: It did not in time.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                self.info()
                return
            except ControlError:
                if time.monotonic() >= deadline:
                    raise
                time.sleep(_RETRY_S)

    def info(self) -> dict[str, str]:
        """Return `version` and `base_url`, which is what ONEGATE_ENDPOINT should be."""
        return dict(self._call("info"))

    # --- services --------------------------------------------------------------------------------

    def add_service(
        self,
        name: str,
        roles: Sequence[tuple[str, int]],
        *,
        service_id: int | None = None,
        state: int = 1,
    ) -> int:
        """Create a service.

        Args:
            name: Its name.
            roles: Name and cardinality of each role, in order; VMs are added one by one afterwards.
            service_id: A fixed id; else the next free one, from 1.
            state: 1 DEPLOYING, 2 RUNNING, ...

        Returns:
            The id of the service.
        """
        pairs = [list(role) for role in roles]
        return int(
            self._call("add_service", name=name, roles=pairs, service_id=service_id, state=state)
        )

    def set_service(
        self,
        service_id: int,
        *,
        state: int | None = None,
        roles: Mapping[str, Mapping[str, int]] | None = None,
    ) -> None:
        """Change the states of a service and its roles.

        Args:
            service_id: Which.
            state: The new state of the service.
            roles: What changes, by role: {"vnf": {"state": 2, "cardinality": 2}}.
        """
        self._call("set_service", service_id=service_id, state=state, roles=roles)

    def services(self) -> list[int]:
        """List the ids of the services there are."""
        return list(self._call("services"))

    def service(self, service_id: int) -> dict[str, Any]:
        """Return `id`, `state` and `roles`, a list of `name`, `state`, `cardinality`, `vm_ids`."""
        return dict(self._call("service", service_id=service_id))

    # --- virtual machines ------------------------------------------------------------------------

    def add_vm(
        self,
        role: str | None = None,
        service_id: int | None = None,
        *,
        nics: Sequence[Mapping[str, str]] = (),
        user_template: Mapping[str, Any] | None = None,
        context: Mapping[str, str] | None = None,
        vm_id: int | str | None = None,
        token: str | None = None,
        unreadable: bool = False,
        name: str | None = None,
        aliases: Sequence[Mapping[str, str]] = (),
        state: int = 3,
        lcm_state: int = 3,
    ) -> dict[str, str]:
        """Create a VM, running unless said otherwise.

        Args:
            role: The role it joins; the cardinality grows if there are more VMs than that.
            service_id: The service of the role; neither for a VM outside any service.
            nics: Attributes of each interface (IP, MAC, NETWORK, ...); NAME and ids are filled in.
            user_template: Keys beside ROLE_NAME and SERVICE_ID, which are set anyway.
            context: What the extended answer shows as CONTEXT.
            vm_id: A fixed id; else the next free one, from 0.
            token: A fixed token; else a random one.
            unreadable: It belongs to serveradmin: peers get 404 for it and for extended answers.
            name: Its name; else ROLE_N_(service_ID).
            aliases: Like nics, for NIC_ALIAS.
            state: 1 pending, 3 active, 6 done, 8 power-off.
            lcm_state: 0 none, 1 prolog, 2 boot, 3 running, 12 shutdown, ...

        Returns:
            `id` and `token`.
        """
        return dict(
            self._call(
                "add_vm",
                role=role,
                service_id=service_id,
                nics=[dict(nic) for nic in nics],
                user_template=user_template,
                context=context,
                vm_id=vm_id,
                token=token,
                unreadable=unreadable,
                name=name,
                aliases=[dict(nic) for nic in aliases],
                state=state,
                lcm_state=lcm_state,
            )
        )

    def vm(self, vm_id: int | str) -> dict[str, Any]:
        """Return `id`, `name`, `state`, `lcm_state`, `user_template`, `nics`, `aliases`, `ready`.

        `ready` is the time (seconds since the epoch) of the first update that OneFlow takes for
        READY, or None.
        """
        return dict(self._call("vm", vm_id=vm_id))

    def set_vm(
        self,
        vm_id: int | str,
        *,
        state: int | None = None,
        lcm_state: int | None = None,
        ready: float | None = None,
    ) -> None:
        """Change the states of a VM."""
        self._call("set_vm", vm_id=vm_id, state=state, lcm_state=lcm_state, ready=ready)

    def remove_vm(self, vm_id: int | str, *, forget: bool = False) -> None:
        """Let a VM be DONE: its role drops it and shrinks, its token goes on opening /vm.

        Args:
            vm_id: Which.
            forget: It never was: its token is worth nothing any more.
        """
        self._call("remove_vm", vm_id=vm_id, forget=forget)

    def user_template(self, vm_id: int | str) -> dict[str, Any]:
        """Return a VM's user template as stored, hidden keys included."""
        return dict(self._call("user_template", vm_id=vm_id))

    def set_user_template(
        self, vm_id: int | str, values: Mapping[str, Any], *, replace: bool = False
    ) -> None:
        """Set keys of a VM's user template past the parser; this never counts as READY.

        Args:
            vm_id: Which.
            values: Key to text, to a dict (vector) or to a list of both; None takes the key away.
            replace: Drop all other keys, ROLE_NAME and SERVICE_ID among them.
        """
        self._call("set_user_template", vm_id=vm_id, values=values, replace=replace)

    # --- requests and faults ---------------------------------------------------------------------

    def requests(self) -> list[dict[str, Any]]:
        """List the requests so far, oldest first.

        Each has `time`, `method`, `path`, `vmid`, `extended`, `status` (0 without an answer) and
        `duration_s`. Queries, tokens and bodies are not kept.
        """
        return list(self._call("requests"))

    def clear_requests(self) -> None:
        """Forget the requests so far."""
        self._call("clear_requests")

    def fault(self, kind: str, **options: Any) -> None:
        """Switch a fault on, beside those there are; of several of a kind the newest counts.

        Kinds: `down` (connection refused), `slow` (seconds=), `hanging`, `status` (status=, text=),
        `garbage` (text=), `truncated`, `stale`, `unreadable` (vm_id=), `oned_down`, `oneflow_down`.

        Args:
            kind: One of these.
            options: Limits, but not of `down`: path= (prefix), method=, vm_id= (the asking VM),
                extended= (True: only extended requests, False: all others), count= (it heals after
                so many).
        """
        self._call("fault", kind=kind, **options)

    def heal(self, kind: str | None = None) -> None:
        """Switch all faults off, or those of one kind."""
        self._call("heal", kind=kind)

    def _call(self, operation: str, /, **arguments: Any) -> Any:
        line = json.dumps({"call": operation, "arguments": arguments}) + "\n"
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
                connection.settimeout(_CALL_TIMEOUT_S)
                connection.connect(self._socket_path)
                connection.sendall(line.encode())
                with connection.makefile("rb") as lines:
                    reply = json.loads(lines.readline() or b'{"error": "no reply"}')
        except OSError as error:
            raise ControlError(f"{operation} on {self._socket_path}: {error}") from error
        if "error" in reply:
            raise ControlError(f"{operation}: {reply['error']}")
        return reply["result"]


class Part(Protocol):
    """Methods that can be called over the control socket.

    Attributes:
        calls: Their names.
    """

    calls: frozenset[str]


class ControlServer(socketserver.ThreadingUnixStreamServer):
    """The emulator's end of the control socket."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, socket_path: Path, *parts: Part) -> None:
        """Create the socket, in place of one that an earlier emulator left."""
        socket_path.unlink(missing_ok=True)
        self._socket_path = socket_path
        self.offered: dict[str, Callable[..., Any]] = {
            name: getattr(part, name) for part in parts for name in part.calls
        }
        self._thread = threading.Thread(target=self.serve_forever, args=(_RETRY_S,), daemon=True)
        super().__init__(str(socket_path), _ControlHandler)
        socket_path.chmod(0o600)

    def start(self) -> None:
        """Take calls in a thread of its own."""
        self._thread.start()

    def stop(self) -> None:
        """Take no more calls and remove the socket."""
        self.shutdown()
        self._thread.join()
        self.server_close()
        self._socket_path.unlink(missing_ok=True)


class _ControlHandler(socketserver.StreamRequestHandler):
    server: ControlServer

    def handle(self) -> None:
        """Carry out the calls of one connection."""
        for line in self.rfile:
            with suppress(BrokenPipeError):  # the caller may have given up
                self.wfile.write((json.dumps(self._carry_out(line)) + "\n").encode())

    def _carry_out(self, line: bytes) -> dict[str, Any]:
        try:
            call = json.loads(line)
            if call["call"] not in self.server.offered:
                return {"error": f"unknown call {call['call']}"}
            return {"result": self.server.offered[call["call"]](**call["arguments"])}
        except (KeyError, TypeError, ValueError, OSError) as error:
            return {"error": f"{type(error).__name__}: {error}"}
