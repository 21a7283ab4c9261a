"""The box: throw-away namespaces in which the lab runs, so that nothing of it outlives it.

Mounts, network and processes are the box's own. Its network has no way out. When the outer process
ends, however it ends, the kernel ends everything in the box.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.lab.bake import Cache, Image, current_image
from tests.lab.basics import REPOSITORY, LabError, inside_box, run

STATE = Path("/run/oneke-lab")
"""Where the box keeps its nodes; in memory, and visible in the box only."""

_INOTIFY_INSTANCES = Path("/proc/sys/fs/inotify/max_user_instances")
_WATCHES_WANTED = 1024

CGROUPS = Path("/sys/fs/cgroup")
_CGROUP_NAME = re.compile(r"lab-(\d+)\.(\d+)-.+")


def box_argv(command: Sequence[str]) -> list[str]:
    """The command that opens the box and runs `command` in it, below the box's first process."""
    return [
        *("setpriv", "--pdeathsig", "KILL"),
        *("unshare", "--mount", "--net", "--pid", "--fork", "--kill-child=SIGKILL"),
        *("--mount-proc", "--propagation", "private", "--"),
        *(sys.executable, "-m", "tests.lab.box", *command),
    ]


def run_in_box(command: Sequence[str], image: Image | None = None) -> int:
    """Run a command in a new box and return its exit status.

    Args:
        command: The command; its environment has `ONEKE_LAB_BOX=1`.
        image: What nodes boot from. If None it is the image of the working tree as it is now: what
            is edited while the box is open does not count.

    Raises:
        LabError: If this process is not root, is in a box already, or there is no command.
    """
    if not command:
        raise LabError("a command is expected after `box --`")
    if inside_box():
        raise LabError("this already is the inside of a box")
    if os.geteuid() != 0:
        raise LabError("the box can only be opened by root")
    remove_stale_cgroups()
    _make_room_for_watches()
    environment = os.environ | {
        "ONEKE_LAB_BOX": "1",
        "ONEKE_LAB_BOX_ID": f"{_process_namespace()}.{os.getpid()}",
        "PYTHONPATH": os.pathsep.join(
            part for part in (str(REPOSITORY), os.environ.get("PYTHONPATH")) if part
        ),
    }
    with contextlib.suppress(LabError):
        # Not every command needs an image; a lab that finds none says what to do.
        environment["ONEKE_LAB_IMAGE"] = (image or current_image()).keys
    with subprocess.Popen(box_argv(command), env=environment) as box:

        def pass_on(number: int, _: object) -> None:
            # unshare ignores these two, so they go to the box's first process.
            for pid in _children(box.pid):
                os.kill(pid, number)

        signal.signal(signal.SIGTERM, pass_on)
        # From a terminal, Ctrl-C reaches everything in the box by itself.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        with _announced(os.getpid(), box.pid):
            status = box.wait()
    return 128 - status if status < 0 else status


def _make_room_for_watches() -> None:
    """Raise the machine's limit of inotify instances, of which each node's systemd takes eight.

    With the usual 128 a dozen nodes fail to boot for "Too many open files". It stays raised until
    the machine reboots, which harms nobody; where it can not be raised, small labs work all the
    same.
    """
    with contextlib.suppress(OSError, ValueError):
        if int(_INOTIFY_INSTANCES.read_text()) < _WATCHES_WANTED:
            _INOTIFY_INSTANCES.write_text(str(_WATCHES_WANTED))


def running_boxes() -> list[int]:
    """Process id of the first process of each open box, the newest first."""
    found = []
    notes = sorted(_notes().glob("*"), key=lambda note: note.stat().st_mtime, reverse=True)
    for note in notes:
        if not Path(f"/proc/{note.name}").exists():
            note.unlink(missing_ok=True)
            continue
        found += _children(int(note.read_text()))
    return found


def run_in_node(node: str, command: Sequence[str]) -> int:
    """Run a command, with this terminal, in a node of an open box.

    Raises:
        LabError: If no open box has a running node of this name; of several the newest box counts.
    """
    running: list[str] = []
    for pid in running_boxes():
        for init in Path(f"/proc/{pid}/root{STATE}").glob("nodes/*/init.pid"):
            if init.parent.name == node:
                enter = ["nsenter", "-t", str(pid), "-m", "-p", "-n", "--"]
                enter += node_argv(int(init.read_text()), os.environ.get("TERM", "dumb"))
                return subprocess.run([*enter, *command], check=False).returncode
            running.append(init.parent.name)
    names = ", ".join(sorted(running)) or "none"
    raise LabError(f"no open box has a running node {node}; running nodes: {names}")


def node_argv(init: int, terminal: str = "dumb") -> list[str]:
    """What to put before a command that is to run in the node whose first process is `init`."""
    path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    enter = ["nsenter", "-t", str(init), "-m", "-u", "-i", "-n", "-p", "-C", "-r", "-w", "--"]
    settings = [f"PATH={path}", "LANG=C.UTF-8", "HOME=/root", f"TERM={terminal}"]
    return [*enter, "env", "-i", *settings]


def hierarchies() -> list[Path]:
    """The cgroup trees a node needs a group in: systemd's own on a mixed machine, else the one."""
    mixed = [CGROUPS / name for name in ("systemd", "unified") if (CGROUPS / name).is_dir()]
    return mixed or [CGROUPS]


def remove_stale_cgroups() -> None:
    """Remove the empty groups that nodes of boxes that are gone left behind."""
    here = _process_namespace()
    for tree in hierarchies():
        for group in tree.glob("lab-*"):
            # A group that was just made is empty too, so the box it belongs to has to be gone.
            match = _CGROUP_NAME.fullmatch(group.name)
            if match and int(match[1]) == here and not Path(f"/proc/{match[2]}").exists():
                remove_cgroup(group)


def remove_cgroup(group: Path) -> bool:
    """Remove a group and the groups in it; false if something still runs in one of them."""
    for folder, _, _ in os.walk(group, topdown=False):
        try:
            Path(folder).rmdir()
        except FileNotFoundError:
            continue
        except OSError:
            return False
    return True


def first_process(command: Sequence[str]) -> int:
    """Be the first process of the box: set it up, run the command, reap, return its status."""
    run(["mount", "-t", "tmpfs", "-o", "mode=0755,size=60%", "tmpfs", "/run"])
    for folder in ("/run/netns", "/run/lock", str(STATE)):
        Path(folder).mkdir()
    run(["ip", "link", "set", "lo", "up"])
    held = Cache.default().hold()
    try:
        # Python ignores SIGPIPE; the command gets it as usual.
        child = os.posix_spawnp(command[0], list(command), os.environ, setsigdef=[signal.SIGPIPE])
    except OSError as error:
        print(f"lab: {command[0]}: {error.strerror}", file=sys.stderr)
        return 127

    def pass_on(number: int, _: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, number)

    signal.signal(signal.SIGTERM, pass_on)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    while True:
        pid, status = os.wait()
        if pid == child:
            os.close(held)
            code = os.waitstatus_to_exitcode(status)
            return 128 - code if code < 0 else code


def _process_namespace() -> int:
    """Process ids mean something in this namespace only; a box has one of its own."""
    return Path("/proc/self/ns/pid").stat().st_ino


def _notes() -> Path:
    return Cache.default().root / "boxes"


@contextlib.contextmanager
def _announced(outer: int, opener: int) -> Iterator[None]:
    """Leave a note of the open box for `run_in_node`."""
    note = _notes() / str(outer)
    note.parent.mkdir(parents=True, exist_ok=True)
    note.write_text(str(opener))
    try:
        yield
    finally:
        note.unlink(missing_ok=True)


def _children(pid: int) -> list[int]:
    try:
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    except OSError:
        return []
    return [int(child) for child in text.split()]


if __name__ == "__main__":
    sys.exit(first_process(sys.argv[1:]))
