"""A TLS server whose certificates are made for the test, all of them with EC keys as RKE2's are."""

from __future__ import annotations

import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


@dataclass(frozen=True)
class Pair:
    """A certificate and its key."""

    certificate: Path
    key: Path


def make_authority(folder: Path, name: str) -> Pair:
    """Make a self-signed CA."""
    pair = Pair(folder / f"{name}.crt", folder / f"{name}.key")
    _openssl(
        *("req", "-x509", *_new_key(pair.key), "-days", "2", "-subj", f"/CN={name}"),
        *("-addext", "basicConstraints=critical,CA:TRUE"),
        *("-addext", "keyUsage=critical,keyCertSign,digitalSignature"),
        *("-out", str(pair.certificate)),
    )
    return pair


def make_certificate(folder: Path, name: str, authority: Pair, address: str = "127.0.0.1") -> Pair:
    """Make a certificate that an authority vouches for, good for server and client."""
    pair = Pair(folder / f"{name}.crt", folder / f"{name}.key")
    request, extensions = folder / f"{name}.csr", folder / f"{name}.ext"
    extensions.write_text(f"subjectAltName=IP:{address}\n")
    _openssl("req", "-new", *_new_key(pair.key), "-subj", f"/CN={name}", "-out", str(request))
    _openssl(
        *("x509", "-req", "-days", "2", "-in", str(request), "-extfile", str(extensions)),
        *("-CA", str(authority.certificate), "-CAkey", str(authority.key), "-CAcreateserial"),
        *("-out", str(pair.certificate)),
    )
    return pair


def _new_key(path: Path) -> tuple[str, ...]:
    curve = "ec_paramgen_curve:prime256v1"
    return ("-newkey", "ec", "-pkeyopt", curve, "-nodes", "-keyout", str(path))


def _openssl(*arguments: str) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True, timeout=60)


@dataclass(frozen=True)
class Request:
    """What was asked."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass(frozen=True)
class Answer:
    """What is answered.

    Attributes:
        delay_s: How long before the first byte.
        cut: Whether the connection ends in the middle of the body.
        drip_s: How long after every byte of the body; 0 for no such pauses.
    """

    status: int = 200
    body: bytes = b""
    delay_s: float = 0.0
    cut: bool = False
    drip_s: float = 0.0


@dataclass
class TlsServer:
    """A server, what it was asked, and what it answers.

    Attributes:
        answer: Request to answer; may be changed.
    """

    port: int
    answer: Callable[[Request], Answer]
    requests: list[Request] = field(default_factory=list)

    @property
    def url(self) -> str:
        """Its base URL."""
        return f"https://127.0.0.1:{self.port}"


@contextmanager
def serving(
    serving_pair: Pair, answer: Callable[[Request], Answer], *, clients: Pair | None = None
) -> Iterator[TlsServer]:
    """Serve TLS on a port of its own.

    Args:
        serving_pair: What it shows.
        answer: What it answers.
        clients: The authority whose certificates clients must show; None for no such need.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(serving_pair.certificate, serving_pair.key)
    if clients:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(clients.certificate)
    httpd = _Quiet(("127.0.0.1", 0), _Handler)
    httpd.tls = context
    server = httpd.told = TlsServer(httpd.server_address[1], answer)
    thread = threading.Thread(target=httpd.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        httpd.shutdown()
        httpd.server_close()
        thread.join(timeout=10)


class _Quiet(ThreadingHTTPServer):
    """Shakes hands in the connection's own thread, and says nothing of clients that go away."""

    daemon_threads = True
    block_on_close = False
    tls: ssl.SSLContext
    told: TlsServer

    def get_request(self) -> tuple[socket.socket, object]:
        """Take a connection; hands are shaken when it is first read from."""
        connection, address = super().get_request()
        connection.settimeout(20)
        plain = {"server_side": True, "do_handshake_on_connect": False}
        return self.tls.wrap_socket(connection, **plain), address

    def handle_error(self, request: object, client_address: object) -> None:
        pass


class _Handler(BaseHTTPRequestHandler):
    server: _Quiet

    def do_GET(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        asked = Request(self.command, self.path, dict(self.headers), self.rfile.read(length))
        self.server.told.requests.append(asked)
        answer = self.server.told.answer(asked)
        time.sleep(answer.delay_s)
        self.send_response(answer.status)
        self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        if answer.cut:
            self.wfile.write(answer.body[: len(answer.body) // 2])
            self.close_connection = True
        elif answer.drip_s:
            for byte in answer.body:
                self.wfile.write(bytes([byte]))
                time.sleep(answer.drip_s)
        else:
            self.wfile.write(answer.body)

    do_DELETE = do_PATCH = do_POST = do_PUT = do_GET  # noqa: N815  # what http.server calls

    def log_message(self, format: str, *args: object) -> None:
        pass
