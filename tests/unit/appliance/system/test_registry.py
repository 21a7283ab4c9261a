"""Registries through skopeo: what is asked, and what its words mean."""

from __future__ import annotations

import json
from pathlib import PurePosixPath

import pytest

from appliance.errors import ArtifactRefused, ArtifactUnavailable, FileError, OnekeError
from appliance.system.registry import SkopeoRegistry
from tests.fakes import Call, FakeFiles
from tests.fakes.commands import FakeCommands

DIGEST = f"sha256:{'a' * 64}"
IMAGE = "registry.example/some/image"
GLOBAL = ("skopeo", "--insecure-policy", "--override-os", "linux", "--override-arch")
INSPECT = (*GLOBAL, "amd64", "inspect")
RETRY = ("--retry-times", "3")


class Commands(FakeCommands):
    """Commands that can be ended."""

    ended = 0

    def end_all(self) -> None:
        """Count it."""
        self.ended += 1


def said(text: str) -> str:
    """Return a line of skopeo's log."""
    return f'time="2026-01-01T00:00:00Z" level=fatal msg="{text}"\n'


def make(*calls: Call) -> tuple[SkopeoRegistry, Commands]:
    """Return a registry whose skopeo is expected to be called so."""
    commands = Commands(calls)
    return SkopeoRegistry(commands, FakeFiles()), commands


def test_the_digest_is_that_of_the_tag() -> None:
    argv = (*INSPECT, "--no-tags", "--format", "{{.Digest}}", *RETRY, f"docker://{IMAGE}:1")
    registry, commands = make(Call(argv, stdout=f"{DIGEST}\n"))
    assert registry.digest(f"{IMAGE}:1", is_plain=False) == DIGEST
    commands.assert_done()


def test_what_is_no_digest_is_not_taken_for_one() -> None:
    registry, commands = make()
    commands.always("skopeo", Call((), stdout="sha256:short\n"))
    with pytest.raises(ArtifactUnavailable, match="tells no digest"):
        registry.digest(f"{IMAGE}:1", is_plain=False)


def test_the_size_is_that_of_the_image_for_the_machine() -> None:
    index = {
        "manifests": [
            {"digest": "sha256:att", "platform": {"os": "unknown", "architecture": "unknown"}},
            {"digest": "sha256:amd", "platform": {"os": "linux", "architecture": "amd64"}},
            {"digest": "sha256:arm", "platform": {"os": "linux", "architecture": "arm64"}},
        ]
    }
    manifest = {"layers": [{"size": 100}, {"size": 23}]}
    plain = ("--raw", *RETRY, "--tls-verify=false")
    registry, commands = make(
        Call((*INSPECT, *plain, f"docker://{IMAGE}@{DIGEST}"), stdout=json.dumps(index)),
        Call((*INSPECT, *plain, f"docker://{IMAGE}@sha256:arm"), stdout=json.dumps(manifest)),
    )
    assert registry.size(f"{IMAGE}@{DIGEST}", "arm64", is_plain=True) == 123
    commands.assert_done()


def test_an_image_for_other_machines_only_is_refused() -> None:
    registry, commands = make()
    commands.always("skopeo", Call((), stdout='{"manifests": []}'))
    with pytest.raises(ArtifactRefused, match="holds no image for linux on arm64"):
        registry.size(f"{IMAGE}@{DIGEST}", "arm64", is_plain=False)


def test_an_image_is_saved_anew_over_what_a_cut_run_left() -> None:
    to = PurePosixPath("/var/cache/oneke/image.tar")
    argv = (
        *(*GLOBAL, "arm64", "copy", "--quiet", *RETRY),
        *(f"docker://{IMAGE}@{DIGEST}", f"docker-archive:{to}:docker.io/some/image:1"),
    )
    files = FakeFiles({str(to): "half"})
    commands = Commands([Call(argv)])
    registry = SkopeoRegistry(commands, files)
    registry.save(f"{IMAGE}@{DIGEST}", "arm64", to, "docker.io/some/image:1", is_plain=False)
    assert to not in files.kept
    commands.assert_done()


@pytest.mark.parametrize(
    ("text", "kind", "told"),
    [
        ("reading manifest 1 in x: manifest unknown", ArtifactRefused, "manifest unknown"),
        ("Digest did not match, expected a, got b", ArtifactRefused, "expected a, got b"),
        ("requested access to the resource is denied", ArtifactRefused, "denied"),
        (
            "Error parsing image name 'docker://x': pinging: Get \\\"https://x\\\": no route",
            ArtifactUnavailable,
            "pinging: Get 'https://x': no route",
        ),
    ],
)
def test_what_skopeo_complains_of_is_told_with_the_image(
    text: str, kind: type[Exception], told: str
) -> None:
    registry, commands = make()
    commands.always("skopeo", Call((), rc=1, stderr=said(text)))
    with pytest.raises(kind) as refused:
        registry.digest(f"{IMAGE}:1", is_plain=False)
    assert str(refused.value).startswith(f"{IMAGE}:1: ")
    assert str(refused.value).endswith(told)


AGAIN = "run it again, or name another --source"
VERSION = "is the version right, and does the mirror hold it?"
LOGIN = "skopeo login registry.example, or name a file of credentials with REGISTRY_AUTH_FILE"
MANIFEST = f"reading manifest 1 in {IMAGE}: "


@pytest.mark.parametrize(
    ("text", "kind", "hint"),
    [
        (f"{MANIFEST}manifest unknown", ArtifactRefused, VERSION),
        (f"{MANIFEST}unauthorized: authentication required", ArtifactRefused, LOGIN),
        (f"{MANIFEST}denied", ArtifactRefused, LOGIN),
        (f"{MANIFEST}StatusCode: 403, <html>no</html>", ArtifactRefused, LOGIN),
        (f"{MANIFEST}denied: Permission denied for 1 from request /v2/x", ArtifactRefused, LOGIN),
        (
            f"{MANIFEST}toomanyrequests: You have reached your unauthenticated pull rate limit."
            " You are unauthorized to pull more",
            ArtifactUnavailable,
            AGAIN,
        ),
        (
            f"{MANIFEST}received unexpected HTTP status: 503 Service Unavailable",
            ArtifactUnavailable,
            AGAIN,
        ),
        (
            'initializing destination docker-archive:/cache/a.tar:x: opening file \\"/a.tar\\":'
            " open /cache/a.tar: permission denied",
            FileError,
            "run it as a user that may write /cache/a.tar",
        ),
        (
            "copying system image from manifest list: writing blob: writing to temporary on-disk"
            " layer: write /var/tmp/stream-blob3766167764: no space left on device",
            FileError,
            "make room where /var/tmp/stream-blob3766167764 is, then run it again",
        ),
    ],
)
def test_what_helps_depends_on_what_skopeo_complains_of(
    text: str, kind: type[OnekeError], hint: str
) -> None:
    """In the words of skopeo 1.9.3."""
    registry, commands = make()
    commands.always("skopeo", Call((), rc=1, stderr=said(text)))
    with pytest.raises(kind) as refused:
        registry.digest(f"{IMAGE}:1", is_plain=False)
    assert type(refused.value) is kind
    assert refused.value.hint == hint


def test_whether_skopeo_is_there_is_found_by_asking_it() -> None:
    missing, _ = make(Call(("skopeo", "--version"), rc=None))
    there, _ = make(Call(("skopeo", "--version"), stdout="skopeo version 1.9.3\n"))
    assert (missing.has_program(), there.has_program()) == (False, True)


def test_being_stopped_ends_what_runs() -> None:
    registry, commands = make()
    registry.stop()
    assert commands.ended == 1
