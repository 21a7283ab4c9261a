"""Command line of the machine's tests: `bake`, `test`, `boot`, `run CMD`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.lab.basics import REPOSITORY, LabError, inside_box, without_dashes


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb and return the exit status."""
    parser = argparse.ArgumentParser(prog="python3 -m tests.image", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("bake", help="make the disk that machines boot from (needs network, root)")
    test = verbs.add_parser("test", help="run all tests that boot a machine (needs root)")
    test.add_argument("arguments", nargs=argparse.REMAINDER, metavar="-- PYTEST ARGUMENTS ...")
    boot = verbs.add_parser("boot", help="boot, reboot, and tell how long it took (needs root)")
    boot.add_argument("--hold", action="store_true", help="keep it running until Ctrl-C")
    inside = verbs.add_parser("run", help="run a command in the machine of an open box")
    inside.add_argument("command", nargs=argparse.REMAINDER, metavar="-- CMD ...")
    options = parser.parse_args(arguments)
    try:
        return _run(options)
    except LabError as error:
        print(f"image: {error}", file=sys.stderr)
        return 1


def _run(options: argparse.Namespace) -> int:
    # Imported late: each verb needs only its own part.
    if options.verb == "run":
        return _run_inside(without_dashes(options.command))
    if options.verb == "boot" and inside_box():
        from tests.image.boot import main as boot

        return boot(hold=options.hold)
    from tests.image.disk import bake_disk
    from tests.lab.bake import bake
    from tests.lab.box import run_in_box

    # Both of one state of the working tree, which may be edited while they are used.
    image, disk = bake(), bake_disk()
    os.environ["ONEKE_IMAGE_DISK"] = disk.folder.name
    if options.verb == "test":
        pytest = [sys.executable, "-m", "pytest", "-m", "image or lab", "-p", "no:cacheprovider"]
        folder = str(Path(__file__).parent.relative_to(REPOSITORY))
        return run_in_box([*pytest, folder, *without_dashes(options.arguments)], image)
    if options.verb == "boot":
        flags = ["--hold"] if options.hold else []
        return run_in_box([sys.executable, "-m", "tests.image", "boot", *flags], image)
    return 0


def _run_inside(command: list[str]) -> int:
    from tests.image.monitor import GuestAgent
    from tests.lab.box import STATE, running_boxes

    agents = [
        path
        for pid in running_boxes()
        for path in Path(f"/proc/{pid}/root{STATE}").glob("vms/*/agent.sock")
    ]
    if not agents:
        raise LabError("no open box has a machine; `python3 -m tests.image boot --hold` boots one")
    done = GuestAgent(agents[0]).run(command or ["systemctl", "status"], None, 120)
    sys.stdout.write(done.stdout)
    sys.stderr.write(done.stderr)
    return done.status


if __name__ == "__main__":
    sys.exit(main())
