"""Command line of a set of benchmarks: runs them, shows a table of each, may write a document."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from bench.common import document
from bench.common.table import Section
from tests.lab.basics import LabError, inside_box

Benchmarks = Mapping[str, Callable[[int], Section]]


def run(package: str, benchmarks: Benchmarks, arguments: Sequence[str] | None = None) -> int:
    """Run what is asked for.

    Args:
        package: Where the benchmarks are, as `python3 -m` wants it.
        benchmarks: Name to what measures so many times.
        arguments: Those of the process if None.

    Returns:
        0 if every bound holds, 1 if one does not or a benchmark broke off, 2 outside the box.
    """
    parser = argparse.ArgumentParser(prog=f"python3 -m {package}", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=sorted(benchmarks), metavar="NAME")
    parser.add_argument("--repeat", type=int, default=5, metavar="N", help="5 unless given")
    parser.add_argument("--write", type=Path, metavar="FILE", help="document to put the tables in")
    options = parser.parse_args(arguments)
    if not inside_box():
        init = f"{package.replace('.', '/')}/__init__.py"
        print(f"bench: runs in the lab's box only; see {init}", file=sys.stderr)
        return 2
    sections: list[Section] = []
    broken = 0
    for name, measure in benchmarks.items():
        if options.only and name not in options.only:
            continue
        started = time.monotonic()
        try:
            section = measure(max(1, options.repeat))
        except LabError as error:
            print(f"bench: {name} broke off: {error}", file=sys.stderr)
            broken += 1
            continue
        sections.append(section)
        print(f"\n{section.to_text()}\n({name}: {time.monotonic() - started:.0f} s)\n", flush=True)
    if options.write:
        document.write(options.write, sections)
    misses = [row.what for section in sections for row in section.rows if row.holds is False]
    if misses:
        print(f"bounds that do not hold: {'; '.join(misses)}")
    return 1 if misses or broken else 0
