"""Command line: runs the benchmarks, shows a table of each, and may write them into a document."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from bench.gateway import churn, discovery, document, failover, scale
from bench.gateway.table import Section
from tests.lab.basics import LabError, inside_box

BENCHMARKS: dict[str, Callable[[int], Section]] = {
    "failover": failover.measure,
    "discovery": discovery.measure,
    "churn": churn.measure,
    "scale": scale.measure,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is asked for.

    Returns:
        0 if every bound holds, 1 if one does not or a benchmark broke off, 2 outside the box.
    """
    parser = argparse.ArgumentParser(prog="python3 -m bench.gateway", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=sorted(BENCHMARKS), metavar="NAME")
    parser.add_argument("--repeat", type=int, default=5, metavar="N", help="5 unless given")
    parser.add_argument("--write", type=Path, metavar="FILE", help="document to put the tables in")
    options = parser.parse_args(arguments)
    if not inside_box():
        print("bench: runs in the lab's box only; see bench/gateway/__init__.py", file=sys.stderr)
        return 2
    sections: list[Section] = []
    broken = 0
    for name, measure in BENCHMARKS.items():
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


if __name__ == "__main__":
    sys.exit(main())
