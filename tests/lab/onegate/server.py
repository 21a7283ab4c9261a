"""The emulator on a socket: HTTP, TLS, faults, the request log."""

from __future__ import annotations

import socket
import socketserver
import ssl
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.lab.onegate.faults import Fault, FaultKind, Faults, RequestLog, find_fault
from tests.lab.onegate.gate import Conditions, Gate
from tests.lab.onegate.messages import Answer, Request
from tests.lab.onegate.state import Cloud
from tests.lab.onegate.template import Version

_IDLE_TIMEOUT_S = 30
_POLL_S = 0.05
_GARBAGE = "<html><body>no JSON here"
_STATUS_TEXTS = {401: "Not authorized", 500: "Internal server error"}


@dataclass
class Emulator:
    """A OneGate that listens, with its state, its faults and its log.

    Attributes:
        address: Where to listen; port 0 is replaced by the port that was got, so that it stays the
            same when the emulator goes down and comes back.
        tls: Speak HTTPS with this.
    """

    cloud: Cloud
    version: Version = Version.V7_4
    address: tuple[str, int] = ("127.0.0.1", 0)
    tls: ssl.SSLContext | None = None
    faults: Faults = field(default_factory=Faults)
    log: RequestLog = field(default_factory=RequestLog)
    stopping: threading.Event = field(default_factory=threading.Event)
    _server: OneGateServer | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def base_url(self) -> str:
        """The value for ONEGATE_ENDPOINT."""
        host, port = self.address
        shown_host = f"[{host}]" if ":" in host else host
        return f"{'https' if self.tls else 'http'}://{shown_host}:{port}"

    def start(self) -> None:
        """Listen; harmless if it does already."""
        with self._lock:
            if self._server is not None:
                return
            self.stopping.clear()
            self._server = OneGateServer(self)
            self.address = (self.address[0], int(self._server.server_address[1]))
            self._server.start()

    def stop(self) -> None:
        """Refuse connections from now on and cut those there are; harmless if stopped already."""
        with self._lock:
            server, self._server = self._server, None
            self.stopping.set()
            if server is not None:
                server.stop()

    def set_fault(self, fault: Fault) -> None:
        """Put a fault in force."""
        if fault.kind is FaultKind.STALE:
            fault.snapshot = self.cloud.snapshot()
        self.faults.add(fault)
        if fault.kind is FaultKind.DOWN:
            self.stop()

    def heal(self, kind: FaultKind | None = None) -> None:
        """Take away all faults, or those of one kind; listen again if that was the fault."""
        self.faults.heal(kind)
        if kind in (None, FaultKind.DOWN):
            self.start()

    def answer(self, request: Request, faults: list[Fault]) -> Answer | None:
        """Answer a request under the faults that strike it; None means not at all."""
        hanging = find_fault(faults, FaultKind.HANGING)
        if hanging is not None:
            while self.faults.is_in_force(hanging) and not self.stopping.wait(_POLL_S):
                pass
            return None
        slow = find_fault(faults, FaultKind.SLOW)
        if slow is not None and self.stopping.wait(slow.seconds):
            return None
        garbage = find_fault(faults, FaultKind.GARBAGE)
        if garbage is not None:
            return Answer.of_text(200, _GARBAGE if garbage.text is None else garbage.text)
        status = find_fault(faults, FaultKind.STATUS)
        if status is not None:
            return Answer.of_text(status.status, self._word_status(status, request))
        return self._make_gate(request, faults).answer(request)

    def _word_status(self, fault: Fault, request: Request) -> str:
        if fault.text is not None:
            return fault.text
        if fault.status == HTTPStatus.NOT_FOUND:
            vm = self.cloud.vms.get(-1 if request.vm_id is None else request.vm_id)
            return f"Service {vm.user_template.get('SERVICE_ID', '') if vm else ''} not found"
        return _STATUS_TEXTS.get(fault.status, HTTPStatus(fault.status).phrase)

    def _make_gate(self, request: Request, faults: list[Fault]) -> Gate:
        stale = find_fault(faults, FaultKind.STALE)
        is_read = request.method in ("GET", "HEAD")
        cloud = stale.snapshot if stale and stale.snapshot and is_read else self.cloud
        unreadable = {
            fault.vm_id
            for fault in faults
            if fault.kind is FaultKind.UNREADABLE and fault.vm_id is not None
        }
        conditions = Conditions(
            oned_is_up=find_fault(faults, FaultKind.ONED_DOWN) is None,
            oneflow_is_up=find_fault(faults, FaultKind.ONEFLOW_DOWN) is None,
            unreadable=frozenset(unreadable),
        )
        return Gate(cloud, self.version, conditions)


class OneGateServer(ThreadingHTTPServer):
    """Accepts connections, one thread each, and can cut them all."""

    daemon_threads = False  # so that closing waits for them
    request_queue_size = 256

    def __init__(self, emulator: Emulator) -> None:
        """Bind and listen, without accepting yet."""
        if ":" in emulator.address[0]:
            self.address_family = socket.AF_INET6
        self.emulator = emulator
        self._connections: set[socket.socket] = set()
        self._connections_lock = threading.Lock()
        self._thread = threading.Thread(target=self.serve_forever, args=(_POLL_S,), daemon=True)
        super().__init__(emulator.address, _Handler)
        if emulator.tls is not None:
            self.socket = emulator.tls.wrap_socket(
                self.socket, server_side=True, do_handshake_on_connect=False
            )

    def server_bind(self) -> None:
        """Bind without looking up the host's name, which can take long in a lab without DNS."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = self.emulator.address[0], self.server_address[1]

    def start(self) -> None:
        """Accept connections in a thread of its own."""
        self._thread.start()

    def stop(self) -> None:
        """Stop accepting, cut the connections, wait for their threads."""
        self.shutdown()
        self._thread.join()
        self.socket.close()
        with self._connections_lock:
            for connection in self._connections:
                with suppress(OSError):  # it may be gone already
                    connection.shutdown(socket.SHUT_RDWR)
        self.server_close()

    def process_request(self, request: Any, client_address: Any) -> None:
        """Remember the connection and hand it to a thread."""
        with self._connections_lock:
            self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Close and forget a connection."""
        with self._connections_lock:
            self._connections.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Report a failure of a connection's thread, unless it is only the client's going away."""
        if not isinstance(sys.exception(), OSError):  # TLS errors and time-outs are OSErrors too
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    """Takes HTTP off a request and puts it on the answer."""

    protocol_version = "HTTP/1.1"
    timeout = _IDLE_TIMEOUT_S
    disable_nagle_algorithm = True
    server: OneGateServer

    def do_GET(self) -> None:
        """Serve any method: they differ behind HTTP only."""
        received_at = time.time()
        emulator = self.server.emulator
        request = self._read_request()
        faults = emulator.faults.strike(request)
        answer = emulator.answer(request, faults)
        emulator.log.note(request, answer.status if answer else 0, received_at)
        if answer is None:
            self.close_connection = True
        else:
            self._write(answer, is_cut=find_fault(faults, FaultKind.TRUNCATED) is not None)

    def __getattr__(self, name: str) -> Any:
        """Offer every method that is asked for: the base class looks for do_<METHOD>."""
        if name.startswith("do_"):
            return self.do_GET
        raise AttributeError(name)

    def log_message(self, format: str, *args: Any) -> None:
        """Stay silent: the emulator keeps its own log, without secrets."""

    def _read_request(self) -> Request:
        path, _, query = self.path.partition("?")
        return Request(
            method=self.command,
            path=path,
            query=query,
            headers={name.lower(): value for name, value in self.headers.items()},
            body=self._read_body(),
            scheme="https" if self.server.emulator.tls else "http",
        )

    def _read_body(self) -> bytes:
        if "chunked" in self.headers.get("Transfer-Encoding", "").lower():
            return b"".join(self._read_chunks())
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _read_chunks(self) -> Iterator[bytes]:
        while size := int(self.rfile.readline().split(b";")[0], 16):
            yield self.rfile.read(size)
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass  # trailers

    def _write(self, answer: Answer, *, is_cut: bool) -> None:
        lines = [
            f"HTTP/1.1 {answer.status} {HTTPStatus(answer.status).phrase}",
            f"Content-Type: {answer.content_type}",
            "X-Content-Type-Options: nosniff",
            f"Content-Length: {len(answer.body)}",
        ]
        if self.server.emulator.version is Version.V6_4:
            lines += [
                f"Connection: {'close' if self.close_connection else 'keep-alive'}",
                "Server: thin",
            ]
        elif self.close_connection:
            lines.append("Connection: close")
        body = b"" if self.command == "HEAD" else answer.body
        if is_cut:
            self.close_connection = True
            body = body[: len(body) // 2]
        self.wfile.write("\r\n".join([*lines, "", ""]).encode() + body)


def load_tls(cert_path: Path, key_path: Path) -> ssl.SSLContext:
    """Prepare HTTPS with a certificate and its key."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert_path, key_path)
    return context


@contextmanager
def running_emulator(emulator: Emulator) -> Iterator[Emulator]:
    """Let an emulator listen for the time of a with block."""
    emulator.start()
    try:
        yield emulator
    finally:
        emulator.stop()


@contextmanager
def running_server(cloud: Cloud, version: str = "7.4") -> Iterator[str]:
    """Serve a cloud on a free port of 127.0.0.1 in a with block, and give the base URL."""
    with running_emulator(Emulator(cloud, Version(version))) as emulator:
        yield emulator.base_url
