"""What the double says: logrus lines for the journal, and events for whoever tests with it."""

from __future__ import annotations

import json
import sys
import threading
import time
from typing import NoReturn

from . import paths

_lock = threading.Lock()


class Fatal(Exception):
    """RKE2 would end here with status 1; the text is its last line."""


def log_line(level: str, message: str, now: float) -> str:
    """One line as logrus writes it to what is not a terminal."""
    at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now))
    return f'time="{at}" level={level} msg={json.dumps(message, ensure_ascii=False)}'


def log(level: str, message: str) -> None:
    """Write a line to the journal."""
    with _lock:
        print(log_line(level, message, time.time()), file=sys.stderr, flush=True)


def info(message: str) -> None:
    """Tell what goes on."""
    log("info", message)


def warning(message: str) -> None:
    """Tell what is odd."""
    log("warning", message)


def error(message: str) -> None:
    """Tell what failed, though it is tried again."""
    log("error", message)


def fatal(message: str) -> NoReturn:
    """Give up.

    Raises:
        Fatal: Always.
    """
    raise Fatal(message)


def event(name: str, **data: object) -> None:
    """Note for assertions what happened; a line of JSON with the time and the keys given."""
    line = json.dumps({"at": round(time.time(), 3), "event": name, **data}, default=str)
    with _lock:
        try:
            with paths.EVENTS.open("a") as file:
                file.write(line + "\n")
        except OSError:
            return


def component(name: str, message: str) -> None:
    """Write to a component's own log file, which is not in the journal."""
    files = {"kubelet": "logs/kubelet.log", "containerd": "containerd/containerd.log"}
    path = paths.DATA / "agent" / files[name]
    path.parent.mkdir(parents=True, exist_ok=True)
    with _lock, path.open("a") as file:
        file.write(f"{time.strftime('%H:%M:%S')} {message}\n")
