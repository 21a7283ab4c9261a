"""The double from outside its node: configuration, faults, and what it has been doing."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from tests.lab.basics import LabError
from tests.lab.node import Node

KNOBS = "/etc/rke2-double.yaml"
EVENTS = "/var/log/rke2-double.jsonl"
EFFECTIVE_CONFIG = "/run/rke2-double/config.json"
CONFIG = "/etc/rancher/rke2/config.yaml"
DATA = "/var/lib/rancher/rke2"
KUBECTL = f"{DATA}/bin/kubectl"
ADMIN_KUBECONFIG = "/etc/rancher/rke2/rke2.yaml"
QUICK_RESTART = "/etc/systemd/system/{unit}.service.d/quick.conf"


class Rke2:
    """RKE2 of one node."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self._knobs: dict[str, Any] = {}

    # --- before it starts -------------------------------------------------------------------

    def configure(self, values: Mapping[str, object]) -> None:
        """Write config.yaml; JSON is YAML."""
        self.node.write(CONFIG, json.dumps(values, indent=1), mode=0o600)

    def restart_quickly(self, seconds: float = 0.5) -> None:
        """Scale systemd's clock too: failed units are started again after this long."""
        text = f"[Unit]\nStartLimitIntervalSec=0\n[Service]\nRestartSec={seconds:g}\n"
        for role in ("server", "agent"):
            self.node.write(QUICK_RESTART.format(unit=f"rke2-{role}"), text)
        if self.node.is_running:
            self.node.run(["systemctl", "daemon-reload"])

    # --- knobs ------------------------------------------------------------------------------

    def turn(self, **knobs: object) -> None:
        """Set knobs of the first level: `scale`, `version`, `nodeports`, `delays`, `intervals`.

        Of `delays` and `intervals` only what is named is changed. It works at once.
        """
        for name, value in knobs.items():
            old = self._knobs.get(name)
            if isinstance(value, Mapping) and isinstance(old, dict):
                self._knobs[name] = old | dict(value)
            else:
                self._knobs[name] = value
        self.node.write(KNOBS, json.dumps(self._knobs))

    def fail(self, mode: str, value: object = True) -> None:
        """Switch a failure mode on."""
        self.turn(modes={mode: value})

    def heal(self, mode: str) -> None:
        """Switch a failure mode off."""
        self.turn(modes={mode: False})

    # --- units ------------------------------------------------------------------------------

    def start(self, role: str) -> None:
        """Start its unit without waiting for it."""
        self.node.run(["systemctl", "start", "--no-block", f"rke2-{role}.service"])

    def restart(self, role: str) -> None:
        """Restart its unit without waiting for it."""
        self.node.run(["systemctl", "restart", "--no-block", f"rke2-{role}.service"])

    def stop(self, role: str) -> None:
        """Stop its unit; its pods go on."""
        self.node.run(["systemctl", "stop", f"rke2-{role}.service"])

    def state(self, role: str) -> dict[str, str]:
        """`ActiveState`, `SubState`, `NRestarts` and `Result` of its unit."""
        names = "ActiveState,SubState,NRestarts,Result"
        argv = ["systemctl", "show", f"--property={names}", f"rke2-{role}.service"]
        return dict(
            line.split("=", 1) for line in self.node.run(argv).stdout.splitlines() if "=" in line
        )

    def journal(self, role: str) -> str:
        """What its unit has said in this boot."""
        return self.node.journal(f"rke2-{role}.service")

    def wait_active(self, role: str, timeout_s: float = 60) -> None:
        """Wait until systemd has its READY."""

        def active() -> bool:
            state = self.state(role)
            if state["ActiveState"] != "active":
                end = self.journal(role).splitlines()[-3:]
                raise LabError(f"{state['ActiveState']} ({state['SubState']}); {' / '.join(end)}")
            return True

        self.node.wait_until(active, timeout_s, f"rke2-{role} to be active")

    def wait_journal(self, role: str, text: str, timeout_s: float = 60) -> str:
        """Wait until its unit has said a text; returns all that it said."""

        def said() -> str:
            journal = self.journal(role)
            if text not in journal:
                raise LabError(" / ".join(journal.splitlines()[-3:]))
            return journal

        return self.node.wait_until(said, timeout_s, f"{text!r} in the journal of rke2-{role}")

    def wipe(self) -> None:
        """Undo all that RKE2 has done on the node; a new node is left, without knobs."""
        folders = ["/etc/rancher", DATA, "/run/rke2-double", KNOBS, EVENTS]
        script = '/usr/local/bin/rke2-killall.sh; rm -rf "$@"; systemctl reset-failed "rke2-*"'
        self.node.run(["sh", "-c", script, "wipe", *folders], check=False)
        self._knobs = {}

    # --- looking ----------------------------------------------------------------------------

    def token(self, kind: str = "node-token") -> str:
        """A token as the server wrote it: `node-token` or `agent-token`."""
        return self.node.read(f"{DATA}/server/{kind}").strip()

    def effective(self) -> dict[str, Any]:
        """What the process was started with."""
        parsed: dict[str, Any] = json.loads(self.node.read(EFFECTIVE_CONFIG))
        return parsed

    def events(self, name: str | None = None) -> list[dict[str, Any]]:
        """What happened, or all of one kind, in order."""
        if not self.node.exists(EVENTS):
            return []
        found = [json.loads(line) for line in self.node.read(EVENTS).splitlines()]
        return [each for each in found if name is None or each["event"] == name]

    def kubectl(self, *words: str, check: bool = True) -> str:
        """Run kubectl on this server as the administrator; what it printed."""
        argv = ["env", f"KUBECONFIG={ADMIN_KUBECONFIG}", KUBECTL, *words]
        return self.node.run(argv, check=check).stdout

    def get_nodes(self) -> dict[str, dict[str, Any]]:
        """All Node objects, by name, as its API server tells them.

        Raises:
            LabError: It does not.
        """
        status, text = self.ask_as_admin("/api/v1/nodes")
        if status != 200:
            raise LabError(f"no nodes: {status} {text}")
        return {node["metadata"]["name"]: node for node in json.loads(text)["items"]}

    def conditions(self) -> dict[str, dict[str, str]]:
        """Status of each condition, by node and type."""
        return {
            name: {each["type"]: each["status"] for each in node["status"]["conditions"]}
            for name, node in self.get_nodes().items()
        }

    def wait_condition(
        self, names: Sequence[str], kind: str = "Ready", status: str = "True", timeout_s: float = 60
    ) -> None:
        """Wait until a condition of all these nodes has a status."""

        def met() -> bool:
            found = {name: seen.get(kind) for name, seen in self.conditions().items()}
            if any(found.get(name) != status for name in names):
                raise LabError(str(found))
            return True

        self.node.wait_until(met, timeout_s, f"{kind}={status} of {', '.join(names)}")

    def ask(self, url: str, *options: str) -> tuple[int, str]:
        """Status and body of a URL as curl on this node gets it; 0 if there is no answer."""
        argv = ["curl", "-sk", "--max-time", "4", "-w", "\n%{http_code}", *options, url]
        body, _, status = self.node.run(argv, check=False).stdout.rpartition("\n")
        return int(status or 0), body

    def wait_answer(self, url: str, answer: tuple[int, str], timeout_s: float = 10) -> None:
        """Wait until a URL has this status and body."""

        def answered() -> bool:
            told = self.ask(url)
            if told != answer:
                raise LabError(str(told))
            return True

        self.node.wait_until(answered, timeout_s, f"{url} to answer {answer}")

    def ask_as_admin(self, path: str, *options: str) -> tuple[int, str]:
        """The same of the API server, with the administrator's certificate."""
        tls = f"{DATA}/server/tls"
        pair = ["--cert", f"{tls}/client-admin.crt", "--key", f"{tls}/client-admin.key"]
        return self.ask(f"https://127.0.0.1:6443{path}", *pair, *options)

    def modes_of(self, *files: str) -> dict[str, str]:
        """Permissions of files, as `stat` tells them; links are followed."""
        script = "for f in " + " ".join(shlex.quote(file) for file in files)
        script += '; do echo "$f $(stat -Lc %a "$f")"; done'
        told = self.node.run(["sh", "-c", script]).stdout
        return dict(line.rsplit(" ", 1) for line in told.splitlines())
