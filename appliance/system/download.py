"""Large files over HTTP: taken up where they were cut, and in place only with the right sum.

What came of a file so far is in `NAME.part`, and beside it in `NAME.part.json` what tells whether
the server still has the same file. Proxies, .netrc and SSL_CERT_FILE of the environment are
followed: an image is built inside a company's network more often than not.

Source: RFC 9110, 13.1.5 (If-Range) and 14 (range requests).
"""

from __future__ import annotations

import errno
import re
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from threading import Event
from typing import TYPE_CHECKING, Protocol, TypeVar

from appliance.errors import ArtifactRefused, ArtifactUnavailable, FileError
from appliance.system.files import Files
from appliance.system.part import Part, name_of
from appliance.system.watch import Unwatched, Watch

if TYPE_CHECKING:
    import requests

_CHUNK = 64 * 1024
_HEADERS = {"Accept-Encoding": "identity", "Connection": "close"}
_PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})
_NOT_ALLOWED = frozenset({401, 403})
_RANGE = re.compile(r"bytes (?P<first>\d+)-(?P<last>\d+)/(?P<total>\d+|\*)\Z")
_UNSATISFIED = re.compile(r"bytes \*/(?P<total>\d+)\Z")

T = TypeVar("T")


@dataclass(frozen=True)
class Patience:
    """How much a server may try it.

    Attributes:
        connect_s: Until somebody is there.
        silence_s: Without a single byte.
        window_s: After each of these a connection is judged by what came during it.
        slowest: Bytes per second below which another connection is tried.
        tries: In a row that do not bring the file any further.
        first_pause_s: Before the second try; doubled each time.
    """

    connect_s: float = 20
    silence_s: float = 60
    window_s: float = 60
    slowest: int = 2048
    tries: int = 5
    first_pause_s: float = 1


class Downloads(Protocol):
    """Gets files; several threads may use it at once."""

    def look(self, url: str) -> int | None:
        """Return the size that a server tells of a file, None where it tells none.

        Raises:
            ArtifactRefused: It has no such file.
            ArtifactUnavailable: It does not answer, or can not now.
        """

    def read(self, url: str, *, limit: int) -> bytes:
        """Return a small file as it is.

        Raises:
            ArtifactRefused: There is no such file, or it is larger than `limit` bytes.
            ArtifactUnavailable: The server does not answer, or can not now.
        """

    def fetch(self, url: str, to: PurePosixPath, sha256: str) -> None:
        """Have a file in place, with this sum; a part that is there is gone on with.

        Raises:
            ArtifactRefused: There is no such file, or it is another one.
            ArtifactUnavailable: It did not come whole; what came is kept.
            FileError: It can not be written.
        """

    def stop(self) -> None:
        """Let all that is being fetched end soon; what came is kept."""


class _Interrupted(Exception):
    """No whole file came this time.

    Attributes:
        enough_bytes: How much further it must have come for it not to count as in vain.
    """

    def __init__(self, cause: str, enough_bytes: float = 0) -> None:
        """Keep the cause."""
        super().__init__(cause)
        self.enough_bytes = max(enough_bytes, _CHUNK)


class HttpDownloads:
    """Gets files over HTTP."""

    def __init__(
        self, files: Files, watch: Watch | None = None, patience: Patience | None = None
    ) -> None:
        """Write under the root of `files`."""
        self._files = files
        self._watch = watch or Unwatched()
        self._patience = patience or Patience()
        self._stopped = Event()

    def stop(self) -> None:
        """Let all that is being fetched end soon; see `Downloads.stop`."""
        self._stopped.set()

    def look(self, url: str) -> int | None:
        """Return the size that a server tells of a file; see `Downloads.look`.

        The file is asked for and not read: not every server answers what only looks.
        """
        with closing(self._try_again(url, lambda: self._ask(url))) as response:
            return _length(response)

    def read(self, url: str, *, limit: int) -> bytes:
        """Return a small file; see `Downloads.read`."""
        return self._try_again(url, lambda: self._read(url, limit))

    def _read(self, url: str, limit: int) -> bytes:
        data = bytearray()
        with closing(self._ask(url)) as response:
            for chunk in self._chunks(response):
                data += chunk
                if len(data) > limit:
                    raise ArtifactRefused(f"{url}: larger than {limit} bytes")
            expected = _length(response)
        if expected is not None and len(data) < expected:
            raise _Interrupted(f"the connection ended at {len(data)} of {expected} bytes")
        return bytes(data)

    def fetch(self, url: str, to: PurePosixPath, sha256: str) -> None:
        """Have a file in place, with this sum; see `Downloads.fetch`."""
        try:
            with closing(Part(Path(self._files.real(to)), url)) as part:
                self._fill(part, url, sha256)
                part.put_in_place()
        except OSError as error:
            no_space = error.errno in (errno.ENOSPC, errno.EDQUOT)
            hint = "make room, then run it again: what came is kept" if no_space else None
            raise FileError(f"{to}: can not be written: {error.strerror}", hint=hint) from error
        finally:
            self._watch.ended(name_of(url))

    def _fill(self, part: Part, url: str, sha256: str) -> None:
        for is_last in (False, True):
            if part.sum != sha256:
                self._try_again(url, lambda: self._go_on(part, url, sha256), part)
            if part.sum == sha256:
                return
            found, size = part.sum, part.size
            # What came in parts may be of two files; what came in one go is what the server has.
            is_whole = not part.was_resumed
            part.restart("")
            if is_whole or is_last:
                raise ArtifactRefused(
                    f"{url}: expected sha256 {sha256}, found {found} ({size} bytes)",
                    hint="either the server has another file, or the lock has the sum of another",
                )

    def _try_again(self, url: str, call: Callable[[], T], part: Part | None = None) -> T:
        """Call until it ends well, or several times in a row bring nothing new."""
        failures, furthest = 0, part.size if part else 0
        while True:
            try:
                return call()
            except _Interrupted as error:
                reached = part.size if part else 0
                failures = 1 if reached >= furthest + error.enough_bytes else failures + 1
                furthest = max(furthest, reached)
                if failures >= self._patience.tries:
                    is_kept = part and part.size and part.validator
                    kept = f"; {reached} bytes of it are kept" if is_kept else ""
                    raise ArtifactUnavailable(
                        f"{url}: {error} (tried {failures} times{kept})",
                        hint="run it again to go on, or name another --source",
                    ) from error
            pause_s = min(self._patience.first_pause_s * 2 ** (failures - 1), 30.0)
            if self._stopped.wait(pause_s):
                raise ArtifactUnavailable(f"{url}: stopped; what came of it is kept")

    def _go_on(self, part: Part, url: str, sha256: str) -> None:
        """Have one connection bring what is missing."""
        offset = part.size if part.validator else 0
        headers = {"Range": f"bytes={offset}-", "If-Range": part.validator} if offset else {}
        with closing(self._ask(url, headers)) as response:
            if response.status_code == 416:
                # The whole file is there already, or the server has another one now.
                if _total_of(response, _UNSATISFIED) != offset:
                    part.restart("")
                    raise _Interrupted("the server has another file now")
                return
            expected = self._begin(part, response, offset)
            self._watch.moved(part.name, part.size, expected)
            try:
                for chunk in self._chunks(response):
                    part.add(chunk)
                    self._watch.moved(part.name, part.size, expected)
                short = expected is not None and part.size < expected
                if short:
                    raise _Interrupted(f"the connection ended at {part.size} of {expected} bytes")
            except _Interrupted:
                # A server that lies about the length has given all of it all the same.
                if part.sum != sha256:
                    raise

    def _begin(self, part: Part, response: requests.Response, offset: int) -> int | None:
        """Make the part ready for what comes, and return how large the whole is to be."""
        if response.status_code == 206:
            found = _RANGE.match(response.headers.get("Content-Range", ""))
            if not offset or not found or int(found["first"]) != offset:
                part.restart("")
                raise _Interrupted("the server sends another range than was asked for")
            part.was_resumed = True
            return int(found["last"]) + 1
        part.restart(_validator(response))
        return _length(response)

    def _ask(self, url: str, headers: dict[str, str] | None = None) -> requests.Response:
        import requests  # it takes 0.1 s, which nothing but an image's build needs

        from appliance.system.transfer import SystemTrust, cause_of

        session = requests.Session()
        session.mount("https://", SystemTrust())
        try:
            response = session.get(
                url,
                headers={**_HEADERS, **(headers or {})},
                timeout=(self._patience.connect_s, self._patience.silence_s),
                stream=True,
            )
        except requests.TooManyRedirects as error:
            raise ArtifactRefused(f"{url}: redirected without end") from error
        except (requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema) as error:
            raise ArtifactRefused(f"{url}: not an address to fetch from: {error}") from error
        except requests.RequestException as error:
            raise _Interrupted(cause_of(error)) from error
        status = response.status_code
        if status in (200, 206) or (status == 416 and headers):
            return response
        response.close()
        if status in _PASSING:
            raise _Interrupted(f"HTTP status {status}")
        raise ArtifactRefused(f"{url}: HTTP status {status} {response.reason}", hint=_hint(status))

    def _chunks(self, response: requests.Response) -> Iterator[bytes]:
        """Yield what comes as it was sent: some servers call an archive an encoding."""
        from urllib3.exceptions import HTTPError

        patience = self._patience
        since, came = time.monotonic(), 0
        while True:
            if self._stopped.is_set():
                raise ArtifactUnavailable(f"{response.url}: stopped; what came of it is kept")
            try:
                chunk = response.raw.read1(_CHUNK, decode_content=False)
            except (HTTPError, OSError) as error:
                raise _Interrupted(_cause(error)) from error
            if not chunk:
                return
            yield chunk
            came += len(chunk)
            elapsed = time.monotonic() - since
            if elapsed >= patience.window_s:
                enough_bytes = patience.slowest * elapsed
                if came < enough_bytes:
                    told = f"only {came} bytes came in {elapsed:.0f} s"
                    raise _Interrupted(told, enough_bytes)
                since, came = time.monotonic(), 0


def _hint(status: int) -> str:
    if status in _NOT_ALLOWED:
        return (
            "credentials come from ~/.netrc, or the file that NETRC names;"
            " some servers say so of what they have not got"
        )
    return "is the version right, and does the mirror hold it? --source names another one"


def _validator(response: requests.Response) -> str:
    """Return what If-Range may hold: weak tags do not tell that content is the same."""
    tag = response.headers.get("ETag", "")
    if tag and not tag.startswith("W/"):
        return tag
    return response.headers.get("Last-Modified", "")


def _length(response: requests.Response) -> int | None:
    text = response.headers.get("Content-Length", "")
    return int(text) if text.isdigit() else None


def _total_of(response: requests.Response, expression: re.Pattern[str]) -> int | None:
    found = expression.match(response.headers.get("Content-Range", ""))
    return int(found["total"]) if found else None


def _cause(error: BaseException) -> str:
    """Say in a few words why a connection broke."""
    import requests

    from appliance.system.transfer import cause_of

    broken = requests.ConnectionError()
    broken.__cause__ = error
    return cause_of(broken)
