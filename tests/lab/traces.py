"""Where a secret has left traces: command lines while nodes run, and files of nodes."""

from __future__ import annotations

import mmap
import os
import stat
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.lab.box import STATE
from tests.lab.node import Node

_EVERY_S = 0.02
_IN_MEMORY = ("run", "tmp", "dev/shm")


class CommandLines:
    """Collects the command lines of all processes of the box, those of all nodes among them.

    What lives for less than a few hundredths of a second may escape it.
    """

    def __init__(self) -> None:
        self._seen: set[bytes] = set()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="command lines", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stopping.set()
        self._thread.join()

    def holding(self, secrets: Sequence[str]) -> list[str]:
        """All that hold one of the secrets."""
        wanted = [secret.encode() for secret in secrets]
        return [
            line.replace(b"\0", b" ").decode(errors="replace")
            for line in list(self._seen)
            if any(secret in line for secret in wanted)
        ]

    def _watch(self) -> None:
        while not self._stopping.wait(_EVERY_S):
            for entry in os.scandir("/proc"):
                if not entry.name.isdigit():
                    continue
                try:
                    self._seen.add(Path(entry, "cmdline").read_bytes())
                except OSError:
                    continue


def files_holding(node: Node, secrets: Sequence[str]) -> dict[str, int]:
    """Permissions of all files of a running node that hold one of the secrets, by path.

    Looked at is what the node has written, on its disk and in memory; the image is left out.
    """
    wanted = [secret.encode() for secret in secrets]
    folder = STATE / "nodes" / node.name
    init = (folder / "init.pid").read_text()
    places = {folder / "upper": Path("/")}
    places |= {Path(f"/proc/{init}/root/{name}"): Path("/", name) for name in _IN_MEMORY}
    return {
        str(shown / path.relative_to(place)): mode
        for place, shown in places.items()
        for path, mode in _regular_files(place)
        if _holds(path, wanted)
    }


def _regular_files(place: Path) -> Iterator[tuple[Path, int]]:
    for folder, _, names in os.walk(place):
        for name in names:
            path = Path(folder, name)
            try:
                status = path.lstat()
            except OSError:  # it went in the meantime
                continue
            if stat.S_ISREG(status.st_mode):
                yield path, stat.S_IMODE(status.st_mode)


def _holds(path: Path, wanted: Sequence[bytes]) -> bool:
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as text:
            return any(text.find(secret) >= 0 for secret in wanted)
    except (OSError, ValueError):  # it went in the meantime, or is empty
        return False
