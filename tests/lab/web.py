"""A small HTTP server for the lab: it says its name, or who is asking.

It is started as a program of its own in a network namespace, and prints `ready` when it listens.
"""

from __future__ import annotations

import argparse
import http.server
import json
import ssl
from typing import ClassVar

PEER = "peer"
"""As text to answer: the address of who is asking, as this server sees it."""


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers every path alike, except those with a status of their own."""

    answer: ClassVar[str] = PEER
    statuses: ClassVar[dict[str, int]] = {}

    def do_GET(self) -> None:
        """Send the answer, as one line."""
        text = self.client_address[0] if self.answer == PEER else self.answer
        body = f"{text}\n".encode()
        self.send_response(self.statuses.get(self.path, 200))
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_HEAD(self) -> None:
        """Send the status only."""
        self.send_response(self.statuses.get(self.path, 200))
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Keep quiet."""


class Server(http.server.ThreadingHTTPServer):
    """Speaks TLS in the thread of each connection, so that a silent client holds up nobody."""

    tls: ssl.SSLContext | None = None

    def finish_request(self, request: object, client_address: object) -> None:
        """Answer one connection; a client that goes away or fails to speak TLS is no error."""
        try:
            if self.tls is not None:
                request = self.tls.wrap_socket(request, server_side=True)
            super().finish_request(request, client_address)
        except OSError:
            pass


def main() -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--listen", required=True, metavar="ADDRESS:PORT")
    parser.add_argument("--answer", default=PEER, help=f"text to answer; {PEER}: who is asking")
    parser.add_argument("--statuses", default="{}", help="JSON: path to HTTP status")
    parser.add_argument("--tls", metavar="FILE", help="certificate and key")
    options = parser.parse_args()
    address, _, port = options.listen.rpartition(":")
    Handler.answer = options.answer
    Handler.statuses = json.loads(options.statuses)
    with Server((address, int(port)), Handler) as server:
        if options.tls:
            server.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            server.tls.load_cert_chain(options.tls)
        print("ready", flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main()
