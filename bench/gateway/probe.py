"""A client that asks an address again and again on new connections, and notes every try.

A program of its own, for a host's network; every line it writes is begin, end (both of the
monotonic clock, which all processes of the machine share), `ok` or `-`, and what was answered or
went wrong. `Probe` starts it and reads that.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from tests.lab.network import Host

_REQUEST = b"GET / HTTP/1.0\r\nHost: bench\r\n\r\n"


@dataclass(frozen=True)
class Try:
    """One try: a connection, a request, an answer or none."""

    begin: float
    end: float
    is_ok: bool
    said: str


class Probe:
    """A running client."""

    def __init__(self, path: Path) -> None:
        """Read what the client notes in a file."""
        self._path = path

    def tries(self) -> list[Try]:
        """All that is over, in the order of their begins."""
        found = []
        for line in self._path.read_text().splitlines():
            words = line.split(" ", 3)
            if len(words) == 4:
                found.append(Try(float(words[0]), float(words[1]), words[2] == "ok", words[3]))
        return sorted(found, key=lambda one: one.begin)


@contextmanager
def probing(
    host: Host, address: str, port: int, *, every_s: float, timeout_s: float
) -> Iterator[Probe]:
    """Let a client ask from a host for the time of a with block, once it has begun.

    Args:
        host: Where the client is.
        address: Whom it asks.
        port: Where.
        every_s: A new try begins this long after the one before, whether that is over or not.
        timeout_s: When a try counts as failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tries"
        argv = [sys.executable, "-m", "bench.gateway.probe", address, str(port), str(path)]
        client = host.start([*argv, "--every", str(every_s), "--timeout", str(timeout_s)])
        client.wait_ready()
        try:
            yield Probe(path)
        finally:
            client.stop()


async def _try_once(address: str, port: int, timeout_s: float, notes: TextIO) -> None:
    begin = time.monotonic()
    writer = None
    try:
        async with asyncio.timeout(timeout_s):
            reader, writer = await asyncio.open_connection(address, port)
            writer.write(_REQUEST)
            answer = await reader.read()
        status, _, rest = answer.partition(b"\r\n")
        is_ok = b" 200 " in status + b" "
        said = rest.rpartition(b"\r\n\r\n")[2] if is_ok else status or b"closed without an answer"
    except TimeoutError:
        is_ok, said = False, b"time-out"
    except OSError as error:
        is_ok, said = False, os.strerror(error.errno or 0).encode()
    finally:
        if writer is not None:
            writer.transport.abort()
    text = " ".join(said.decode(errors="replace").split()) or "nothing"
    notes.write(f"{begin:.4f} {time.monotonic():.4f} {'ok' if is_ok else '-'} {text}\n")


async def _ask(options: argparse.Namespace) -> None:
    running: set[asyncio.Task[None]] = set()
    with Path(options.notes).open("w", buffering=1) as notes:
        print("ready", flush=True)
        due = time.monotonic()
        while True:
            task = asyncio.create_task(
                _try_once(options.address, options.port, options.timeout, notes)
            )
            running.add(task)
            task.add_done_callback(running.discard)
            due = max(due + options.every, time.monotonic() - options.every)
            await asyncio.sleep(max(0.0, due - time.monotonic()))


def main() -> None:
    """Ask until killed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("address")
    parser.add_argument("port", type=int)
    parser.add_argument("notes")
    parser.add_argument("--every", type=float, required=True)
    parser.add_argument("--timeout", type=float, required=True)
    with suppress(KeyboardInterrupt):
        asyncio.run(_ask(parser.parse_args()))


if __name__ == "__main__":
    main()
