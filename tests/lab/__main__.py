"""Command line of the lab: `python3 -m tests.lab bake`, `box -- CMD...`, `demo`, `shell NODE`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from tests.lab.basics import LabError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb and return the exit status."""
    parser = argparse.ArgumentParser(prog="python3 -m tests.lab", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("bake", help="make the image that nodes boot from (needs network, root)")
    box = verbs.add_parser("box", help="run a command in throw-away namespaces (needs root)")
    box.add_argument("--bake", action="store_true", help="bake first, and use that image")
    box.add_argument("command", nargs=argparse.REMAINDER, metavar="-- CMD ...")
    demo = verbs.add_parser("demo", help="boot a service and show how it comes up (needs root)")
    demo.add_argument("--once", action="store_true", help="end as soon as everything is up")
    shell = verbs.add_parser("shell", help="run a shell, or CMD, in a node of a running box")
    shell.add_argument("node")
    shell.add_argument("command", nargs=argparse.REMAINDER, metavar="[-- CMD ...]")
    options = parser.parse_args(arguments)
    try:
        return _run(options)
    except LabError as error:
        print(f"lab: {error}", file=sys.stderr)
        return 1


def _run(options: argparse.Namespace) -> int:
    # Imported late: each verb needs only its own part.
    if options.verb == "bake":
        from tests.lab.bake import bake

        bake()
        return 0
    if options.verb == "box":
        from tests.lab.bake import bake
        from tests.lab.box import run_in_box

        image = bake() if options.bake else None
        return run_in_box(_without_dashes(options.command), image)
    if options.verb == "shell":
        from tests.lab.box import run_in_node

        return run_in_node(options.node, _without_dashes(options.command) or ["bash", "-l"])
    if os.environ.get("ONEKE_LAB_BOX") == "1":
        from tests.lab import demo

        return demo.main(once=options.once)
    from tests.lab.bake import bake
    from tests.lab.box import run_in_box

    flags = ["--once"] if options.once else []
    return run_in_box([sys.executable, "-m", "tests.lab", "demo", *flags], bake())


def _without_dashes(command: list[str]) -> list[str]:
    return command[1:] if command[:1] == ["--"] else command


if __name__ == "__main__":
    sys.exit(main())
