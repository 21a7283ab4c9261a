"""Etcd in memory, for tests of what the double keeps in it."""

from __future__ import annotations

from collections.abc import Sequence

from tests.lab.rke2.double.etcd import Entry, Etcd, Member, Status


class MemoryEtcd(Etcd):
    """Keys in a dictionary, members in a list."""

    def __init__(self) -> None:
        super().__init__()
        self.entries: dict[str, Entry] = {}
        self.revision = 0
        self.listed: list[Member] = []

    def get(self, key: str) -> Entry | None:
        return self.entries.get(key)

    def below(self, prefix: str) -> list[Entry]:
        return [self.entries[key] for key in sorted(self.entries) if key.startswith(prefix)]

    def below_each(self, prefixes: Sequence[str]) -> list[list[Entry]]:
        return [self.below(prefix) for prefix in prefixes]

    def put(self, key: str, value: str, revision: int | None = None) -> int | None:
        old = self.entries.get(key)
        if revision is not None and revision != (old.revision if old else 0):
            return None
        self.revision += 1
        self.entries[key] = Entry(key, value, self.revision)
        return self.revision

    def delete(self, key: str, revision: int | None = None) -> int | None:
        old = self.entries.get(key)
        if revision is not None and revision != (old.revision if old else 0):
            return None
        self.entries.pop(key, None)
        self.revision += 1
        return self.revision

    def status(self) -> Status:
        return Status(1, 1, False, self.revision)

    def members(self) -> list[Member]:
        return list(self.listed)

    def promote(self, member_id: int) -> None:
        self.listed = [
            Member(each.id, each.name, each.peer_url, each.client_url, False)
            if each.id == member_id
            else each
            for each in self.listed
        ]

    def remove(self, member_id: int) -> None:
        self.listed = [each for each in self.listed if each.id != member_id]
