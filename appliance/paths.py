"""Every path outside the installation that the framework itself uses.

Paths are absolute; the file boundary (`appliance.system.files`) places them under a root. Paths
that belong to one service only (haproxy.cfg and the like) are that service's and stand beside its
role.
"""

from __future__ import annotations

import sys
from pathlib import Path, PurePosixPath

ONE_ENV = (
    PurePosixPath("/run/one-context/one_env"),
    PurePosixPath("/var/run/one-context/one_env"),
)
CONTEXT_SH_NAMES = ("context.sh", "context.sh.network", "context.sh.online", "context.sh.local")
CONTEXT_DISC_LABEL = "CONTEXT"

STATE_DIR = PurePosixPath("/var/lib/oneke")
IDENTITY = STATE_DIR / "identity.json"
JOURNAL = STATE_DIR / "journal.jsonl"
LOADED_DIR = STATE_DIR / "loaded"

# What an image was built with: one record per artifact that is not a file as it was fetched, and
# one of the whole. The journal of the build is apart from that of the boots.
IMAGE_DIR = STATE_DIR / "image"
IMAGE_RECORD = IMAGE_DIR / "image.json"
INSTALL_JOURNAL = IMAGE_DIR / "journal.jsonl"
DOWNLOADS_DIR = PurePosixPath("/var/cache/oneke")
CHARTS_DIR = PurePosixPath("/usr/share/oneke/charts")

RUN_DIR = PurePosixPath("/run/oneke")
LOCK = RUN_DIR / "lock"
CHANGE_LOCK = RUN_DIR / "change.lock"
CANDIDATE_DIR = RUN_DIR / "candidate"
CONTEXT_MOUNT = RUN_DIR / "context"
CONTEXT_IN_FORCE = RUN_DIR / "context.json"
PROGRESS = RUN_DIR / "progress.json"

HOST_NAME = PurePosixPath("/etc/hostname")
ISSUE = PurePosixPath("/etc/issue.d/50-oneke.issue")
MOTD = PurePosixPath("/etc/motd.d/50-oneke")

ADMINISTRATOR_SERVICES = PurePosixPath("/etc/oneke/service.d")


def packaged_services() -> Path:
    """Return the folder of the packaged drop-ins: in a checkout, else in the installation."""
    checkout = Path(__file__).resolve().parent.parent / "service.d"
    return checkout if checkout.is_dir() else Path(sys.prefix) / "share" / "oneke" / "service.d"
