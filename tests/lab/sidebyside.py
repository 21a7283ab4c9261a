"""Runs the files of lab tests side by side, each in a box of its own.

Nodes mostly wait: for elections, for RKE2, for each other. So several boxes on two cores take much
less time than one after the other.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

from tests.lab.bake import Cache, Image, bake
from tests.lab.basics import REPOSITORY, LabError

BOXES = 3

# Those that take longest begin first, so that none of them is left alone at the end.
_LONGEST = (
    "test_boot.py",
    "test_leaving.py",
    "test_cluster.py",
    "test_cluster_failures.py",
    "test_components.py",
    "test_gateway_runs.py",
    "test_cleaner.py",
)
_COUNT = re.compile(r"(\d+) (passed|failed|error|skipped|xfailed)")
_NOTHING_COLLECTED = 5


@dataclass(frozen=True)
class FileRun:
    """What became of one file's tests."""

    file: Path
    status: int
    output: str
    took_s: float

    @property
    def is_well(self) -> bool:
        """Whether no test failed."""
        return self.status in (0, _NOTHING_COLLECTED)

    @property
    def summary(self) -> str:
        """The last line of pytest's report."""
        lines = [line for line in self.output.splitlines() if line.strip()]
        return lines[-1].strip("= ") if lines else f"ended with status {self.status}"


def run_lab_tests(arguments: Sequence[str] = ()) -> int:
    """Bake, run the files of lab tests, and return the exit status.

    Args:
        arguments: Files to run, all where there is none; what else there is goes to pytest.
    """
    # Every box gets this image, whatever happens to the working tree in the meantime.
    image = bake()
    held = Cache.default().hold()
    chosen = [Path(one).resolve() for one in arguments if one.endswith(".py")]
    options = [one for one in arguments if not one.endswith(".py")]
    started = time.monotonic()
    runs = []
    with ThreadPoolExecutor(BOXES) as pool:
        waiting = [pool.submit(_run_file, file, options, image) for file in chosen or _files()]
        for ended in as_completed(waiting):
            run = ended.result()
            runs.append(run)
            print(f"{run.file.relative_to(REPOSITORY)}: {run.summary}", flush=True)
            if not run.is_well:
                print(run.output, flush=True)
    os.close(held)
    print(f"lab: {_counts(runs)} in {time.monotonic() - started:.0f} s, {BOXES} boxes side by side")
    return 0 if all(run.is_well for run in runs) else 1


def _files() -> list[Path]:
    """List the files with lab tests, those that take longest first.

    Raises:
        LabError: There are none.
    """
    every = sorted(Path(REPOSITORY, "tests").rglob("test_*.py"))
    found = [file for file in every if "mark.lab" in file.read_text(encoding="utf-8")]
    if not found:
        raise LabError("there are no lab tests")
    order = {name: place for place, name in enumerate(_LONGEST)}
    return sorted(found, key=lambda file: order.get(file.name, len(order)))


def _run_file(file: Path, arguments: Sequence[str], image: Image) -> FileRun:
    pytest = [sys.executable, "-m", "pytest", "-m", "lab", "-p", "no:cacheprovider", str(file)]
    command = [sys.executable, "-m", "tests.lab", "box", "--", *pytest, *arguments]
    started = time.monotonic()
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as output:
        ended = subprocess.run(
            ["setpriv", "--pdeathsig", "KILL", *command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=REPOSITORY,
            env={**os.environ, "ONEKE_LAB_IMAGE": image.keys},
            check=False,
        )
        output.seek(0)
        return FileRun(file, ended.returncode, output.read(), time.monotonic() - started)


def _counts(runs: Sequence[FileRun]) -> str:
    """Add up what the files' reports count."""
    total: dict[str, int] = {}
    for run in runs:
        for number, what in _COUNT.findall(run.summary):
            total[what] = total.get(what, 0) + int(number)
    return ", ".join(f"{number} {what}" for what, number in total.items()) or "no tests"
