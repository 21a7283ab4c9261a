"""Figures with their bounds, as a table for a terminal or a document."""

from __future__ import annotations

import statistics
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

HEADINGS = ("what", "median", "least", "most", "runs", "bound", "holds")


@dataclass(frozen=True)
class Row:
    """One figure.

    Attributes:
        what: What was measured, as a reader should see it.
        unit: Of the values and the bound.
        values: One of each repetition; the median counts.
        at_most: The bound, if there is one.
        bound_from: How the bound comes about, where that needs words.
        digits: How many decimal places are shown.
    """

    what: str
    unit: str
    values: tuple[float, ...]
    at_most: float | None = None
    bound_from: str = ""
    digits: int = 2

    @property
    def median(self) -> float:
        """What counts."""
        return statistics.median(self.values)

    @property
    def holds(self) -> bool | None:
        """Whether the bound holds; None without one."""
        return None if self.at_most is None else self.median <= self.at_most

    def cells(self) -> tuple[str, ...]:
        """The row's texts, in the order of HEADINGS."""
        bound = "" if self.at_most is None else f"<= {self._shown(self.at_most)}"
        if self.bound_from:
            bound += f" ({self.bound_from})"
        return (
            self.what,
            f"{self._shown(self.median)} {self.unit}".strip(),
            self._shown(min(self.values)),
            self._shown(max(self.values)),
            str(len(self.values)),
            bound,
            {None: "", True: "yes", False: "NO"}[self.holds],
        )

    def _shown(self, value: float) -> str:
        return f"{value:.{self.digits}f}"


@dataclass(frozen=True)
class Section:
    """What one benchmark found.

    Attributes:
        title: Names it for ever: a document's part of this name is replaced.
        method: How it was measured; one paragraph per text.
        notes: What the figures do not say.
        versions: Of the programs measured.
    """

    title: str
    method: tuple[str, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()
    versions: str = ""

    def to_text(self) -> str:
        """For a terminal."""
        lines = [HEADINGS, *(row.cells() for row in self.rows)]
        widths = [max(len(line[column]) for line in lines) for column in range(len(HEADINGS))]
        shown = [_aligned(line, widths) for line in lines]
        shown.insert(1, "-" * len(shown[0]))
        notes = [f"* {note}" for note in self.notes]
        return "\n".join([f"== {self.title}", *shown, *notes])

    def to_markdown(self, date: str) -> str:
        """For a document."""
        parts = [f"## {self.title}", *map(_wrapped, self.method)]
        table: list[tuple[str, ...]] = [HEADINGS]
        table += [("---", "--:", "--:", "--:", "--:", "---", "---")]
        table += [row.cells() for row in self.rows]
        parts.append("\n".join(f"| {' | '.join(cells)} |" for cells in table))
        parts += (
            ["\n".join(_wrapped(f"- {note}", "  ") for note in self.notes)] if self.notes else []
        )
        versions = f"; {self.versions}" if self.versions else ""
        parts.append(_wrapped(f"Measured on {date}{versions}."))
        return "\n\n".join(parts) + "\n"


def _wrapped(text: str, indent: str = "") -> str:
    """Break a paragraph into lines, but not inside a word."""
    return textwrap.fill(
        text,
        120,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _aligned(cells: Sequence[str], widths: Sequence[int]) -> str:
    numbers = range(1, 5)
    return "  ".join(
        cell.rjust(width) if column in numbers else cell.ljust(width)
        for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
    ).rstrip()
