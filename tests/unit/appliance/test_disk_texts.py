"""What the kernel, wipefs and blkid say about block devices, read."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from appliance.system.disktexts import (
    Mount,
    Signature,
    parse_blkid,
    parse_mounts,
    parse_swaps,
    parse_wipefs,
)

# Taken down on Debian 12: util-linux 2.38.1, Linux 6.18.
MOUNTINFO = """\
22 1 252:1 / / rw,relatime shared:1 - ext4 /dev/vda1 rw,discard
36 22 7:0 / /mnt/a\\040b ro,relatime - xfs /dev/loop0 rw,attr2
37 22 7:1 / /srv rw,relatime shared:2 master:1 - xfs /dev/loop1 ro,norecovery
38 22 0:31 / /run rw,nosuid - tmpfs tmpfs rw,size=1024k
short line
"""
WIPEFS = """\
{
   "signatures": [
      {
         "type": "gpt",
         "usage": "partition-table",
         "label": null,
         "uuid": "98e8da2d-0b0a-4fa1-97e5-0ee2c2b43d10"
      },{
         "type": "xfs",
         "usage": "filesystem",
         "label": "STORAGE",
         "uuid": "6f6e656b-6500-8000-8000-000000000001"
      }
   ]
}
"""
BLKID = """\
DEVNAME=/dev/loop0
LABEL=a\\ b
UUID=6f6e656b-6500-8000-8000-000000000001
BLOCK_SIZE=512
TYPE=xfs
USAGE=filesystem
"""


def test_mounts_are_read_with_their_blanks_and_whether_they_can_be_written() -> None:
    assert parse_mounts(MOUNTINFO) == (
        Mount(PurePosixPath("/"), "252:1", "/dev/vda1", "ext4", False),
        Mount(PurePosixPath("/mnt/a b"), "7:0", "/dev/loop0", "xfs", True),
        Mount(PurePosixPath("/srv"), "7:1", "/dev/loop1", "xfs", True),
        Mount(PurePosixPath("/run"), "0:31", "tmpfs", "tmpfs", False),
    )
    assert parse_mounts("") == ()


def test_swaps_are_read_without_the_heading() -> None:
    heading = "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n"
    line = "/dev/vdb                                partition\t1048572\t\t0\t\t-2\n"
    assert parse_swaps(heading + line) == (Path("/dev/vdb"),)
    assert parse_swaps(heading) == parse_swaps("") == ()


def test_signatures_of_wipefs_are_read() -> None:
    assert parse_wipefs(WIPEFS) == (
        Signature("gpt", "", "", "98e8da2d-0b0a-4fa1-97e5-0ee2c2b43d10"),
        Signature("xfs", "filesystem", "STORAGE", "6f6e656b-6500-8000-8000-000000000001"),
    )
    for nothing in ("", "\n", '{"signatures": []}'):
        assert parse_wipefs(nothing) == ()


def test_what_blkid_finds_is_read() -> None:
    uuid = "6f6e656b-6500-8000-8000-000000000001"
    assert parse_blkid(BLKID) == (Signature("xfs", "filesystem", "a b", uuid),)
    assert parse_blkid("DEVNAME=/dev/x\nPTTYPE=dos\nPTUUID=1234\n") == (
        Signature("dos", "", "", "1234"),
    )
    assert parse_blkid("") == ()
