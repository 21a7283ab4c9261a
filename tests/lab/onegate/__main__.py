"""Runs the emulator as a process, until SIGTERM or SIGINT."""

from __future__ import annotations

import argparse
import json
import signal
import sys
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from tests.lab.oneflow.operations import FlowOperations
from tests.lab.oneflow.ticker import Ticker
from tests.lab.onegate.control import ControlServer
from tests.lab.onegate.faults import RequestLog
from tests.lab.onegate.operations import Operations
from tests.lab.onegate.server import Emulator, load_tls
from tests.lab.onegate.state import Cloud
from tests.lab.onegate.template import Version


def main(argv: Sequence[str] | None = None) -> int:
    """Run until told to stop; the exit status is then 0."""
    arguments = _parse_arguments(argv)
    told_to_stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: told_to_stop.set())
    emulator = Emulator(
        Cloud(),
        arguments.version,
        _parse_address(arguments.listen),
        tls=load_tls(arguments.tls_cert, arguments.tls_key) if arguments.tls_cert else None,
        log=RequestLog(arguments.log),
    )
    operations = Operations(emulator)
    flow_operations = FlowOperations(emulator.cloud)
    if arguments.state:
        operations.load(json.loads(arguments.state.read_text(encoding="utf-8")))
    with ExitStack() as stack:
        emulator.start()
        stack.callback(emulator.stop)
        ticker = Ticker(emulator.faults, flow_operations.machines, flow_operations.flow)
        ticker.start()
        stack.callback(ticker.stop)
        if arguments.control:
            control = ControlServer(arguments.control, operations, flow_operations)
            control.start()
            stack.callback(control.stop)
        print(f"OneGate {emulator.version} at {emulator.base_url}", flush=True)
        told_to_stop.wait()
    return 0


def _parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.lab.onegate", description=__doc__)
    parser.add_argument(
        "--listen", required=True, metavar="ADDRESS:PORT", help="port 0: any free one"
    )
    parser.add_argument("--version", type=Version, choices=list(Version), default=Version.V7_4)
    parser.add_argument("--control", type=Path, metavar="SOCKET", help="unix socket for Control")
    parser.add_argument("--state", type=Path, metavar="FILE", help="services and VMs to begin with")
    parser.add_argument("--tls-cert", type=Path, metavar="FILE", help="speak HTTPS with this")
    parser.add_argument("--tls-key", type=Path, metavar="FILE", help="the key of --tls-cert")
    parser.add_argument("--log", type=Path, metavar="FILE", help="requests as JSON lines")
    arguments = parser.parse_args(argv)
    if bool(arguments.tls_cert) != bool(arguments.tls_key):
        parser.error("--tls-cert and --tls-key belong together")
    return arguments


def _parse_address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    return host.strip("[]"), int(port)


if __name__ == "__main__":
    sys.exit(main())
