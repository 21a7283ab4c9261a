"""The document with the figures: each benchmark's part is replaced, what people wrote stays."""

from __future__ import annotations

import os
import platform
import re
import time
from collections.abc import Sequence
from pathlib import Path

from bench.common.table import Section

_INTRODUCTION = """\
# Measurements

Figures of real gateways and whole services in the lab (`tests/lab`): systemd containers that behave
like VMs, on one machine, with emulators of OneGate and OneFlow and a double of RKE2. They are made
by `bench/gateway` and `bench/service`; the machine should do nothing else:

    python3 -m tests.lab box --bake -- .venv/bin/python -m bench.gateway \\
        --write docs/measurements.md
    python3 -m tests.lab box --bake -- .venv/bin/python -m bench.service \\
        --write docs/measurements.md

A bound is met by the median. Tests assert far looser bounds (6 s for a failover), because they run
on machines that are busy.
"""


def write(path: Path, sections: Sequence[Section]) -> None:
    """Put sections in the place of those with their titles, before what people wrote."""
    old = path.read_text() if path.exists() else ""
    parts = {_title(part): part for part in re.split(r"^(?=## )", old, flags=re.MULTILINE)[1:]}
    date = time.strftime("%Y-%m-%d", time.gmtime())
    for section in sections:
        parts[section.title] = section.to_markdown(f"{date}, {_machine()}")
    ordered = sorted(parts.values(), key=lambda part: "\nMeasured on " not in part)
    path.write_text("\n".join([_INTRODUCTION, *(part.strip() + "\n" for part in ordered)]))


def _title(part: str) -> str:
    return part.splitlines()[0].removeprefix("## ")


def _machine() -> str:
    kernel = ".".join(platform.release().split("-")[0].split(".")[:2])
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"a virtual machine with {os.cpu_count()} cores and {memory:.0f} GiB, Linux {kernel}"
