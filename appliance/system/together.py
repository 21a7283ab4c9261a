"""Calls side by side, in threads that end with the program."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue
from threading import Thread
from typing import TypeVar

from appliance.errors import OnekeError

_LAST_WORDS_S = 10
_BEAT_S = 0.5

T = TypeVar("T")


def run_together(
    calls: Sequence[Callable[[], T]], at_once: int, *, stop: Callable[[], None]
) -> list[T | OnekeError]:
    """Make calls, some at a time, and wait for all of them, whether others fail or not.

    Args:
        calls: What to do.
        at_once: How many at a time.
        stop: Told where this thread is interrupted, so that the calls end soon.

    Returns:
        For each call, in order, what it returned or what it failed with.
    """
    todo: SimpleQueue[int] = SimpleQueue()
    done: SimpleQueue[tuple[int, T | BaseException]] = SimpleQueue()
    for index in range(len(calls)):
        todo.put(index)

    def work() -> None:
        while True:
            try:
                index = todo.get_nowait()
            except Empty:
                return
            try:
                done.put((index, calls[index]()))
            except BaseException as error:  # it is raised again where it belongs
                done.put((index, error))

    threads = [Thread(target=work, daemon=True) for _ in range(min(at_once, len(calls)))]
    for thread in threads:
        thread.start()
    try:
        return _collect(done, len(calls))
    except BaseException:
        while not todo.empty():
            todo.get_nowait()
        stop()
        for thread in threads:
            thread.join(_LAST_WORDS_S)
        raise


def _collect(done: SimpleQueue[tuple[int, T | BaseException]], count: int) -> list[T | OnekeError]:
    found: dict[int, T | OnekeError] = {}
    while len(found) < count:
        try:
            # A wait without an end would not notice an interrupt.
            index, result = done.get(timeout=_BEAT_S)
        except Empty:
            continue
        if isinstance(result, BaseException) and not isinstance(result, OnekeError):
            raise result
        found[index] = result
    return [found[index] for index in range(count)]
