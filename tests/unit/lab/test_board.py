"""The demonstration's board, over a service that is none."""

from __future__ import annotations

import io
from collections.abc import Sequence

import pytest

from tests.lab.board import Board, Row, describe_vm, draw
from tests.lab.onegate.state import FlowState
from tests.lab.service import ServiceVm

Picture = tuple[FlowState, Sequence[ServiceVm]]


def make_vm(
    vm_state: tuple[int, int] = (3, 3), *, state: str = "", step: str = "", error: str = ""
) -> ServiceVm:
    told = {"ONEKE_STATE": state, "ONEKE_STEP": step, "ONEKE_ERROR": error}
    attributes = {key: text for key, text in told.items() if text}
    return ServiceVm(1, "master", "master0", *vm_state, "172.20.0.101", attributes, None)


class PlayedService:
    """Is in one state after the other."""

    def __init__(self, pictures: Sequence[Picture]) -> None:
        self._pictures = iter(pictures)
        self._vms: Sequence[ServiceVm] = ()

    @property
    def state(self) -> FlowState:
        state, self._vms = next(self._pictures)
        return state

    def vms(self) -> Sequence[ServiceVm]:
        return self._vms


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


PICTURES: tuple[Picture, ...] = (
    (FlowState.DEPLOYING, [make_vm((1, 0))]),
    (FlowState.DEPLOYING, [make_vm(state="WAITING", step="for a token")]),
    (FlowState.DEPLOYING, [make_vm(state="WAITING", step="for a token")]),
    (FlowState.RUNNING, [make_vm(state="READY", step="the node does its job")]),
    (FlowState.DONE, []),
)


def show(output: io.StringIO) -> str:
    board = Board(PlayedService(PICTURES), started=0.0, output=output)
    board.show_until(lambda state: state is FlowState.DONE, every_s=0)
    return output.getvalue()


@pytest.mark.parametrize(
    ("vm", "told"),
    [
        (make_vm((1, 0)), "master0: pending"),
        (make_vm((3, 2)), "master0: boot"),
        (make_vm(), "master0: booting"),
        (make_vm(state="WAITING", step="for x"), "master0: WAITING: for x"),
        (make_vm(state="READY", step="the node does its job"), "master0: READY"),
        (make_vm(state="FAILED", step="configure", error="no disk"), "master0: FAILED: no disk"),
        (make_vm((3, 12), state="READY"), "master0: shutdown"),
        (make_vm((8, 0), state="READY"), "master0: poweroff"),
    ],
)
def test_a_vm_is_told_of_by_its_agent_as_long_as_it_runs(vm: ServiceVm, told: str) -> None:
    assert describe_vm(vm).tell() == told


def test_without_a_terminal_each_change_is_a_line() -> None:
    lines = [line.partition("] ")[2] for line in show(io.StringIO()).splitlines()]
    assert lines == [
        "service DEPLOYING",
        "master0: pending",
        "master0: WAITING: for a token",
        "service RUNNING",
        "master0: READY",
        "service DONE",
        "master0: gone",
    ]


def test_on_a_terminal_the_board_is_drawn_in_place() -> None:
    shown = show(Terminal())
    assert shown.count("\x1b[3A\x1b[J") == len(PICTURES) - 1
    assert "] " not in shown


def test_columns_are_as_wide_as_they_have_to_be_and_lines_end_at_the_edge() -> None:
    rows = [
        Row("vnf", 0, "vnf0", "RUNNING", "READY", ""),
        Row("storage", 11, "storage0", "BOOT", "", "a long story that nobody reads to its end"),
    ]
    lines = draw("service DEPLOYING", rows, width=60)
    assert lines[0] == "service DEPLOYING"
    assert lines[2] == "  vnf      0   vnf0      RUNNING  READY"
    assert lines[3] == "  storage  11  storage0  BOOT            a long story that…"
    assert max(map(len, lines)) <= 60
