"""Command line of the lab: `bake`, `box`, `test`, `demo`, `shell NODE`, `scale ROLE N`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.lab.basics import LabError, inside_box, without_dashes

ROLES = ("vnf", "master", "worker", "storage")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb and return the exit status."""
    parser = argparse.ArgumentParser(prog="python3 -m tests.lab", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("bake", help="make the image that nodes boot from (needs network, root)")
    box = verbs.add_parser("box", help="run a command in throw-away namespaces (needs root)")
    box.add_argument("--bake", action="store_true", help="bake first, and use that image")
    box.add_argument("command", nargs=argparse.REMAINDER, metavar="-- CMD ...")
    test = verbs.add_parser("test", help="run lab tests, three files at a time (needs root)")
    test.add_argument(
        "arguments", nargs=argparse.REMAINDER, metavar="FILE.py ... PYTEST ARGUMENTS ..."
    )
    demo = verbs.add_parser("demo", help="boot a service and show how it comes up (needs root)")
    demo.add_argument("--once", action="store_true", help="end as soon as everything is up")
    demo.add_argument(
        "--roles",
        metavar="V,M,W,S",
        default="1,1,1,1",
        help="how many gateways, masters, workers and storage nodes (default: %(default)s)",
    )
    scale = verbs.add_parser("scale", help="scale a role of the service of a running box")
    scale.add_argument("role")
    scale.add_argument("cardinality", type=int)
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
        return run_in_box(without_dashes(options.command), image)
    if options.verb == "test":
        from tests.lab.sidebyside import run_lab_tests

        return run_lab_tests(without_dashes(options.arguments))
    if options.verb == "shell":
        from tests.lab.box import run_in_node

        return run_in_node(options.node, without_dashes(options.command) or ["bash", "-l"])
    if options.verb == "scale":
        return _scale(options.role, options.cardinality)
    if inside_box():
        from tests.lab import demo

        return demo.main(once=options.once, **_read_roles(options.roles))
    from tests.lab.bake import bake
    from tests.lab.box import run_in_box

    flags = ["--roles", options.roles, *(["--once"] if options.once else [])]
    return run_in_box([sys.executable, "-m", "tests.lab", "demo", *flags], bake())


def _scale(role: str, cardinality: int) -> int:
    from tests.lab.box import running_boxes
    from tests.lab.lab import ONEGATE_SOCKET
    from tests.lab.oneflow.control import FlowControl

    sockets = [Path(f"/proc/{pid}/root{ONEGATE_SOCKET}") for pid in running_boxes()]
    found = next((path for path in sockets if path.exists()), None)
    if found is None:
        raise LabError("no open box has a cloud; `make demo` opens one")
    control = FlowControl(found)
    services = control.services()
    if not services:
        raise LabError("the open box has no service")
    if not control.scale(services[-1], role, cardinality):
        raise LabError(
            f"OneFlow does not scale {role} to {cardinality}: the service is changing, or that is "
            "its cardinality, or too few"
        )
    return 0


def _read_roles(text: str) -> dict[str, int]:
    """Read `1,1,1,1`.

    Raises:
        LabError: It is something else.
    """
    numbers = text.split(",")
    if len(numbers) != len(ROLES) or not all(number.isdigit() for number in numbers):
        raise LabError(f"--roles {text}: expected four numbers with commas between, as 2,3,2,1")
    return dict(zip(ROLES, map(int, numbers), strict=True))


if __name__ == "__main__":
    sys.exit(main())
