"""Who is told how far something large is."""

from __future__ import annotations

from typing import Protocol


class Watch(Protocol):
    """Is told how far downloads are."""

    def moved(self, name: str, done: int, total: int | None) -> None:
        """Hear how many bytes of a file are there; called by several threads."""

    def ended(self, name: str) -> None:
        """Hear that no more of it will come."""


class Unwatched:
    """Nobody watches."""

    def moved(self, name: str, done: int, total: int | None) -> None:
        """Let it pass."""

    def ended(self, name: str) -> None:
        """Let it pass."""
