"""Values that must not be seen: they print as asterisks and are revealed only by name."""

from __future__ import annotations

MASK = "***"


class Secret:
    """A text that shows itself as `***` wherever it is printed, logged or formatted."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        """Wrap the text."""
        self._value = value

    def reveal(self) -> str:
        """Return the text itself, for the one place that needs it."""
        return self._value

    def __repr__(self) -> str:
        """Show nothing."""
        return MASK

    __str__ = __repr__

    def __eq__(self, other: object) -> bool:
        """Compare by content."""
        return isinstance(other, Secret) and other._value == self._value

    def __hash__(self) -> int:
        """Hash by content."""
        return hash(self._value)

    def __bool__(self) -> bool:
        """Say whether there is any text."""
        return bool(self._value)
