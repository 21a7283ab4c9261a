"""Progress of downloads: a line that moves on a terminal, a line per file elsewhere."""

from __future__ import annotations

import io

from appliance.progress import ProgressBoard
from tests.fakes import FakeClock


class Terminal(io.StringIO):
    """A terminal."""

    def isatty(self) -> bool:
        """Say so."""
        return True


def test_a_file_that_came_is_one_line() -> None:
    stream, clock = io.StringIO(), FakeClock()
    board = ProgressBoard(stream, clock)
    board.moved("rke2.tar.gz", 0, 3_500_000)
    clock.pass_time(2)
    board.moved("rke2.tar.gz", 3_500_000, 3_500_000)
    board.ended("rke2.tar.gz")
    assert stream.getvalue() == "rke2.tar.gz: came 3.5 MB in 2 s\n"


def test_a_file_that_did_not_come_whole_is_said_to_be() -> None:
    stream = io.StringIO()
    board = ProgressBoard(stream, FakeClock())
    board.moved("a", 1_000_000, 4_000_000)
    board.ended("a")
    assert stream.getvalue() == "a: ended at 1.0 of 4.0 MB in 0 s\n"


def test_a_file_that_never_began_is_not_mentioned() -> None:
    stream = io.StringIO()
    ProgressBoard(stream, FakeClock()).ended("a")
    assert stream.getvalue() == ""


def test_a_file_of_which_nothing_came_is_left_to_the_error() -> None:
    stream = io.StringIO()
    board = ProgressBoard(stream, FakeClock())
    board.moved("a", 0, None)
    board.ended("a")
    assert stream.getvalue() == ""


def test_a_terminal_shows_all_files_in_one_line_that_moves() -> None:
    stream, clock = Terminal(), FakeClock()
    board = ProgressBoard(stream, clock)
    board.moved("a", 1, 4)
    clock.pass_time(1)
    board.moved("b", 2_000_000, None)
    clock.pass_time(0.1)
    board.moved("a", 3, 4)
    clock.pass_time(1)
    board.moved("a", 4, 4)
    assert stream.getvalue().split("\r")[1:] == ["a 25 %", "a 25 %  b 2.0 MB", "a 100 %  b 2.0 MB"]
    board.ended("a")
    assert stream.getvalue().endswith("\r" + " " * 17 + "\ra: came 0.0 MB in 2 s\n")
