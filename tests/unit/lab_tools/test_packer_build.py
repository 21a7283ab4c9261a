"""What is read of the log of a build by Packer."""

from __future__ import annotations

from tests.packer.build import durations

# As Packer 1.6.6 writes it; of scripts, what they complain looks as steps do.
LOG = """\
2026-11-21T14:32:46Z: ==> oneke.qemu.oneke: Retrieving ISO
2026-11-21T14:32:55Z: ==> oneke.qemu.oneke: Starting VM, booting disk image
2026-11-21T14:32:55Z:     oneke.qemu.oneke: The VM will be run headless, without a GUI. If you
    oneke.qemu.oneke: view the screen of the VM, connect via VNC without a password to
2026-11-21T14:32:55Z: ==> oneke.qemu.oneke: Overriding default Qemu arguments with qemuargs
2026-11-21T14:33:07Z: ==> oneke.qemu.oneke: Waiting for SSH to become available...
2026-11-21T14:36:07Z: ==> oneke.qemu.oneke: Provisioning with shell script: scripts/10-packages.sh
2026-11-21T14:36:27Z: ==> oneke.qemu.oneke: debconf: unable to initialize frontend: Dialog
2026-11-21T14:41:07Z: ==> oneke.qemu.oneke: Provisioning with shell script: scripts/20-system.sh
2026-11-21T14:41:27Z: ==> oneke.qemu.oneke: Gracefully halting virtual machine...
"""


def test_each_step_took_until_the_next_one_began() -> None:
    assert durations(LOG) == [
        ("Retrieving ISO", 9.0),
        ("Starting VM, booting disk image", 12.0),
        ("Waiting for SSH to become available...", 180.0),
        ("10-packages.sh", 300.0),
        ("20-system.sh", 20.0),
    ]


def test_of_a_build_that_did_not_begin_nothing_is_told() -> None:
    assert durations("") == []
