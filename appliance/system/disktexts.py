"""What the kernel, wipefs and blkid print about block devices, read into values."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

# What a look of our own finds although libblkid finds nothing, and wipefs has nothing to wipe.
BOOT_SECTOR = "boot sector"
DAMAGED_GPT = "damaged gpt"


@dataclass(frozen=True)
class Signature:
    """Something that a device is marked as.

    Attributes:
        kind: In libblkid's words: xfs, ext4, LVM2_member, crypto_LUKS, gpt; or one of those above.
        usage: filesystem, raid, crypto, other; empty for a partition table.
    """

    kind: str
    usage: str = ""
    label: str = ""
    uuid: str = ""


@dataclass(frozen=True)
class Mount:
    """A mounted file system.

    Attributes:
        number: That of the device; its major is 0 where there is none.
        source: What it was mounted from, as it was said.
    """

    place: PurePosixPath
    number: str
    source: str
    kind: str
    is_read_only: bool


def parse_mounts(text: str) -> tuple[Mount, ...]:
    """Read /proc/self/mountinfo.

    Source: proc(5); optional fields stand before a lone hyphen.
    """
    found = []
    for line in text.splitlines():
        before, _, after = line.partition(" - ")
        columns, tail = before.split(" "), after.split(" ")
        if len(columns) < 6 or len(tail) < 3:
            continue
        words = {*columns[5].split(","), *tail[2].split(",")}
        found.append(
            Mount(
                PurePosixPath(_unescape(columns[4])),
                columns[2],
                _unescape(tail[1]),
                tail[0],
                "ro" in words,
            )
        )
    return tuple(found)


def parse_swaps(text: str) -> tuple[Path, ...]:
    """Read /proc/swaps; its first line is a heading."""
    return tuple(Path(_unescape(line.split()[0])) for line in text.splitlines()[1:] if line)


def parse_wipefs(text: str) -> tuple[Signature, ...]:
    """Read what `wipefs --json` prints, which is nothing where there is nothing."""
    document = json.loads(text) if text.strip() else {}
    return tuple(
        Signature(
            kind=one.get("type") or "unknown",
            usage=_usage(one.get("usage")),
            label=one.get("label") or "",
            uuid=one.get("uuid") or "",
        )
        for one in document.get("signatures", ())
    )


def parse_blkid(text: str) -> tuple[Signature, ...]:
    """Read what `blkid --probe --output export` prints: a file system, a table, both or nothing."""
    values: Mapping[str, str] = dict(
        line.split("=", 1) for line in text.splitlines() if "=" in line
    )
    found = []
    if "TYPE" in values:
        label = re.sub(r"\\(.)", r"\1", values.get("LABEL", ""))
        usage = _usage(values.get("USAGE"))
        found.append(Signature(values["TYPE"], usage, label, values.get("UUID", "")))
    if "PTTYPE" in values:
        found.append(Signature(values["PTTYPE"], "", "", values.get("PTUUID", "")))
    return tuple(found)


def _usage(words: str | None) -> str:
    return "" if words in (None, "partition-table") else str(words)


def _unescape(text: str) -> str:
    """Undo what the kernel does to blanks and the like."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), text)
