"""What answers on a worker's node ports: a page that names the node."""

from __future__ import annotations

import threading

from . import paths, pki
from .https import Handler, TlsServer

HTTP_PORT, HTTPS_PORT = 32080, 32443


class Page(Handler):
    """Every path is the same page."""

    name = ""

    def respond(self) -> None:
        """Answer with the node's name."""
        self.answer(200, f"{self.name}\n")


def run(name: str) -> int:
    """Serve until told to end."""
    Page.name = name
    agent = paths.DATA / "agent"
    context = pki.server_context(agent / "serving-kubelet.crt", agent / "client-ca.crt")
    secure = TlsServer(("0.0.0.0", HTTPS_PORT), Page, context)
    threading.Thread(target=secure.serve_forever, args=(60,), daemon=True).start()
    TlsServer(("0.0.0.0", HTTP_PORT), Page, None).serve_forever(60)
    return 0
