"""Where the context comes from: the order, the judge of doubtful values, the disc."""

from __future__ import annotations

from pathlib import PurePosixPath

import pytest

from appliance.context import Ambiguous
from appliance.contextfile import gather_context
from appliance.errors import CommandError, ContextError, OnekeError
from appliance.system import System
from tests.fakes import Call, FakeCommands, FakeFiles, make_system

RUN, VAR_RUN = "/run/one-context", "/var/run/one-context"
MOUNT = "/run/oneke/context"
FIND = ("blkid", "-L", "CONTEXT")
MOUNTED = ("mount", "-o", "ro,nosuid,nodev,noexec", "/dev/sr0", MOUNT)
UNMOUNTED = ("umount", MOUNT)


def machine(commands: FakeCommands, texts: dict[str, str | bytes]) -> System:
    """Return a machine with these files; a path that is relative is one in /run/one-context."""
    placed = {p if p.startswith("/") else f"{RUN}/{p}": text for p, text in texts.items()}
    return make_system(commands=commands, files=FakeFiles(placed))


# --- the order ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("texts", "source", "value"),
    [
        ({"one_env": 'export A="1"'}, f"{RUN}/one_env", "1"),
        ({f"{VAR_RUN}/one_env": 'export A="2"'}, f"{VAR_RUN}/one_env", "2"),
        (
            {"one_env": 'export A="1"', f"{VAR_RUN}/one_env": 'export A="2"'},
            f"{RUN}/one_env",
            "1",
        ),
        ({"context.sh": "A='3'"}, f"{RUN}/context.sh", "3"),
        ({f"{VAR_RUN}/context.sh": "A='4'"}, f"{VAR_RUN}/context.sh", "4"),
        ({f"{VAR_RUN}/one_env": 'export A="2"', "context.sh": "A='3'"}, f"{VAR_RUN}/one_env", "2"),
        ({"one_env": 'export A="1"', "context.sh": "A='1'"}, f"{RUN}/one_env", "1"),
    ],
)
def test_the_first_source_that_is_there_is_taken(
    commands: FakeCommands, texts: dict[str, str | bytes], source: str, value: str
) -> None:
    context = gather_context(machine(commands, texts))
    assert (context.source, context.values["A"]) == (source, value)
    assert context.warnings == ()


def test_a_file_that_is_asked_for_wins_over_all(commands: FakeCommands) -> None:
    system = machine(commands, {"one_env": 'export A="1"', "/tmp/given": "A='5'\n"})
    context = gather_context(system, PurePosixPath("/tmp/given"))
    assert (context.source, context.values) == ("/tmp/given", {"A": "5"})


@pytest.mark.parametrize(
    ("left", "read"),
    [
        ("${vnf.TEMPLATE.CONTEXT.ETH1_IP}", ""),
        ("localhost,${vnf.TEMPLATE.CONTEXT.ETH0_IP}", "localhost,"),
        ("${vnf.TEMPLATE.NIC.0.IP} ${master.TEMPLATE.CONTEXT.ETH0_IP}", " "),
    ],
)
def test_a_reference_that_oneflow_put_nothing_in_for_is_taken_as_empty(
    commands: FakeCommands, left: str, read: str
) -> None:
    context = gather_context(machine(commands, {"context.sh": f"A='{left}'\nB='$(x) ${{y}} $z'\n"}))
    assert context.values == {"A": read, "B": "$(x) ${y} $z"}
    assert context.warnings == ("A: OneFlow put nothing in for references to other VMs",)


def test_a_file_that_is_asked_for_and_missing_is_an_error(commands: FakeCommands) -> None:
    system = machine(commands, {"one_env": 'export A="1"'})
    with pytest.raises(ContextError, match=r"^/tmp/given: no such file"):
        gather_context(system, PurePosixPath("/tmp/given"))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"\xff\xfe", "not UTF-8"),
        (b'export A="' + b"x" * 5_000_000, "larger than"),
        (b'export A="a\0b"', "NUL"),
    ],
)
def test_what_is_no_text_is_a_context_error(
    commands: FakeCommands, data: bytes, words: str
) -> None:
    with pytest.raises(ContextError, match=words) as caught:
        gather_context(machine(commands, {"one_env": data}))
    assert caught.value.exit_code == 78


# --- one_env and its judge ------------------------------------------------------------------------


def test_context_sh_decides_where_one_env_is_ambiguous(commands: FakeCommands) -> None:
    texts: dict[str, str | bytes] = {
        "one_env": 'export A="say "hi""\nexport TOKENTXT="dG9rZW4="\n',
        "context.sh": "A='say \"hi\"'\n",
    }
    context = gather_context(machine(commands, texts))
    assert context.values == {"A": 'say "hi"', "TOKENTXT": "dG9rZW4="}
    assert context.source == f"{RUN}/context.sh"
    (warning,) = context.warnings
    assert f"{RUN}/one_env, line 1: A " in warning
    assert f"{RUN}/context.sh was taken instead" in warning


@pytest.mark.parametrize(
    ("one_env", "context_sh", "value"),
    [
        # The package wrote a backslash raw, which reads like a protected one.
        (r'export A="C:\\x"', r"A='C:\\x'", r"C:\\x"),
        # A value whose second line looks like the next export.
        ('export A="x"\nexport B="y"\n"', 'A=\'x"\nexport B="y"\n\'', 'x"\nexport B="y"\n'),
        ('export A="one"', "A='two'", "two"),
    ],
)
def test_context_sh_decides_where_one_env_says_something_else(
    commands: FakeCommands, one_env: str, context_sh: str, value: str
) -> None:
    texts: dict[str, str | bytes] = {
        "one_env": one_env + '\nexport TOKENTXT="dG9rZW4="\n',
        "context.sh": context_sh + "\n",
    }
    context = gather_context(machine(commands, texts))
    assert context.values["A"] == value
    assert context.values["TOKENTXT"] == "dG9rZW4="
    assert len(context.warnings) == 1
    assert "dG9rZW4=" not in context.warnings[0]


def test_a_difference_is_told_by_name_and_not_by_value(commands: FakeCommands) -> None:
    texts: dict[str, str | bytes] = {
        "one_env": 'export PASSWORD="planted-1"',
        "context.sh": "PASSWORD='planted-2'",
    }
    (warning,) = gather_context(machine(commands, texts)).warnings
    assert "PASSWORD" in warning
    assert "planted" not in warning


def test_an_ambiguous_one_env_without_a_judge_is_an_error(commands: FakeCommands) -> None:
    with pytest.raises(Ambiguous, match=f"{RUN}/one_env, line 1: A has an unprotected quote"):
        gather_context(machine(commands, {"one_env": 'export A="say "hi""'}))


def test_what_only_one_env_has_is_kept_beside_an_agreeing_context_sh(
    commands: FakeCommands,
) -> None:
    texts: dict[str, str | bytes] = {
        "one_env": 'export A="1"\nexport TOKENTXT="dG9rZW4="\n',
        "context.sh": "A='1'\n",
    }
    context = gather_context(machine(commands, texts))
    assert context.values == {"A": "1", "TOKENTXT": "dG9rZW4="}
    assert context.warnings == ()


@pytest.mark.parametrize("folder", [RUN, VAR_RUN])
def test_context_sh_alone_gets_the_token_from_the_file_beside_it(
    commands: FakeCommands, folder: str
) -> None:
    texts: dict[str, str | bytes] = {
        f"{folder}/context.sh": "A='1'\n",
        f"{folder}/token.txt": "dG9rZW4=\n",
    }
    assert gather_context(machine(commands, texts)).values["TOKENTXT"] == "dG9rZW4="


def test_a_token_in_the_context_wins_over_the_file(commands: FakeCommands) -> None:
    texts: dict[str, str | bytes] = {"context.sh": "TOKENTXT='b25l'\n", "token.txt": "dHdv\n"}
    assert gather_context(machine(commands, texts)).values["TOKENTXT"] == "b25l"


# --- the disc -------------------------------------------------------------------------------------


class Disc(FakeCommands):
    """A disc whose files are there while it is mounted."""

    files: FakeFiles
    texts: dict[str, str | bytes]

    def _answer(self, argv: tuple[str, ...], stdin: str | None) -> Call:
        answer = super()._answer(argv, stdin)
        for name, text in self.texts.items():
            if argv[0] == "mount" and answer.rc == 0:
                self.files.put(f"{MOUNT}/{name}", text)
            if argv[0] == "umount":
                del self.files.kept[PurePosixPath(MOUNT) / name]
        return answer


def disc(texts: dict[str, str | bytes], *, mount: Call | None = None) -> tuple[System, Disc]:
    """Return a machine with a context disc."""
    commands = Disc([Call(FIND, stdout="/dev/sr0\n"), mount or Call(MOUNTED)])
    if mount is None:
        commands.expect(Call(UNMOUNTED))
    commands.files, commands.texts = FakeFiles(), texts
    return make_system(commands=commands, files=commands.files), commands


def test_the_disc_is_mounted_read_only_and_unmounted() -> None:
    system, commands = disc({"context.sh": "A='1'\n", "token.txt": "dG9rZW4=\n"})
    context = gather_context(system)
    commands.assert_done()
    assert context.values == {"A": "1", "TOKENTXT": "dG9rZW4="}
    assert context.source == "/dev/sr0"
    assert commands.files.folders == {PurePosixPath(MOUNT): 0o700}


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        ({}, "/dev/sr0 holds no context.sh"),
        ({"context.sh": "A='1\n"}, r"/dev/sr0: context\.sh, line 1: A has no closing quote"),
        ({"context.sh": b"\xff"}, "not UTF-8"),
        ({"context.sh": "A='1'", "token.txt": b"\xff"}, "not UTF-8"),
        ({"context.sh": "A='1'", "token.txt": "x" * 5000}, "larger than"),
    ],
)
def test_a_disc_with_something_wrong_is_unmounted_too(
    texts: dict[str, str | bytes], words: str
) -> None:
    system, commands = disc(texts)
    with pytest.raises(OnekeError, match=words):
        gather_context(system)
    commands.assert_done()


def test_a_disc_that_can_not_be_mounted_is_named() -> None:
    system, commands = disc({}, mount=Call(MOUNTED, 32, stderr="wrong fs type"))
    with pytest.raises(ContextError, match=r"context disc /dev/sr0 can not be mounted: .*wrong fs"):
        gather_context(system)
    commands.assert_done()


@pytest.mark.parametrize("answer", [Call(FIND, 2), Call(FIND, 0, stdout="\n")])
def test_no_context_at_all_says_where_was_looked(commands: FakeCommands, answer: Call) -> None:
    commands.expect(answer)
    with pytest.raises(
        ContextError, match="no context: none of /run/one-context/one_env"
    ) as caught:
        gather_context(machine(commands, {}))
    assert "--context" in str(caught.value.hint)


def test_a_machine_without_blkid_says_so(commands: FakeCommands) -> None:
    commands.expect(Call(FIND, rc=None))
    with pytest.raises(CommandError, match="blkid"):
        gather_context(machine(commands, {}))
