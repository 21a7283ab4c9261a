"""The client load balancer that RKE2 runs on every node: TCP on loopback to any server."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from . import journal, paths

DIAL_S = 3
DISTRUST_S = 15


class Balancer:
    """Forwards one loopback port to the first of several addresses that answers."""

    def __init__(self, name: str, port: int, seed: str) -> None:
        """Take the list of the last run if there is one.

        Args:
            name: Goes into the name of the file the list is kept in.
            port: Where to listen on 127.0.0.1.
            seed: The address that is known before any server told of others; is kept as the last.
        """
        self._file = paths.DATA / "agent" / "etc" / f"rke2-{name}-load-balancer.json"
        self._port = port
        self._seed = seed
        self._servers = _read(self._file)
        self._failed: dict[str, float] = {}
        self._lock = threading.Lock()

    def candidates(self) -> list[str]:
        """Addresses in the order they are tried."""
        with self._lock:
            servers = list(self._servers)
            failed = {
                address
                for address, at in self._failed.items()
                if time.monotonic() - at < DISTRUST_S
            }
        known = [*servers, *([self._seed] if self._seed not in servers else [])]
        return sorted(known, key=lambda address: address in failed)

    def distrust(self, address: str) -> None:
        """Try an address last for a while: it could not be reached."""
        with self._lock:
            self._failed[address] = time.monotonic()

    def update(self, servers: Sequence[str]) -> None:
        """Learn of the servers there are now; an empty list is none."""
        with self._lock:
            if not servers or list(servers) == self._servers:
                return
            self._servers = list(servers)
        listed = {"ServerURL": f"https://{self._seed}", "ServerAddresses": list(servers)}
        paths.write(self._file, json.dumps(listed, indent=2))
        journal.info(f"Updated load balancer {self._file.stem} server addresses -> {servers}")

    def start(self) -> None:
        """Listen, in a thread of its own."""
        threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True).start()

    async def _serve(self) -> None:
        while True:
            try:
                server = await asyncio.start_server(self._forward, "127.0.0.1", self._port)
            except OSError:
                await asyncio.sleep(1)  # what held the port is about to end
                continue
            async with server:
                await server.serve_forever()

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for address in self.candidates():
            host, _, port = address.rpartition(":")
            try:
                async with asyncio.timeout(DIAL_S):
                    far = await asyncio.open_connection(host.strip("[]"), int(port))
            except (OSError, TimeoutError):
                self.distrust(address)
                continue
            await asyncio.gather(_pump(reader, far[1]), _pump(far[0], writer))
            return
        writer.close()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    with contextlib.suppress(OSError):
        writer.close()


def _read(file: Path) -> list[str]:
    try:
        return [str(address) for address in json.loads(file.read_text())["ServerAddresses"]]
    except (OSError, ValueError, KeyError, TypeError):
        return []
