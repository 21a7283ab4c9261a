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
    assert stream.getvalue() == "rke2.tar.gz: 3.5 MB in 2 s\n"


def test_a_file_that_did_not_come_whole_is_said_to_be() -> None:
    stream = io.StringIO()
    board = ProgressBoard(stream, FakeClock())
    board.moved("a", 1_000_000, 4_000_000)
    board.ended("a")
    assert stream.getvalue() == "a: 1.0 of 4.0 MB, then no more, 1.0 MB of it before\n"


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
    board.moved("a", 0, 4_000_000)
    clock.pass_time(1)
    board.moved("a", 1_000_000, 4_000_000)
    clock.pass_time(0.1)
    board.moved("b", 0, None)
    clock.pass_time(0.9)
    board.moved("host/some/rke2-images-core.linux-amd64.tar.zst", 0, 10)
    assert stream.getvalue().split("\r")[1:] == [
        "0.0 MB/s  a 0 %",
        "1.0 MB/s  a 25 %",
        "0.5 MB/s  a 25 %  b ...  rke2-images-core.linux-a.. 0 %",
    ]
    board.moved("a", 4_000_000, 4_000_000)
    board.ended("a")
    assert stream.getvalue().endswith("\r" + " " * 55 + "\ra: 4.0 MB in 2 s\n")


def test_what_was_there_before_is_no_speed() -> None:
    stream, clock = Terminal(), FakeClock()
    board = ProgressBoard(stream, clock)
    clock.pass_time(1)
    board.moved("a", 900_000_000, 1_000_000_000)
    assert stream.getvalue() == "\r0.0 MB/s  a 90 %"
