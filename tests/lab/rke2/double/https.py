"""What the supervisor and the API server have in common: TLS, threads, and who is asking."""

from __future__ import annotations

import contextlib
import http.server
import json
import socket
import ssl
from base64 import b64decode
from collections.abc import Callable
from typing import Any

HANDSHAKE_S = 10


class TlsServer(http.server.ThreadingHTTPServer):
    """A server with a thread for each connection, the handshake included."""

    daemon_threads = True
    request_queue_size = 128
    allow_reuse_address = True

    def __init__(
        self,
        address: tuple[str, int],
        handler: type[http.server.BaseHTTPRequestHandler],
        context: ssl.SSLContext | None,
        admit: Callable[[socket.socket], bool] = lambda _: True,
    ) -> None:
        self.context = context
        self._admit = admit
        super().__init__(address, handler)

    def server_bind(self) -> None:
        """Bind without asking a resolver for this machine's name."""
        socketserver_bind(self)

    def get_request(self) -> tuple[socket.socket, Any]:
        """Take a connection, unless it is to fail."""
        connection, address = super().get_request()
        if not self._admit(connection):
            raise OSError("not admitted")
        return connection, address

    def finish_request(self, request: Any, client_address: Any) -> None:
        """Serve one connection in its own thread."""
        with contextlib.suppress(OSError):
            request.settimeout(HANDSHAKE_S)
            if self.context is not None:
                request = self.context.wrap_socket(request, server_side=True)
            with contextlib.closing(request):
                handler: Any = self.RequestHandlerClass
                handler(request, client_address, self)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients come and go; that is no news."""


def socketserver_bind(server: http.server.HTTPServer) -> None:
    """Bind as a plain TCP server does."""
    server.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    server.socket.bind(server.server_address)
    server.server_address = server.socket.getsockname()
    server.server_name, server.server_port = str(server.server_address[0]), server.server_address[1]


class Handler(http.server.BaseHTTPRequestHandler):
    """Base of request handlers."""

    protocol_version = "HTTP/1.1"
    server_version = "rke2"
    sys_version = ""
    disable_nagle_algorithm = True
    wbufsize = 65536
    timeout = 30

    def __getattr__(self, name: str) -> Any:
        """All methods of HTTP are answered by `respond`."""
        if name.startswith("do_"):
            return self.respond
        raise AttributeError(name)

    def respond(self) -> None:
        """Answer one request; each server says how."""
        raise NotImplementedError  # abstract: every server of the double has its own

    def log_message(self, format: str, *args: Any) -> None:
        """Requests are not logged."""

    def body(self) -> bytes:
        """What came with the request."""
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def answer(
        self, status: int, body: str | bytes, kind: str = "text/plain; charset=utf-8"
    ) -> None:
        """Send a whole answer."""
        data = body.encode() if isinstance(body, str) else body
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def answer_json(self, status: int, value: Any) -> None:
        """Send JSON."""
        self.answer(status, json.dumps(value) + "\n", "application/json")

    def drop(self) -> None:
        """End the connection without an answer."""
        self.close_connection = True

    def certificate(self) -> tuple[str, tuple[str, ...]] | None:
        """Name and groups of the client certificate, if one was shown."""
        connection = self.connection
        if not isinstance(connection, ssl.SSLSocket):
            return None
        shown = connection.getpeercert()
        if not shown:
            return None
        subject: Any = shown.get("subject", ())
        pairs = [pair for group in subject for pair in group]
        names = [value for key, value in pairs if key == "commonName"]
        groups = tuple(value for key, value in pairs if key == "organizationName")
        return (names[0] if names else ""), groups

    def basic(self) -> tuple[str, str] | None:
        """User and password, if they were given."""
        kind, _, encoded = (self.headers.get("Authorization") or "").partition(" ")
        if kind.lower() != "basic":
            return None
        try:
            user, _, password = b64decode(encoded, validate=True).decode().partition(":")
        except ValueError:
            return None
        return user, password
