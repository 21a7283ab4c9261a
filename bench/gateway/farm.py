"""Many servers on one cheap host: every address of a network is its own, every port answers alike.

A program of its own. A request `GET` is answered with the address that was asked; any other line is
sent back behind that address, for as long as the connection is held.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from contextlib import suppress

from tests.lab.context import PRIVATE_VIP
from tests.lab.lab import Lab
from tests.lab.network import Host, ip
from tests.lab.node import Node

NETWORK = "172.21.0.0/16"
PORTS = (80, 443, 6443, 9345, 32080, 32443)
_ADDRESS = "172.20.0.60"


def server_address(number: int) -> str:
    """Address of server number `number`, from 0."""
    return f"172.21.{number // 250}.{number % 250 + 1}"


def start_farm(lab: Lab) -> Host:
    """Make the host and let it listen."""
    farm = lab.host("farm", network="private", address=f"{_ADDRESS}/24", gateway=PRIVATE_VIP)
    ip("route", "add", "local", NETWORK, "dev", "lo", namespace=farm.namespace)
    server = farm.start([sys.executable, "-m", "bench.gateway.farm", *map(str, PORTS)])
    server.wait_ready()
    return farm


def show_way(node: Node) -> None:
    """Let a gateway reach the farm's servers, which are on no network of its own."""
    node.run(["ip", "route", "replace", NETWORK, "via", _ADDRESS])


class _Server(asyncio.Protocol):
    """One connection; a health check is one that is closed at once."""

    _transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember where to answer."""
        if isinstance(transport, asyncio.Transport):
            self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Answer what fits into one packet, as everything here does."""
        own: tuple[str, int] = self._transport.get_extra_info("sockname")
        name = f"{own[0]}:{own[1]}".encode()
        if data.startswith(b"GET "):
            head = b"HTTP/1.0 200 OK\r\nContent-Length: %d\r\n\r\n" % len(name)
            self._transport.write(head + name)
            self._transport.close()
        else:
            self._transport.write(name + b" " + data)


async def _serve(ports: list[int]) -> None:
    loop = asyncio.get_running_loop()
    servers = [
        await loop.create_server(_Server, "0.0.0.0", port, backlog=1024, reuse_address=True)
        for port in ports
    ]
    print("ready", flush=True)
    await asyncio.gather(*(server.serve_forever() for server in servers))


def main() -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("ports", type=int, nargs="+")
    with suppress(KeyboardInterrupt):
        asyncio.run(_serve(parser.parse_args().ports))


if __name__ == "__main__":
    main()
