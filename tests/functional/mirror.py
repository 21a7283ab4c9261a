"""A mirror of files over HTTP that can be as bad as mirrors get."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from urllib.parse import unquote

_STEP = 16 * 1024


@dataclass
class Badness:
    """What a mirror does to one file.

    Attributes:
        cuts: After how many bytes of each answer the connection ends, one after the other; a whole
            answer when none is left.
        claims: How much more than there is it says there is (or less).
        bytes_per_s: How fast it sends; None for as fast as can be.
        status: Answered instead of the file, and how often.
        has_ranges: Whether it takes up where it was asked to.
        has_tag: Whether it tells one content from another.
        encoding: What it calls the content, which it sends as it is all the same.
    """

    cuts: list[int] = field(default_factory=list)
    claims: int = 0
    bytes_per_s: float | None = None
    status: int = 0
    status_times: int = 0
    has_ranges: bool = True
    has_tag: bool = True
    encoding: str = ""


@dataclass
class Mirror:
    """Files by path, and what was asked for.

    Attributes:
        asked: The path and the Range header of every request, in order.
        sent: How many bytes of bodies were sent in all.
        at_once: The most requests that were answered at one time.
    """

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    bad: dict[str, Badness] = field(default_factory=dict)
    asked: list[tuple[str, str]] = field(default_factory=list)
    sent: int = 0
    at_once: int = 0
    now: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def of(self, path: str) -> Badness:
        """Return what it does to a file, to change it."""
        return self.bad.setdefault(path, Badness())

    def forget(self) -> None:
        """Forget what was asked for."""
        with self.lock:
            self.asked.clear()
            self.sent = self.at_once = 0

    def bodies(self) -> list[str]:
        """Return the paths that were asked for, each once."""
        return sorted({path for path, _ in self.asked})


@contextmanager
def running_mirror(files: dict[str, bytes] | None = None) -> Iterator[Mirror]:
    """Serve files on an own port until the end."""
    mirror = Mirror(files=dict(files or {}))

    class Handler(_Handler):
        served = mirror

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    mirror.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield mirror
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    served: Mirror

    def log_message(self, format: str, *args: object) -> None:  # the base's name
        """Say nothing."""

    def do_GET(self) -> None:
        mirror, path = self.served, unquote(self.path)
        with mirror.lock:
            mirror.asked.append((path, self.headers.get("Range", "")))
            mirror.now += 1
            mirror.at_once = max(mirror.at_once, mirror.now)
        try:
            with suppress(BrokenPipeError, ConnectionResetError):
                self._answer(mirror, path)
        finally:
            self.close_connection = True
            with mirror.lock:
                mirror.now -= 1

    def _answer(self, mirror: Mirror, path: str) -> None:
        bad = mirror.of(path)
        if bad.status_times:
            bad.status_times -= 1
            self._send_status(bad.status)
            return
        data = mirror.files.get(path)
        if data is None:
            self._send_status(404)
            return
        tag = f'"{hashlib.sha256(data).hexdigest()[:16]}"' if bad.has_tag else ""
        first = self._first(data, tag, bad)
        if first >= len(data) > 0:
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(data)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self._send_head(data, first, tag, bad)
        self._send_body(mirror, data[first:], bad)

    def _first(self, data: bytes, tag: str, bad: Badness) -> int:
        wanted = self.headers.get("Range", "")
        if not wanted or not bad.has_ranges or self.headers.get("If-Range") != tag:
            return 0
        return int(wanted.removeprefix("bytes=").partition("-")[0])

    def _send_head(self, data: bytes, first: int, tag: str, bad: Badness) -> None:
        self.send_response(206 if first else 200)
        if first:
            self.send_header("Content-Range", f"bytes {first}-{len(data) - 1}/{len(data)}")
        if tag:
            self.send_header("ETag", tag)
        if bad.encoding:
            self.send_header("Content-Encoding", bad.encoding)
        self.send_header("Content-Length", str(len(data) - first + bad.claims))
        self.end_headers()

    def _send_body(self, mirror: Mirror, data: bytes, bad: Badness) -> None:
        end = min(bad.cuts.pop(0), len(data)) if bad.cuts else len(data)
        ends = [*range(0, end, _STEP), end]
        for start, stop in pairwise(ends):
            self.wfile.write(data[start:stop])
            with mirror.lock:
                mirror.sent += stop - start
            if bad.bytes_per_s:
                time.sleep((stop - start) / bad.bytes_per_s)

    def _send_status(self, status: int) -> None:
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()
