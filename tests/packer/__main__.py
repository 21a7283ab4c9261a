"""Command line of the build's test: `base`, `build`, `test`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.lab.basics import REPOSITORY, LabError, without_dashes


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb and return the exit status."""
    parser = argparse.ArgumentParser(prog="python3 -m tests.packer", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("base", help="make the disk that a build begins with (needs network, root)")
    verbs.add_parser("build", help="build the image (needs network, root)")
    test = verbs.add_parser("test", help="build the image, look at it, boot it (needs root)")
    test.add_argument("--built", action="store_true", help="take the image of the last build")
    test.add_argument("arguments", nargs=argparse.REMAINDER, metavar="-- PYTEST ARGUMENTS ...")
    options = parser.parse_args(arguments)
    try:
        return _run(options)
    except LabError as error:
        print(f"packer: {error}", file=sys.stderr)
        return 1


def _run(options: argparse.Namespace) -> int:
    # Imported late: each verb needs only its own part.
    if options.verb == "base":
        from tests.packer.base import base_disk

        print(base_disk())
        return 0
    if options.verb == "build" or not options.built:
        from tests.packer.build import build_image, durations

        build = build_image()
        for step, took_s in durations(build.log.read_text(errors="replace")):
            print(f"{took_s:6.0f} s  {step}", flush=True)
    if options.verb == "build":
        return 0
    from tests.lab.bake import bake
    from tests.lab.box import run_in_box

    pytest = [sys.executable, "-m", "pytest", "-m", "packer", "-p", "no:cacheprovider"]
    folder = str(Path(__file__).parent.relative_to(REPOSITORY))
    return run_in_box([*pytest, folder, *without_dashes(options.arguments)], bake())


if __name__ == "__main__":
    sys.exit(main())
