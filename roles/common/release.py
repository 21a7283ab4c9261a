"""Releases of RKE2: read, and put in order."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import total_ordering

_RELEASE = re.compile(
    r"v?(?P<major>[0-9]{1,3})\.(?P<minor>[0-9]{1,3})\.(?P<patch>[0-9]{1,3})"
    r"(?:-(?:rc|alpha|beta)\.?(?P<candidate>[0-9]{1,3}))?\+rke2r(?P<revision>[0-9]{1,3})\Z"
)
_FINAL = 1000
"""Behind every candidate."""


@total_ordering
@dataclass(frozen=True)
class Release:
    """A release, such as v1.35.7+rke2r1.

    Attributes:
        key: Major and minor version, patch, number of the candidate, RKE2's own revision.
        text: As RKE2 writes it.
    """

    key: tuple[int, int, int, int, int]
    text: str

    @property
    def minor(self) -> int:
        """Its minor version."""
        return self.key[1]

    @property
    def tag(self) -> str:
        """The tag of its images, which can not hold a plus sign."""
        return self.text.replace("+", "-")

    def __lt__(self, other: Release) -> bool:
        """Say whether it is older."""
        return self.key < other.key

    def __str__(self) -> str:
        """Write it as RKE2 does."""
        return self.text


def parse_release(text: str) -> Release | None:
    """Read a release, with or without the v in front; None where it is none of RKE2's."""
    found = _RELEASE.match(text.strip())
    if not found:
        return None
    numbers = [int(found[part]) for part in ("major", "minor", "patch")]
    candidate = int(found["candidate"] or _FINAL)
    key = (numbers[0], numbers[1], numbers[2], candidate, int(found["revision"]))
    return Release(key, f"v{text.strip().removeprefix('v')}")
