"""Container registries, by skopeo: the digest of an image, and an image as one archive file.

Source: skopeo-copy(1), skopeo-inspect(1), containers-transports(5).
"""

from __future__ import annotations

import json
import re
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

from appliance.errors import (
    ArtifactRefused,
    ArtifactUnavailable,
    CommandError,
    FileError,
    OnekeError,
)
from appliance.system.commands import Commands
from appliance.system.files import Files
from appliance.system.watch import Unwatched, Watch

PROGRAM = "skopeo"

_LOOK_TIMEOUT_S = 180
_SAVE_TIMEOUT_S = 3600
# What skopeo says where a registry has no such image, or another than the one with the digest.
_NOT_THERE = ("manifest unknown", "name unknown", "did not match", "no image")
# What it says where a registry gives it to others only, or has not got it and does not say so.
_NOT_ALLOWED = ("unauthorized", "denied", "statuscode: 403", "403 (forbidden)", "403 forbidden")
# What it says of files of this machine: the call, the path, and the reason.
_LOCAL = re.compile(
    r"\b(open|write|mkdir|creat|rename) (?P<path>/\S+): "
    r"(?P<reason>no space left on device|disk quota exceeded|permission denied)"
)
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}\Z")
_PREAMBLE = re.compile(r"Error parsing image name '[^']*': ")
_LISTS = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)


class Registry(Protocol):
    """Asks registries; a reference is `HOST/NAME:TAG` or `HOST/NAME@DIGEST`."""

    def has_program(self) -> bool:
        """Say whether what asks them is installed."""

    def digest(self, reference: str, *, is_plain: bool) -> str:
        """Return the digest that a tag has now.

        Args:
            reference: The image.
            is_plain: Whether the registry is spoken to without TLS.

        Raises:
            ArtifactRefused: There is no such image.
            ArtifactUnavailable: The registry does not answer.
        """

    def size(self, reference: str, arch: str, *, is_plain: bool) -> int:
        """Return how many bytes an image is of, compressed as it is in the registry.

        Raises:
            ArtifactRefused: There is no such image, or none for the architecture.
            ArtifactUnavailable: The registry does not answer.
        """

    def stop(self) -> None:
        """Let all that is being saved end soon."""

    def save(
        self, reference: str, arch: str, to: PurePosixPath, name: str, *, is_plain: bool
    ) -> None:
        """Write an image into an archive file.

        Args:
            reference: The image, by its digest.
            arch: For which machines.
            to: The file.
            name: What the image is called in there.
            is_plain: Whether the registry is spoken to without TLS.

        Raises:
            ArtifactRefused: There is no such image, or it is not what its digest says.
            ArtifactUnavailable: It did not come whole.
            FileError: It can not be written.
        """


class EndableCommands(Commands, Protocol):
    """Runs commands that another thread may end."""

    def end_all(self) -> None:
        """End those that are running."""


class SkopeoRegistry:
    """Asks registries by skopeo, which verifies every digest on its way."""

    def __init__(self, commands: EndableCommands, files: Files, watch: Watch | None = None) -> None:
        """Write under the root of `files`."""
        self._commands = commands
        self._files = files
        self._watch = watch or Unwatched()

    def stop(self) -> None:
        """Let all that is being saved end soon; see `Registry.stop`."""
        self._commands.end_all()

    def has_program(self) -> bool:
        """Say whether skopeo is installed."""
        try:
            self._commands.run((PROGRAM, "--version"))
        except CommandError:
            return False
        return True

    def digest(self, reference: str, *, is_plain: bool) -> str:
        """Return the digest that a tag has now; see `Registry.digest`."""
        options = ("--no-tags", "--format", "{{.Digest}}")
        found = self._inspect(reference, is_plain, options).strip()
        if not _DIGEST.match(found):
            raise ArtifactUnavailable(f"{reference}: {PROGRAM} tells no digest: {found[:80]!r}")
        return found

    def size(self, reference: str, arch: str, *, is_plain: bool) -> int:
        """Return how many bytes an image is of; see `Registry.size`."""
        manifest = json.loads(self._inspect(reference, is_plain, ("--raw",)))
        if manifest.get("mediaType") in _LISTS or "manifests" in manifest:
            name = reference.partition("@")[0]
            one = f"{name}@{_digest_for(manifest, arch, reference)}"
            manifest = json.loads(self._inspect(one, is_plain, ("--raw",)))
        layers = manifest.get("layers") or []
        return sum(int(layer.get("size", 0)) for layer in layers)

    def save(
        self, reference: str, arch: str, to: PurePosixPath, name: str, *, is_plain: bool
    ) -> None:
        """Write an image into an archive file; see `Registry.save`."""
        # skopeo adds to no archive that is there.
        self._files.remove(to)
        self._files.ensure_folder(to.parent)
        verify = ("--src-tls-verify=false",) if is_plain else ()
        argv = (
            *(PROGRAM, "--insecure-policy", "--override-os", "linux", "--override-arch", arch),
            *("copy", "--quiet", "--retry-times", "3", *verify),
            *(f"docker://{reference}", f"docker-archive:{self._files.real(to)}:{name}"),
        )
        # skopeo tells how far it is only where it writes to a terminal itself.
        self._watch.moved(name, 0, None)
        try:
            self._run(argv, reference, _SAVE_TIMEOUT_S)
            self._watch.moved(name, _size_of(self._files.real(to)), None)
        finally:
            self._watch.ended(name)

    def _inspect(self, reference: str, is_plain: bool, options: tuple[str, ...]) -> str:
        verify = ("--tls-verify=false",) if is_plain else ()
        # An index may hold nothing for the machine that asks; there is always one for this kind.
        argv = (
            *(PROGRAM, "--insecure-policy", "--override-os", "linux", "--override-arch", "amd64"),
            *("inspect", *options, "--retry-times", "3", *verify, f"docker://{reference}"),
        )
        return self._run(argv, reference, _LOOK_TIMEOUT_S)

    def _run(self, argv: tuple[str, ...], reference: str, timeout_s: float) -> str:
        try:
            return self._commands.run(argv, timeout_s=timeout_s).stdout
        except CommandError as error:
            raise _judge(reference, _message(error)) from error


def _size_of(path: str) -> int:
    at = Path(path)
    return at.stat().st_size if at.exists() else 0


def _digest_for(index: dict[str, Any], arch: str, reference: str) -> str:
    """Return the digest of the manifest for one kind of machine."""
    found = [
        str(one.get("digest"))
        for one in index.get("manifests", ())
        if (one.get("platform") or {}).get("architecture") == arch
        and (one.get("platform") or {}).get("os") == "linux"
    ]
    if not found:
        raise ArtifactRefused(f"{reference}: holds no image for linux on {arch}")
    return found[0]


def _judge(reference: str, said: str) -> OnekeError:
    """Return what a complaint means, and what helps."""
    text, words = f"{reference}: {said}", said.lower()
    local = _LOCAL.search(said)
    if local and local["reason"] == "permission denied":
        return FileError(text, hint=f"run it as a user that may write {local['path']}")
    if local:
        return FileError(text, hint=f"make room where {local['path']} is, then run it again")
    if any(word in words for word in _NOT_THERE):
        return ArtifactRefused(text, hint="is the version right, and does the mirror hold it?")
    # Who has had too many may be told, too, that he is not logged in.
    if "toomanyrequests" not in words and any(word in words for word in _NOT_ALLOWED):
        host = reference.partition("/")[0]
        hint = f"skopeo login {host}, or name a file of credentials with REGISTRY_AUTH_FILE"
        return ArtifactRefused(text, hint=hint)
    return ArtifactUnavailable(text, hint="run it again, or name another --source")


def _message(error: CommandError) -> str:
    """Return what skopeo complains of, without the log line around it."""
    lines = [line for line in error.stderr.splitlines() if "level=fatal" in line]
    if not lines:
        return str(error)
    said = lines[-1].partition("msg=")[2].strip().strip('"').replace('\\"', "'")
    return _PREAMBLE.sub("", said)
