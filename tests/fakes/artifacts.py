"""What artifacts come from, and how they are handled: contents are short texts, archives JSON."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import PurePosixPath

from appliance.errors import ArtifactRefused, ArtifactUnavailable
from appliance.system.bulk import Room
from appliance.system.files import Files
from tests.fakes.files import FakeFiles


def sum_of(text: str) -> str:
    """Return the sum of a text."""
    return hashlib.sha256(text.encode()).hexdigest()


def archive_of(members: Mapping[str, str]) -> str:
    """Return what stands for an archive with these texts."""
    return json.dumps(dict(members))


class FakeDownloads:
    """A web of texts.

    Attributes:
        served: Address to text.
        gone: Addresses whose servers do not answer.
        asked: Every address that was fetched, in order.
    """

    def __init__(self, files: Files) -> None:
        """Write into these files."""
        self._files = files
        self.served: dict[str, str] = {}
        self.gone: set[str] = set()
        self.asked: list[str] = []
        self.is_stopped = False

    def _text(self, url: str) -> str:
        if url in self.gone:
            raise ArtifactUnavailable(f"{url}: no answer in time")
        if url not in self.served:
            raise ArtifactRefused(f"{url}: HTTP status 404 Not Found")
        return self.served[url]

    def look(self, url: str) -> int | None:
        """Return the size of a text."""
        return len(self._text(url).encode())

    def read(self, url: str, *, limit: int) -> bytes:
        """Return a text as it is."""
        data = self._text(url).encode()
        if len(data) > limit:
            raise ArtifactRefused(f"{url}: larger than {limit} bytes")
        return data

    def fetch(self, url: str, to: PurePosixPath, sha256: str) -> None:
        """Have a text in a file, with this sum."""
        self.asked.append(url)
        text = self._text(url)
        if sum_of(text) != sha256:
            raise ArtifactRefused(f"{url}: expected sha256 {sha256}, found {sum_of(text)}")
        self._files.write(to, text)

    def stop(self) -> None:
        """Remember that it was stopped."""
        self.is_stopped = True


class FakeRegistry:
    """Registries: each image by its reference, with the architectures it is for.

    Attributes:
        images: `HOST/NAME:TAG` to digest.
        is_installed: Whether skopeo is there.
        saved: Every reference that was saved, in order.
    """

    def __init__(self, files: Files) -> None:
        """Write into these files."""
        self._files = files
        self.images: dict[str, str] = {}
        self.is_installed = True
        self.saved: list[str] = []

    def has_program(self) -> bool:
        """Say whether skopeo is there."""
        return self.is_installed

    def digest(self, reference: str, *, is_plain: bool) -> str:
        """Return the digest that a tag has now."""
        if reference not in self.images:
            raise ArtifactRefused(f"{reference}: manifest unknown")
        return self.images[reference]

    def size(self, reference: str, arch: str, *, is_plain: bool) -> int:
        """Return some size."""
        self._refuse_unknown(reference)
        return 1000

    def save(
        self, reference: str, arch: str, to: PurePosixPath, name: str, *, is_plain: bool
    ) -> None:
        """Write what stands for an image."""
        self._refuse_unknown(reference)
        self.saved.append(reference)
        self._files.write(to, f"{name} {reference} {arch}\n")

    def stop(self) -> None:
        """Nothing takes long here."""

    def _refuse_unknown(self, reference: str) -> None:
        name, _, digest = reference.partition("@")
        known = {(tagged.rpartition(":")[0], found) for tagged, found in self.images.items()}
        if (name, digest) not in known:
            raise ArtifactRefused(f"{reference}: manifest unknown")


class FakeBulk:
    """Large files that are small.

    Attributes:
        free_bytes: How much fits anywhere.
    """

    def __init__(self, files: Files) -> None:
        """Handle these files."""
        self._files = files
        self.free_bytes = 10**12

    def sha256(self, path: PurePosixPath) -> str | None:
        """Return the sum of a file's text."""
        text = self._files.read(path)
        return None if text is None else sum_of(text)

    def size(self, path: PurePosixPath) -> int:
        """Return the size of a file's text."""
        return len((self._files.read(path) or "").encode())

    def room(self, folder: PurePosixPath) -> Room:
        """Return how much fits."""
        return Room(1, self.free_bytes)

    def move(self, source: PurePosixPath, target: PurePosixPath, *, mode: int) -> None:
        """Give a file another name."""
        self._files.write(target, self._files.read(source) or "", mode=mode)
        self._files.remove(source)

    def unpack(
        self, archive: PurePosixPath, into: PurePosixPath, picked: Mapping[str, str]
    ) -> dict[PurePosixPath, str]:
        """Write each text of what stands for an archive."""
        members = json.loads(self._files.read(archive) or "{}")
        wanted = picked or {name: name for name in members}
        for name, given in wanted.items():
            self._files.write(into / given, members[name], mode=0o755)
        return {into / given: sum_of(members[name]) for name, given in wanted.items()}

    def list_names(self, folder: PurePosixPath) -> tuple[str, ...]:
        """Return the names of what is right there."""
        files = self._files
        kept = (*files.kept, *files.links) if isinstance(files, FakeFiles) else ()
        own = {path.relative_to(folder).parts[0] for path in kept if folder in path.parents}
        return tuple(sorted(own))

    def remove_folder(self, folder: PurePosixPath) -> None:
        """Leave folders be: they are not kept."""
