"""What processes of a node cost, read from outside so that looking costs the node nothing."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from tests.lab.basics import LabError
from tests.lab.node import Node

_TICK_S = 1 / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class ProcessOf:
    """A process of a node.

    Attributes:
        inside: Its id as the node sees it.
        outside: As the box does.
    """

    inside: int
    outside: int
    name: str
    command: str

    def cpu_s(self) -> float:
        """Processor time of its threads so far, in nanosecond steps."""
        folder = Path(f"/proc/{self.outside}/task")
        spent = [int((task / "schedstat").read_text().split()[0]) for task in folder.iterdir()]
        return sum(spent) / 1e9

    def children_cpu_s(self) -> float:
        """Processor time of children that are over, in steps of a clock tick."""
        stat = Path(f"/proc/{self.outside}/stat").read_text().rpartition(")")[2].split()
        return (int(stat[13]) + int(stat[14])) * _TICK_S

    def pss_mib(self) -> float:
        """Memory it accounts for: its own, and its share of what it shares."""
        return self._memory("smaps_rollup", "Pss:")

    def own_mib(self) -> float:
        """Memory that no file is behind; what else runs on the machine does not touch it."""
        return self._memory("smaps_rollup", "Anonymous:")

    def peak_rss_mib(self) -> float:
        """The most memory it ever had."""
        return self._memory("status", "VmHWM:")

    def _memory(self, file: str, key: str) -> float:
        for line in Path(f"/proc/{self.outside}/{file}").read_text().splitlines():
            if line.startswith(key):
                return int(line.split()[1]) / 1024
        raise LabError(f"process {self.inside}: no {key} in {file}")


def processes_of(node: Node) -> list[ProcessOf]:
    """All processes of a node."""
    namespace = node.run(["readlink", "/proc/1/ns/pid"]).stdout.strip()
    found = []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            if str((folder / "ns" / "pid").readlink()) != namespace:
                continue
            status = (folder / "status").read_text().splitlines()
            inside = next(line for line in status if line.startswith("NSpid:")).split()[-1]
            command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
            name = (folder / "comm").read_text().strip()
        except OSError:
            continue
        found.append(ProcessOf(int(inside), int(folder.name), name, command))
    return found


def daemon_of(node: Node) -> ProcessOf:
    """The daemon that follows OneGate."""
    return _one(node, "oneke-agent backends")


def _one(node: Node, command: str) -> ProcessOf:
    found = [process for process in processes_of(node) if process.command.endswith(command)]
    if len(found) != 1:
        raise LabError(f"{node.name}: {len(found)} processes `{command}`, expected one")
    return found[0]


def haproxy_of(node: Node) -> list[ProcessOf]:
    """HAProxy's processes, the oldest first."""
    found = [process for process in processes_of(node) if process.name == "haproxy"]
    return sorted(found, key=lambda process: process.inside)


def names_of(node: Node) -> Counter[str]:
    """How many processes of each name a node has."""
    return Counter(process.name for process in processes_of(node))
