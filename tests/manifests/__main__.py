"""`python -m tests.manifests [--crds DIR]`: render every combination of switches and judge it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from tests.manifests.judge import KUBERNETES, Figures, judge, load_schemas
from tests.manifests.plans import plan_documents
from tests.manifests.rendered import combinations, documents

OWN = Path(__file__).parent / "schemas"
_MOST_SHOWN = 20


def main(arguments: list[str] | None = None) -> int:
    """Judge the manifests; 1 if a document is wrong or of a kind without schema."""
    parser = argparse.ArgumentParser(prog="python -m tests.manifests", description=__doc__)
    parser.add_argument(
        "--crds",
        type=Path,
        default=OWN,
        metavar="DIR",
        help="definitions of custom resources (*.yaml) and <chart>-values.schema.json",
    )
    options = parser.parse_args(arguments)
    if not options.crds.is_dir():
        print(f"{options.crds}: no such folder", file=sys.stderr)
        return 2
    found = combinations()
    every = chain(documents(found), plan_documents())
    figures = judge(every, load_schemas(options.crds))
    for line in figures.failed[:_MOST_SHOWN]:
        print(f"FAILED {line}")
    print(f"{len(found)} combinations; built-in kinds of Kubernetes {', '.join(KUBERNETES)}")
    for line in table(figures):
        print(line)
    return 1 if figures.failed else 0


def table(figures: Figures) -> Iterator[str]:
    """Yield the figures."""
    for kind, count in sorted(figures.by_kind.items()):
        yield f"{kind:50}{count:>8}"
    for chart, count in sorted(figures.by_values.items()):
        yield f"{f'values of {chart}':50}{count:>8}"
    for chart, count in sorted(figures.without_values_schema.items()):
        yield f"{f'values of {chart}':50}{count:>8}  YAML, no schema in the folder"
    yield f"{'documents':50}{figures.by_kind.total():>8}"
    yield f"{'failed':50}{len(figures.failed):>8}"


if __name__ == "__main__":
    sys.exit(main())
