"""The lock, and the mirrors that stand in for what it names."""

from __future__ import annotations

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from appliance.errors import LockFileError
from appliance.lock import Lock, Pin, parse_lock, parse_sources, render_lock

SUM = "a" * 64
LOCK = Lock(
    releases={"tool": "v1.2+3"},
    files={"tool": {"amd64": Pin("https://host.example/tool", SUM), "arm64": Pin("", "")}},
    charts={"chart": Pin("https://charts.example/chart.tgz", "")},
    images={"tool": {"docker.io/some/image:1": f"sha256:{SUM}", "quay.io/x/y:2": ""}, "list": {}},
)


def test_what_is_written_is_what_is_read() -> None:
    text = render_lock(LOCK)
    assert parse_lock(text, "lock") == LOCK
    assert render_lock(parse_lock(text, "lock")) == text


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[]", "expected a mapping"),
        ("releases: {a: 1.2}", "1.2 is not of the form expected"),
        ("unknown: {}", "unknown not understood"),
        ("files: {a: {amd64: {url: ftp://host/x}}}", "url: 'ftp://host/x'"),
        ("files: {a: {amd64: {url: 'https://me:secret@host/x'}}}", "is not of the form expected"),
        (f"files: {{a: {{amd64: {{sha256: {SUM[1:]}}}}}}}", "sha256: "),
        ("charts: {a: x}", "lock: a: expected a mapping"),
        (f"images: {{a: {{'i:1': '{SUM}'}}}}", "lock: i:1: "),
        ("a: [", "lock: "),
    ],
)
def test_what_is_no_lock_is_refused_with_its_place(text: str, complaint: str) -> None:
    with pytest.raises(LockFileError) as refused:
        parse_lock(text, "lock")
    assert complaint in str(refused.value)


KEYS = st.sampled_from(["releases", "files", "charts", "images", "amd64", "url", "sha256", "x"])
DOCUMENTS = st.recursive(
    st.none() | st.integers() | st.sampled_from(["", SUM, f"sha256:{SUM}", "https://h/x", "x"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=12,
)


@given(DOCUMENTS | st.text())
def test_whatever_is_written_is_read_as_it_is_written_or_refused(document: object) -> None:
    text = document if isinstance(document, str) else yaml.safe_dump(document)
    try:
        lock = parse_lock(text, "lock")
    except LockFileError as error:
        assert str(error).startswith("lock: ")
    else:
        assert parse_lock(render_lock(lock), "lock") == lock


def test_the_longest_beginning_decides_which_mirror_stands_in() -> None:
    sources = parse_sources(
        ["github.com=https://mirror.example/github", "github.com/rancher=https://other.example/r/"]
    )
    assert sources.url("https://github.com/rancher/x") == "https://other.example/r/x"
    assert sources.url("https://github.com/ranch/x") == "https://mirror.example/github/ranch/x"
    assert sources.url("https://github.community/x") == "https://github.community/x"


def test_a_mirror_without_a_scheme_is_spoken_to_with_tls() -> None:
    sources = parse_sources(["github.com=mirror.example/g", "docker.io=registry.example/hub"])
    assert sources.url("https://github.com/x") == "https://mirror.example/g/x"
    assert sources.image("docker.io/a/b:1") == ("registry.example/hub/a/b:1", False)
    assert sources.image("quay.io/a/b:1") == ("quay.io/a/b:1", False)


def test_a_registry_that_is_given_as_http_is_spoken_to_without_tls() -> None:
    sources = parse_sources(["docker.io=http://127.0.0.1:5000/hub"])
    assert sources.image("docker.io/a/b:1") == ("127.0.0.1:5000/hub/a/b:1", True)


@pytest.mark.parametrize(
    "text",
    [
        "github.com",
        "=https://mirror.example",
        "github.com=",
        "https://github.com=https://mirror.example",
        "github.com=ftp://mirror.example",
        "github.com=https://me:hidden@mirror.example",
        "github.com=https://mirror.example/x?token=hidden",
    ],
)
def test_what_is_no_source_is_refused_and_not_repeated(text: str) -> None:
    with pytest.raises(LockFileError) as refused:
        parse_sources([text])
    assert "hidden" not in str(refused.value)
    assert "netrc" in str(refused.value.hint)
