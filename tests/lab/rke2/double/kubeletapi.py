"""The kubelet's own port, where the API server gets logs from."""

from __future__ import annotations

import threading

from . import paths, pki
from .https import Handler, TlsServer
from .kubeletpods import LOG_ROOT

PORT = 10250


class KubeletHandler(Handler):
    """Answers who shows a certificate of the cluster."""

    def respond(self) -> None:
        """Answer one request."""
        shown = self.certificate()
        parts = self.path.partition("?")[0].strip("/").split("/")
        if shown is None:
            self.answer(401, "Unauthorized")
        elif "system:masters" not in shown[1]:
            self.answer(403, "Forbidden")
        elif parts[0] == "containerLogs" and len(parts) == 4:
            self._log(*parts[1:])
        else:
            self.answer(200 if parts == ["healthz"] else 404, "ok")

    def _log(self, namespace: str, name: str, container: str) -> None:
        found = sorted(
            LOG_ROOT.glob(f"{namespace}_{name}_*/{container or '*'}/0.log"),
            key=lambda file: file.stat().st_mtime,
        )
        self.answer(200, found[-1].read_bytes() if found else b"")


def serve() -> None:
    """Open the port."""
    agent = paths.DATA / "agent"
    context = pki.server_context(agent / "serving-kubelet.crt", agent / "client-ca.crt")
    server = TlsServer(("0.0.0.0", PORT), KubeletHandler, context)
    threading.Thread(target=server.serve_forever, args=(60,), daemon=True).start()
