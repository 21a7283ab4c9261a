"""Links in a folder that is others' too: the agent's own come and go, everything else stays."""

from __future__ import annotations

from pathlib import PurePosixPath

import pytest

from appliance.folderactions import LinkFiles, StartFile, SymbolicLink
from tests.fakes import FakeFiles, PowerCut, Tape, make_system

NOTHING: frozenset[PurePosixPath] = frozenset()
FOLDER, STORE = PurePosixPath("/agent/images"), PurePosixPath("/store")
A, B = STORE / "canal" / "a.tar", STORE / "rke2" / "b.tar"


def links(*targets: PurePosixPath) -> LinkFiles:
    """The action for these files."""
    return LinkFiles(FOLDER, STORE, targets)


def test_what_is_missing_is_added_and_what_is_not_wanted_any_more_goes() -> None:
    files = FakeFiles()
    system = make_system(files=files)
    links(A).apply(system)
    assert files.links == {FOLDER / "a.tar": A}
    change = links(B).check(system, NOTHING)
    assert change is not None
    assert (change.summary, change.detail) == ("add 1, remove 1", "+b.tar\n-a.tar")
    links(B).apply(system)
    assert files.links == {FOLDER / "b.tar": B}
    assert links(B).check(system, NOTHING) is None


def test_a_link_that_leads_elsewhere_in_the_store_is_set_right() -> None:
    files = FakeFiles()
    system = make_system(files=files)
    files.link(FOLDER / "a.tar", STORE / "old" / "a.tar")
    assert links(A).check(system, NOTHING) is not None
    links(A).apply(system)
    assert files.links == {FOLDER / "a.tar": A}


def test_what_others_have_there_stays_even_under_a_wanted_name() -> None:
    files = FakeFiles({"/agent/images/a.tar": "theirs", "/agent/images/oneke-busybox.tar": "x"})
    files.link(FOLDER / "b.tar", PurePosixPath("/mnt/b.tar"))
    files.link(FOLDER / "c.tar", PurePosixPath("/mnt/c.tar"))
    system = make_system(files=files)
    assert links(A, B).check(system, NOTHING) is None
    for action in (links(A, B), links()):
        action.apply(system)
        assert files.texts()["/agent/images/a.tar"] == "theirs"
        assert "/agent/images/oneke-busybox.tar" in files.texts()
        assert set(files.links.values()) == {
            PurePosixPath("/mnt/b.tar"),
            PurePosixPath("/mnt/c.tar"),
        }


@pytest.mark.parametrize("before", [None, STORE / "old"])
def test_a_link_to_what_comes_later_leads_there_and_is_left_alone_then(
    before: PurePosixPath | None,
) -> None:
    files = FakeFiles()
    system = make_system(files=files)
    if before:
        files.link(FOLDER / "later", before)
    link = SymbolicLink(FOLDER / "later", A)
    change = link.check(system, NOTHING)
    assert change is not None
    assert change.summary == f"lead to {A}"
    link.apply(system)
    assert files.links == {FOLDER / "later": A}
    assert link.check(system, NOTHING) is None


@pytest.mark.parametrize("cut", range(3))
def test_a_run_that_was_cut_is_made_good_by_the_next(cut: int) -> None:
    tape = Tape()
    files = FakeFiles(tape=tape)
    links(A).apply(make_system(files=files, tape=tape))
    files.tape = Tape(cut)
    wanted = links(B, STORE / "rke2" / "c.tar")
    with pytest.raises(PowerCut):
        wanted.apply(make_system(files=files, tape=files.tape))
    files.tape = Tape()
    system = make_system(files=files, tape=files.tape)
    assert wanted.check(system, NOTHING) is not None
    wanted.apply(system)
    assert set(files.links) == {FOLDER / "b.tar", FOLDER / "c.tar"}


def test_a_file_that_others_fill_is_made_empty_and_then_left_to_them() -> None:
    files = FakeFiles()
    system = make_system(files=files)
    action = StartFile(FOLDER / ".cache.json")
    change = action.check(system, NOTHING)
    assert change is not None
    assert change.summary == "make, empty, 0600"
    action.apply(system)
    assert (files.text(FOLDER / ".cache.json"), files.kept[action.path].mode) == ("", 0o600)
    files.put(action.path, '{"a": 1}')
    assert action.check(system, NOTHING) is None
