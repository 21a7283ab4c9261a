"""A file that is not whole yet: `NAME.part`, and in `NAME.part.json` what it is a part of."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit


class Part:
    """What came of a file so far, and of which file it is.

    Attributes:
        name: What people call the file.
        validator: What the server calls this very content; empty where it tells nothing.
        was_resumed: Whether it is of more than one connection.
    """

    def __init__(self, whole: Path, url: str) -> None:
        """Take up what is there of this address."""
        self._whole = whole
        self._url = url
        self._path = Path(part_of(PurePosixPath(whole)))
        self._notes = whole.with_name(f"{whole.name}.part.json")
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._digest = hashlib.sha256()
        self.name = name_of(url)
        self.validator = self._known_validator()
        self.was_resumed = False
        self.size = 0
        self._take_up()
        self._file = self._path.open("ab")

    def _known_validator(self) -> str:
        try:
            notes = json.loads(self._notes.read_text(encoding="utf-8"))
            return str(notes["validator"]) if notes["url"] == self._url else ""
        except (OSError, ValueError, KeyError, TypeError):
            return ""

    def _take_up(self) -> None:
        if not self.validator or not self._path.is_file():
            self.validator = ""
            self._path.unlink(missing_ok=True)
            return
        with self._path.open("rb") as file:
            while data := file.read(1024 * 1024):
                self._digest.update(data)
                self.size += len(data)
        self.was_resumed = self.size > 0

    @property
    def sum(self) -> str:
        """The sum of what is there."""
        return self._digest.hexdigest()

    def restart(self, validator: str) -> None:
        """Throw away what is there, for content that the server calls so."""
        self._file.truncate(0)
        self._digest = hashlib.sha256()
        self.size = 0
        self.was_resumed = False
        self.validator = validator
        self._notes.write_text(json.dumps({"url": self._url, "validator": validator}) + "\n")

    def add(self, chunk: bytes) -> None:
        """Append what came."""
        written = 0
        while written < len(chunk):
            written += os.write(self._file.fileno(), chunk[written:])
        self._digest.update(chunk)
        self.size += len(chunk)

    def put_in_place(self) -> None:
        """Give the file its name: it is whole."""
        os.fsync(self._file.fileno())
        self._path.replace(self._whole)
        self._notes.unlink(missing_ok=True)

    def close(self) -> None:
        """Leave what is there for later, if anybody can tell later what it is a part of."""
        self._file.close()
        if self._path.exists() and not (self.validator and self._path.stat().st_size):
            self._path.unlink()
            self._notes.unlink(missing_ok=True)


def part_of(whole: PurePosixPath) -> PurePosixPath:
    """Return where what came of a file is until it is whole."""
    return whole.with_name(f"{whole.name}.part")


def name_of(url: str) -> str:
    """Return the last part of an address, as people call what is there."""
    return PurePosixPath(urlsplit(url).path).name
