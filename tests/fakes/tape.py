"""The tape on which the fakes note their changes, in order."""

from __future__ import annotations


class PowerCut(BaseException):
    """The machine is gone in the middle of a run; no code of the agent may catch it."""


class Tape:
    """What was changed, in words, and the point at which the power fails.

    Attributes:
        changes: Each change as `part.verb subject`.
        cut_before: How many changes take place before the power fails; None for never.
    """

    def __init__(self, cut_before: int | None = None) -> None:
        """Begin with an empty tape."""
        self.changes: list[str] = []
        self.cut_before = cut_before

    def note(self, change: str) -> None:
        """Note a change that is about to be made.

        Raises:
            PowerCut: It is not made, for the power fails before.
        """
        if self.cut_before is not None and len(self.changes) >= self.cut_before:
            raise PowerCut(change)
        self.changes.append(change)

    def find(self, start: str) -> list[str]:
        """Return the changes that begin so."""
        return [change for change in self.changes if change.startswith(start)]
