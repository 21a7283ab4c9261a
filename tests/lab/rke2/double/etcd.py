"""The real etcd: a client of its JSON gateway, and how a member is started."""

from __future__ import annotations

import functools
import http.client
import json
import shutil
import subprocess
import threading
from base64 import b64decode, b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from . import paths

LOCAL = "http://127.0.0.1:2379"


class EtcdError(Exception):
    """Etcd did not do what was asked; the text says why."""


@dataclass(frozen=True)
class Member:
    """A member as the others list it; one that has not started yet has no name."""

    id: int
    name: str
    peer_url: str
    client_url: str
    is_learner: bool

    @property
    def address(self) -> str:
        """The host it has."""
        return urlsplit(self.peer_url).hostname or ""


@dataclass(frozen=True)
class Status:
    """A member's view of itself."""

    id: int
    leader: int
    is_learner: bool
    applied: int


@dataclass(frozen=True)
class Entry:
    """A key with its value."""

    key: str
    value: str
    revision: int


class Etcd:
    """Client of one or more members; the first that answers counts."""

    def __init__(self, endpoints: Sequence[str] = (LOCAL,), timeout_s: float = 5) -> None:
        self._endpoints = tuple(endpoints)
        self._timeout_s = timeout_s
        self._open = threading.local()

    # --- keys -------------------------------------------------------------------------------

    def get(self, key: str) -> Entry | None:
        """The entry of a key."""
        found = self._range({"key": _encode(key)})
        return found[0] if found else None

    def below(self, prefix: str) -> list[Entry]:
        """All entries below a prefix, by key."""
        return self._range(_span(prefix))

    def below_each(self, prefixes: Sequence[str]) -> list[list[Entry]]:
        """The same of several prefixes, in one request."""
        asked = {"success": [{"request_range": _span(prefix)} for prefix in prefixes]}
        told = self._call("/v3/kv/txn", asked)
        return [_entries(each["response_range"]) for each in told["responses"]]

    def put(self, key: str, value: str, revision: int | None = None) -> int | None:
        """Write a key.

        Args:
            key: Which.
            value: What.
            revision: What the key's revision has to be; 0 if it must not exist yet.

        Returns:
            The new revision; None if the old one was another.
        """
        change = {"request_put": {"key": _encode(key), "value": _encode(value)}}
        return self._change(key, change, revision)

    def delete(self, key: str, revision: int | None = None) -> int | None:
        """Remove a key, under the same condition as `put`."""
        return self._change(key, {"request_delete_range": {"key": _encode(key)}}, revision)

    # --- the cluster ------------------------------------------------------------------------

    def status(self) -> Status:
        """How the member is doing; answers without quorum too."""
        told = self._call("/v3/maintenance/status", {})
        return Status(
            int(told["header"]["member_id"]),
            int(told.get("leader", 0)),
            bool(told.get("isLearner")),
            int(told.get("raftAppliedIndex", 0)),
        )

    def members(self) -> list[Member]:
        """All members."""
        return [_member(told) for told in self._call("/v3/cluster/member/list", {})["members"]]

    def add_learner(self, peer_url: str) -> None:
        """Announce a member that is to join."""
        self._call("/v3/cluster/member/add", {"peerURLs": [peer_url], "isLearner": True})

    def promote(self, member_id: int) -> None:
        """Give a learner its vote; refused while it lags behind."""
        self._call("/v3/cluster/member/promote", {"ID": str(member_id)})

    def remove(self, member_id: int) -> None:
        """Take a member out."""
        self._call("/v3/cluster/member/remove", {"ID": str(member_id)})

    # --- inside -----------------------------------------------------------------------------

    def _range(self, asked: dict[str, str]) -> list[Entry]:
        return _entries(self._call("/v3/kv/range", asked))

    def _change(self, key: str, change: dict[str, Any], revision: int | None) -> int | None:
        asked: dict[str, Any] = {"success": [change]}
        if revision is not None:
            asked["compare"] = [
                {
                    "key": _encode(key),
                    "target": "MOD",
                    "result": "EQUAL",
                    "mod_revision": str(revision),
                }
            ]
        told = self._call("/v3/kv/txn", asked)
        return int(told["header"]["revision"]) if told.get("succeeded") else None

    def _call(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        trouble = "no endpoint"
        for endpoint in self._endpoints:
            try:
                status, answer = self._post(endpoint, path, json.dumps(body))
            except (OSError, http.client.HTTPException) as error:
                trouble = f"{endpoint}: {error or type(error).__name__}"
                continue
            if status == 200:
                told = json.loads(answer)
                return told if isinstance(told, dict) else {}
            try:
                trouble = str(json.loads(answer).get("error", answer))
            except ValueError:
                trouble = answer
            if len(self._endpoints) == 1 or "learner" not in trouble:
                break
        raise EtcdError(trouble)

    def _post(self, endpoint: str, path: str, body: str) -> tuple[int, str]:
        kept: dict[str, http.client.HTTPConnection] = self._open.__dict__.setdefault("kept", {})
        connection = kept.pop(endpoint, None)
        if connection is not None:
            try:
                return self._exchange(kept, endpoint, connection, path, body)
            except TimeoutError:
                raise
            except (OSError, http.client.HTTPException):
                connection.close()  # it was closed meanwhile; a fresh one says whether it is up
        split = urlsplit(endpoint)
        connection = http.client.HTTPConnection(
            split.hostname or "", split.port, timeout=self._timeout_s
        )
        return self._exchange(kept, endpoint, connection, path, body)

    def _exchange(
        self,
        kept: dict[str, http.client.HTTPConnection],
        endpoint: str,
        connection: http.client.HTTPConnection,
        path: str,
        body: str,
    ) -> tuple[int, str]:
        try:
            connection.request("POST", path, body)
            response = connection.getresponse()
            answer = response.read().decode()
        except BaseException:
            connection.close()
            raise
        kept[endpoint] = connection
        return response.status, answer


def answers(member: Member) -> bool:
    """Whether a member is up, with a leader."""
    if not member.client_url:
        return False
    try:
        return Etcd([member.client_url], 1).status().leader != 0
    except EtcdError:
        return False


def lacks_quorum(members: Sequence[Member], *, without: int = 0) -> bool:
    """Whether too few voters would be up if one member was taken out."""
    voters = [member for member in members if not member.is_learner and member.id != without]
    return sum(answers(member) for member in voters) < len(voters) // 2 + 1


def member_argv(
    name: str, data: Path, address: str, cluster: Sequence[tuple[str, str]], *, joins: bool
) -> list[str]:
    """The command that runs a member.

    Args:
        name: Its name.
        data: Its folder.
        address: Its own address.
        cluster: Name and peer URL of every member, itself included; only counts at its first start.
        joins: Whether the cluster is there already.
    """
    argv = [
        *(_program(), f"--name={name}", f"--data-dir={data}"),
        f"--listen-client-urls={LOCAL},http://{address}:2379",
        f"--advertise-client-urls=http://{address}:2379",
        f"--listen-peer-urls=http://{address}:2380",
        f"--initial-advertise-peer-urls=http://{address}:2380",
        "--initial-cluster=" + ",".join(f"{member}={url}" for member, url in cluster),
        f"--initial-cluster-state={'existing' if joins else 'new'}",
        *("--initial-cluster-token=rke2", "--heartbeat-interval=200", "--election-timeout=1200"),
        # Its own check wants five quiet seconds before each change; see `lacks_quorum`.
        "--strict-reconfig-check=false",
        *("--logger=zap", "--log-level=warn", "--log-outputs=stderr"),
    ]
    return [*argv, "--unsafe-no-fsync"] if _knows("--unsafe-no-fsync") else argv


def _program() -> str:
    return str(paths.ETCD) if paths.ETCD.exists() else shutil.which("etcd") or "etcd"


@functools.cache
def _knows(option: str) -> bool:
    told = subprocess.run([_program(), "--help"], capture_output=True, text=True, check=False)
    return option in told.stdout + told.stderr


def _member(told: dict[str, Any]) -> Member:
    return Member(
        int(told["ID"]),
        str(told.get("name", "")),
        str((told.get("peerURLs") or [""])[0]),
        str((told.get("clientURLs") or [""])[0]),
        bool(told.get("isLearner")),
    )


def _span(prefix: str) -> dict[str, str]:
    """What a range is asked for with that holds all keys below a prefix."""
    end = prefix[:-1] + chr(ord(prefix[-1]) + 1)
    return {"key": _encode(prefix), "range_end": _encode(end)}


def _entries(told: dict[str, Any]) -> list[Entry]:
    return [
        Entry(_decode(kv["key"]), _decode(kv.get("value", "")), int(kv["mod_revision"]))
        for kv in told.get("kvs", [])
    ]


def _encode(text: str) -> str:
    return b64encode(text.encode()).decode()


def _decode(text: str) -> str:
    return b64decode(text).decode()
