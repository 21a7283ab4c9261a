"""Boots a service with a whole machine, reboots that, and tells what the time went into."""

from __future__ import annotations

import time

from tests.image.cluster import ImageService
from tests.image.disk import current_disk
from tests.lab.lab import Lab

_READY_S = 600
_BLAMED = 12


def main(*, hold: bool) -> int:
    """Print the times of a first boot and of a reboot; return the exit status.

    Args:
        hold: Whether to keep the machine running until Ctrl-C.
    """
    with Lab() as lab:
        image = ImageService(lab, current_disk())
        vm = image.machine()
        print(f"first boot: {image.wait_ready(_READY_S)}", flush=True)
        _blame(image)
        vm.reboot()
        print(f"reboot: {image.wait_ready(_READY_S)}", flush=True)
        _blame(image)
        if hold:
            print("it runs until Ctrl-C; `python3 -m tests.image run -- CMD` looks inside")
            _wait_for_the_end()
    return 0


def _blame(image: ImageService) -> None:
    vm = image.machine()
    print(vm.run(["systemd-analyze", "time"]).stdout.rstrip())
    blamed = vm.run(["systemd-analyze", "blame", "--no-pager"]).stdout.splitlines()
    print("\n".join(blamed[:_BLAMED]), flush=True)


def _wait_for_the_end() -> None:
    try:
        while True:
            time.sleep(3600)
    except KeyboardInterrupt:
        return
