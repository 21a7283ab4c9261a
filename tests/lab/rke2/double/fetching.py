"""What RKE2 would fetch: with the knob `fetch` it is tried, and whatever comes of it is ignored."""

from __future__ import annotations

import socket
import threading
from urllib.parse import urlsplit

from .images import find_image, full_name
from .journal import event
from .knobs import Knobs

_HTTPS = 443
_PATIENCE_S = 5
_HUB, _HUB_SERVER = "docker.io", "registry-1.docker.io"
_tried: set[str] = set()


def want_image(knobs: Knobs, name: str) -> None:
    """Turn to an image's registry, once, where no archive of this node has it."""
    if not knobs.get("fetch") or name in _tried or find_image(name) is not None:
        return
    _tried.add(name)
    host = full_name(name).partition("/")[0]
    _reach(_HUB_SERVER if host == _HUB else host, name)


def want_chart(knobs: Knobs, repo: str) -> None:
    """Turn to a repository of charts."""
    if knobs.get("fetch") and repo:
        _reach(urlsplit(repo).hostname or repo, repo)


def _reach(host: str, what: str) -> None:
    event("fetch", host=host, what=what)
    threading.Thread(target=_try, args=(host,), daemon=True).start()


def _try(host: str) -> None:
    try:
        socket.create_connection((host, _HTTPS), timeout=_PATIENCE_S).close()
    except OSError:
        event("fetch.failed", host=host)
