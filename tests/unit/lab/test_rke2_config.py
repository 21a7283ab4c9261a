"""The double reads configuration, tokens and knobs as RKE2 does."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from tests.lab.rke2.double.config import (
    ConfigError,
    check,
    config_files,
    merge_files,
    parse_arguments,
    parse_taint,
    resolve,
    to_flags,
)
from tests.lab.rke2.double.flags import FLAGS, known_flags, render_help
from tests.lab.rke2.double.journal import log_line
from tests.lab.rke2.double.knobs import Knobs
from tests.lab.rke2.double.tokens import Token, TokenError, ca_hash, long_token, parse_token

HASH = "ab" * 32


def flags(*texts: str) -> list[tuple[str, str]]:
    named = [(f"{index}.yaml", text) for index, text in enumerate(texts)]
    return to_flags(merge_files(named))


# --- files ---------------------------------------------------------------------------------------


def test_drop_ins_are_read_after_the_base_file_by_their_bytes(tmp_path: Path) -> None:
    base = tmp_path / "config.yaml"
    folder = tmp_path / "config.yaml.d"
    (folder / "inner").mkdir(parents=True)
    for name in ("90-z.yaml", "50-b.YML", "Z.yaml", "note.txt", "inner/10-a.yaml"):
        (folder / name).write_text("")
    drop_ins = ["50-b.YML", "90-z.yaml", "Z.yaml"]
    assert [path.name for path in config_files(base)] == drop_ins
    base.write_text("")
    assert [path.name for path in config_files(base)] == ["config.yaml", *drop_ins]


def test_no_file_is_no_error(tmp_path: Path) -> None:
    assert config_files(tmp_path / "config.yaml") == []


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["a: 1\nb: x", "a: 2"], [("a", "2"), ("b", "x")]),
        (["l: [a, b]", "l: [c]"], [("l", "c")]),
        (["l: [a]", "l+: [b, c]"], [("l", "a"), ("l", "b"), ("l", "c")]),
        (["l: a", "l+: b"], [("l", "a"), ("l", "b")]),
        (["l+: [a]"], [("l", "a")]),
        (["l: [a]", "l+: [b]", "l: [c]"], [("l", "c")]),
        (["e: []\nn: null\nt: true\nf: no"], [("n", ""), ("t", "true"), ("f", "false")]),
        (["", "# nothing"], []),
    ],
)
def test_files_are_merged(texts: list[str], expected: list[tuple[str, str]]) -> None:
    assert flags(*texts) == expected


@pytest.mark.parametrize("text", ["a: [", "- a", "just text", "a: {b: c}"])
def test_what_is_no_mapping_of_plain_values_is_fatal(text: str) -> None:
    with pytest.raises(ConfigError):
        flags(text)


# --- flags ---------------------------------------------------------------------------------------


def test_the_command_line_wins_and_its_lists_are_added() -> None:
    given = parse_arguments("server", ["--node-name=b", "--tls-san", "y", "-t", "x", "--debug"])
    values, _ = resolve("server", flags("node-name: a\ntls-san: [x]"), given, {})
    assert values["node-name"] == "b"
    assert values["tls-san"] == ["x", "y"]
    assert values["token"] == "x"
    assert values["debug"] is True


def test_the_environment_is_for_what_nothing_else_says() -> None:
    environment = {"RKE2_TOKEN": "env", "RKE2_URL": "https://env:9345"}
    values, _ = resolve("agent", flags("token: file"), [], environment)
    assert (values["token"], values["server"]) == ("file", "https://env:9345")


def test_keys_of_another_role_are_skipped() -> None:
    values, unknown = resolve("agent", flags("tls-san: [x]\ncni: canal\nnode-name: n"), [], {})
    assert unknown == ["tls-san", "cni"]
    assert "tls-san" not in values


def test_only_lists_of_addresses_and_names_are_split_at_commas() -> None:
    text = "cluster-cidr: 10.42.0.0/16,fd00::/56\nkubelet-arg: ['a=b,c=d']"
    values, _ = resolve("server", flags(text), [], {})
    assert values["cluster-cidr"] == ["10.42.0.0/16", "fd00::/56"]
    assert values["kubelet-arg"] == ["a=b,c=d"]


@pytest.mark.parametrize(
    "text",
    ["debug: maybe", "lb-server-port: many", "etcd-snapshot-reconcile-interval: soon"],
)
def test_a_value_of_another_kind_is_fatal(text: str) -> None:
    with pytest.raises(ConfigError, match="invalid"):
        resolve("server", flags(text), [], {})


@pytest.mark.parametrize(
    ("text", "accepted"),
    [
        ("cni: canal", True),
        ("cni: [multus, cilium]", True),
        ("cni: multus,calico", True),
        ("cni: none", True),
        ("cni: multus", False),
        ("cni: [canal, multus]", False),
        ("cni: weave", False),
        ("node-name: Node_1", False),
        ("node-taint: ['a=b:Never']", False),
        ("node-label: ['node-role.kubernetes.io/worker=true']", False),
        ("node-label: ['oneke.opennebula.io/vm-id=3']", True),
    ],
)
def test_some_values_are_refused_at_once(text: str, accepted: bool) -> None:
    values, _ = resolve("server", flags(text), [], {})
    if accepted:
        check("server", values)
        return
    with pytest.raises(ConfigError):
        check("server", values)


def test_a_taint_has_a_key_a_value_and_an_effect() -> None:
    assert parse_taint("a/b=c:NoExecute") == {"key": "a/b", "value": "c", "effect": "NoExecute"}


def test_the_help_names_each_flag_of_the_role_once() -> None:
    assert len({flag.name for flag in FLAGS}) == len(FLAGS)
    for role in ("server", "agent"):
        shown = [
            line.split()[0].lstrip("-").rstrip(",")
            for line in render_help(role).splitlines()
            if line.startswith("   --")
        ]
        assert shown == [*known_flags(role), "help"]
    assert "tls-san" not in known_flags("agent")


# --- tokens --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("password", Token("password")),
        (" password\n", Token("password")),
        (f"K10{HASH}::server:pass:word", Token("pass:word", HASH)),
        (f"K10{HASH}::node:other", Token("other", HASH)),
        ("abcdef.0123456789abcdef", Token("abcdef.0123456789abcdef", is_bootstrap=True)),
    ],
)
def test_tokens_have_three_forms(text: str, expected: Token) -> None:
    assert parse_token(text) == expected


@pytest.mark.parametrize("text", ["", " \n", "K10abc::server:x", f"K10{HASH}", f"K10{HASH}::x"])
def test_a_broken_token_is_refused(text: str) -> None:
    with pytest.raises(TokenError):
        parse_token(text)


def test_a_long_token_pins_the_bytes_of_the_certificate() -> None:
    pem = b"-----BEGIN CERTIFICATE-----\n"
    assert ca_hash(pem) == hashlib.sha256(pem).hexdigest()
    assert parse_token(long_token(pem, "server", "x")) == Token("x", ca_hash(pem))


# --- knobs and lines -----------------------------------------------------------------------------


def test_knobs_can_be_turned_at_any_time(tmp_path: Path) -> None:
    kept, lost = tmp_path / "etc.yaml", tmp_path / "run.yaml"
    knobs = Knobs([kept, lost])
    assert knobs.delay("images") == 0.3
    assert knobs.version() == ("1.35", "v1.35.7+rke2r1")
    kept.write_text("scale: 2\ndelays: {images: 1}\nmodes: {ccm-stuck: true}\n")
    assert knobs.delay("images") == 2
    assert knobs.mode("ccm-stuck") is True
    lost.write_text(json.dumps({"modes": {"ccm-stuck": False, "slow-start": {"cni": 4}}}))
    assert knobs.mode("ccm-stuck") is None
    assert knobs.delay("cni") == 8
    with pytest.raises(KeyError):
        knobs.mode("ccm-stuk")


def test_lines_are_in_the_format_of_logrus() -> None:
    line = log_line("fatal", 'Get "https://x/cacerts": EOF', 0)
    assert line == (
        'time="1970-01-01T00:00:00Z" level=fatal msg="Get \\"https://x/cacerts\\": EOF"'
    )
