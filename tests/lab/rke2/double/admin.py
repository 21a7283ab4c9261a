"""`rke2 etcd-snapshot`, `rke2 token` and `rke2 certificate`: what administrators do on a server."""

from __future__ import annotations

import argparse
import http.client
import json
import shutil
import ssl
import sys
import time
from base64 import b64encode
from collections.abc import Sequence
from typing import Any

import yaml

from . import paths, pki
from .journal import Fatal, event, info
from .knobs import Knobs
from .start import Start, read_settings
from .tokens import TokenError, parse_token

SERVER_TLS = paths.DATA / "server" / "tls"


def run(command: str, arguments: Sequence[str]) -> int:
    """Run a command and return the exit status."""
    verbs = {"etcd-snapshot": _snapshot, "token": _token, "certificate": _certificate}
    try:
        return verbs[command](list(arguments))
    except (Refusal, Fatal, TokenError) as refusal:
        print(f'time="{_now()}" level=fatal msg={json.dumps(str(refusal))}', file=sys.stderr)
    return 1


class Refusal(Exception):
    """The supervisor did not do what was asked; the text says why."""


def _ask(path: str, body: Any, user: tuple[str, str] | None = None) -> Any:
    """Ask the supervisor of this node."""
    crt = None if user else SERVER_TLS / "client-supervisor.crt"
    try:
        context = pki.client_context(SERVER_TLS / "server-ca.crt", crt)
        connection = http.client.HTTPSConnection("127.0.0.1", 9345, timeout=30, context=context)
        headers = {"Content-Type": "application/json"}
        if user:
            headers["Authorization"] = "Basic " + b64encode(":".join(user).encode()).decode()
        connection.request("POST", path, json.dumps(body), headers)
        response = connection.getresponse()
        text = response.read().decode()
    except (OSError, ssl.SSLError, http.client.HTTPException) as error:
        words = "see server log for details"
        raise Refusal(f'Post "https://127.0.0.1:9345{path}": {error}, {words}') from None
    if response.status >= 300:
        raise Refusal(f"{response.status} {response.reason}: {text.strip()}")
    return json.loads(text)


def _snapshot(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="rke2 etcd-snapshot")
    parser.add_argument("verb", choices=("save", "ls", "list", "l", "delete", "prune"))
    parser.add_argument("names", nargs="*")
    parser.add_argument("--name", default="")
    parser.add_argument("--snapshot-retention", "--etcd-snapshot-retention", type=int)
    parser.add_argument("-o", "--output", default="")
    options = parser.parse_args(arguments)
    start = _settings()
    if options.verb == "save":
        name = options.name or "on-demand"
        made = _ask("/db/snapshot", {"operation": "save", "name": name})
        info(f"Snapshot {made['name']} saved.")
    elif options.verb == "delete":
        if not options.names:
            raise Refusal("no snapshots given for removal")
        for name in options.names:
            _ask("/db/snapshot", {"operation": "delete", "name": name})
            info(f"Snapshot {name} deleted.")
    elif options.verb == "prune":
        kept = options.snapshot_retention or start.values.get("etcd-snapshot-retention", 5)
        name = options.name or "on-demand"
        asked = {"operation": "prune", "name": name, "retention": int(str(kept))}
        for name in _ask("/db/snapshot", asked)["removed"]:
            info(f"Snapshot {name} deleted.")
    else:
        _print_snapshots(_ask("/db/snapshot", {"operation": "list"})["items"], options.output)
    return 0


def _print_snapshots(found: Sequence[Any], form: str) -> None:
    if form in ("json", "yaml"):
        whole = {"kind": "List", "apiVersion": "v1", "items": list(found)}
        print(json.dumps(whole) if form == "json" else yaml.safe_dump(whole), end="")
        return
    rows = [("Name", "Location", "Size", "Created")]
    for each in found:
        spec, status = each["spec"], each["status"]
        row = (spec["snapshotName"], spec["location"], status["size"], status["creationTime"])
        rows.append(row)
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print(" ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _token(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="rke2 token")
    parser.add_argument("verb", choices=("rotate",))
    parser.add_argument("-t", "--token", default="")
    parser.add_argument("--new-token", default="")
    options = parser.parse_args(arguments)
    old = options.token or _settings().token
    if not old or not options.new_token:
        raise Refusal("the old token and --new-token are required")
    user = ("server", parse_token(old).password)
    _ask("/v1-rke2/token", {"newToken": options.new_token}, user)
    print("Token rotated, restart rke2 nodes with new token")
    return 0


def _certificate(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="rke2 certificate")
    parser.add_argument("verb", choices=("rotate", "check"))
    options, _ = parser.parse_known_args(arguments)
    agent = paths.DATA / "agent"
    leaves = [
        crt
        for folder in (SERVER_TLS, agent)
        for crt in sorted(folder.glob("*.crt"))
        if crt.name.startswith(("client-", "serving-")) and "-ca" not in crt.name
    ]
    if options.verb == "check":
        for crt in leaves:
            info(f"{crt}: certificate is ok, expires at {pki.end_of(crt)}")
        return 0
    aside = paths.DATA / "server" / f"tls-{int(time.time())}"
    for crt in leaves:
        for file in (crt, crt.with_suffix(".key"), crt.with_suffix(".issuer")):
            if file.exists():
                target = aside / file.parent.name / file.name
                target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
                shutil.move(file, target)
    event("certificates.rotated", count=len(leaves))
    info(
        f"Successfully backed up certificates to {aside}, please restart rke2 server or agent to "
        "rotate certificates"
    )
    return 0


def _settings() -> Start:
    """What the files say that the server reads as well."""
    return read_settings("server", [], Knobs())[0]


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
