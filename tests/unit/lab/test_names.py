"""The lab's name server."""

from __future__ import annotations

import struct

import pytest

from tests.lab.names import answer

NAMES = {"peer.example": "198.51.100.1"}


def ask(name: str, kind: int = 1) -> bytes:
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split(".") if label)
    return struct.pack("!6H", 7, 0x0100, 1, 0, 0, 0) + labels + struct.pack("!BHH", 0, kind, 1)


@pytest.mark.parametrize(
    ("name", "kind", "code", "answers"),
    [
        ("peer.example", 1, 0, 1),
        ("PEER.example", 1, 0, 1),
        ("peer.example", 28, 0, 0),
        ("nobody.example", 1, 3, 0),
        ("", 2, 0, 0),
    ],
)
def test_it_knows_a_few_names_and_that_there_are_no_others(
    name: str, kind: int, code: int, answers: int
) -> None:
    reply = answer(ask(name, kind), NAMES)
    assert reply is not None
    number, flags, questions, found, *_ = struct.unpack_from("!6H", reply)
    assert (number, flags & 0x8000, flags & 0xF) == (7, 0x8000, code)
    assert (questions, found) == (1, answers)
    assert reply.endswith(bytes([198, 51, 100, 1])) == bool(answers)


@pytest.mark.parametrize("packet", [b"", b"\0" * 5, ask("peer.example")[:-3]])
def test_what_is_no_question_is_not_answered(packet: bytes) -> None:
    assert answer(packet, NAMES) is None
