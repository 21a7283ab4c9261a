"""`python -m tests.conformance [DIR]`: run every vector of a folder and print what became of it."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tests.conformance.areas import AREAS
from tests.conformance.deviations import write_deviations
from tests.conformance.runner import Verdict, failures, run, table, unknown_areas
from tests.conformance.vectors import DEFAULT_FOLDER, VectorError, load_vectors


def main(arguments: list[str] | None = None) -> int:
    """Run the vectors; 1 if one failed, 2 if there is nothing to run."""
    parser = argparse.ArgumentParser(prog="python -m tests.conformance", description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=DEFAULT_FOLDER, metavar="DIR")
    parser.add_argument("--area", choices=sorted(AREAS), help="run this area alone")
    parser.add_argument(
        "--write-deviations",
        type=Path,
        metavar="FILE",
        help="write the declared deviations, run nothing",
    )
    parser.add_argument("--verbose", action="store_true", help="show deviating vectors too")
    options = parser.parse_args(arguments)
    if options.write_deviations:
        options.write_deviations.write_text(write_deviations(), encoding="utf-8")
        return 0
    try:
        vectors = load_vectors(options.folder)
    except VectorError as error:
        print(error, file=sys.stderr)
        return 2
    unknown = unknown_areas(vectors)
    if unknown:
        print(f"{options.folder}: unknown areas: {', '.join(unknown)}", file=sys.stderr)
        return 2
    results = run(vectors, options.area)
    for line in (*failures(results), *table(results, vectors)):
        print(line)
    if options.verbose:
        for result in results:
            if result.verdict is Verdict.DEVIATING:
                print(f"{result.vector.vector_id}: {', '.join(result.rules)}: {result.vector.name}")
    return 1 if any(result.verdict is Verdict.FAILED for result in results) else 0


if __name__ == "__main__":
    sys.exit(main())
