"""Schedules of CronJobs: five fields, of which minutes are as long as a knob says."""

from __future__ import annotations

import time
from collections.abc import Iterator

_RANGES = ((0, 59), (0, 23), (1, 31), (1, 12), (0, 7))
_NAMED = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
}


def parse_schedule(text: str) -> tuple[frozenset[int], ...]:
    """The values each field of a schedule allows.

    Raises:
        ValueError: If it is none.
    """
    fields = _NAMED.get(text.strip(), text).split()
    if len(fields) != len(_RANGES):
        raise ValueError(f"expected exactly 5 fields, found {len(fields)}: {text}")
    return tuple(
        frozenset(_values(field, low, high))
        for field, (low, high) in zip(fields, _RANGES, strict=True)
    )


def _values(field: str, low: int, high: int) -> Iterator[int]:
    for part in field.split(","):
        span, _, step = part.partition("/")
        first, dash, last = span.partition("-")
        if span == "*":
            begin, end = low, high
        else:
            begin = int(first)
            end = int(last) if dash else (high if step else begin)
        if not low <= begin <= end <= high:
            raise ValueError(f"{part} is not within {low}-{high}")
        yield from range(begin, end + 1, int(step or 1))


def is_due(schedule: tuple[frozenset[int], ...], minute: int) -> bool:
    """Whether a schedule names a minute, which is counted since 1970."""
    at = time.gmtime(minute * 60)
    minutes, hours, days, months, weekdays = schedule
    if at.tm_min not in minutes or at.tm_hour not in hours or at.tm_mon not in months:
        return False
    weekday = (at.tm_wday + 1) % 7
    by_day = at.tm_mday in days
    by_week = weekday in weekdays or (weekday == 0 and 7 in weekdays)
    if len(days) == 31 or len(weekdays) >= 7:
        return by_day and by_week
    return by_day or by_week


def last_due(schedule: tuple[frozenset[int], ...], after: int, until: int) -> int | None:
    """The latest minute that is due, later than `after` and not later than `until`."""
    for minute in range(until, max(after, until - 100), -1):
        if is_due(schedule, minute):
            return minute
    return None
