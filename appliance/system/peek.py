"""A program of its own: mounts a file system and prints the names in its root as JSON.

It is run in a mount namespace that ends with it, so that nothing stays mounted, whatever happens.
Its arguments are kind, options, device and an empty folder. It imports nothing of the agent, as it
is run by its file name.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys

# Source: mount(8), exit status.
_MOUNT_FAILED = 32


def main() -> int:
    """Mount, look, and leave the rest to the end of the namespace."""
    kind, options, device, place = sys.argv[1:]
    mounting = ["mount", "-n", "-t", kind, "-o", options, device, place]
    mounted = subprocess.run(mounting, stdin=subprocess.DEVNULL, check=False)
    if mounted.returncode != 0:
        return mounted.returncode
    try:
        names = sorted(os.listdir(place))  # noqa: PTH208  # names are wanted
    except OSError:
        # What was mounted is not all there.
        return _MOUNT_FAILED
    print(json.dumps(names))
    return 0


if __name__ == "__main__":
    sys.exit(main())
