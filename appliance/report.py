"""Telling the outside how far the node is: OneGate, the console, and `status`."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace

from appliance import __version__, paths
from appliance.errors import CommandError, FileError, OneGateError
from appliance.identity import Identity, keep_identity, read_identity
from appliance.logs import Logger
from appliance.system import System
from appliance.system.onegate import readable
from appliance.waiting import Deadline, retry

CONFIGURING = "CONFIGURING"
WAITING = "WAITING"
READY = "READY"
FAILED = "FAILED"

_QUIET_S = 60
_PUBLISH_TIMEOUT_S = 600


class Reporter:
    """Publishes progress, and READY when it is deserved.

    Progress is worth one try: where OneGate does not answer it is left alone for a minute. What is
    stored already is not sent again.
    """

    def __init__(
        self,
        system: System,
        identity: Identity,
        role: str,
        log: Logger,
        tell: Callable[[str], None],
    ) -> None:
        """Report for one run."""
        self._system = system
        self._identity = identity
        self._role = role
        self._log = log
        self._tell = tell
        self._quiet_until = 0.0

    def progress(self, state: str, step: str, *, only_here: bool = False) -> None:
        """Say what the node is doing or waiting for.

        Args:
            state: The state it is in.
            step: What it does.
            only_here: Whether there is no time for OneGate.
        """
        self._locally(state, step, "")
        if only_here:
            return
        self._try_to_publish(
            {"ONEKE_STATE": state, "ONEKE_STEP": readable(step), "ONEKE_ERROR": ""}
        )

    def failed(self, error: str) -> None:
        """Say why the node gave up."""
        self._locally(FAILED, "", error)
        self._try_to_publish({"ONEKE_STATE": FAILED, "ONEKE_ERROR": readable(error)})

    def trouble(self, error: str, *, ours: str) -> None:
        """Say what is wrong on a node that goes on doing its job.

        Args:
            error: What is wrong; empty when it is over.
            ours: How such texts begin: what somebody else reported is not taken back.
        """
        published = self._kept().published.get("ONEKE_ERROR", "")
        if error or published.startswith(ours):
            self._try_to_publish({"ONEKE_ERROR": readable(error)})

    def ready(self, *, report_ready: bool) -> None:
        """Say that the node does its job.

        READY must arrive: it is sent again until it does, up to a deadline, unless it arrived at an
        earlier boot of this VM, for OneFlow only waits for it once.

        Raises:
            OneGateError: It could not be published.
        """
        self._locally(READY, "", "")
        values = {"ONEKE_STATE": READY, "ONEKE_STEP": "", "ONEKE_ERROR": ""}
        if report_ready:
            values["READY"] = "YES"
        if not report_ready or self._kept().published.get("READY") == "YES":
            self._try_to_publish(values)
            return
        onegate = self._system.onegate
        if onegate is None:
            self._log.warning("ready.unreported", reason="the context names no OneGate or no token")
            return
        wanted = self._new_of(values)
        deadline = Deadline.after(self._system.clock, _PUBLISH_TIMEOUT_S)
        retry("publishing READY", lambda: onegate.update(wanted), deadline, log=self._log)
        self._remember(wanted)

    def _new_of(self, values: Mapping[str, str]) -> dict[str, str]:
        every = {**values, "ONEKE_AGENT_VERSION": __version__}
        published = self._kept().published
        return {k: v for k, v in every.items() if published.get(k) != v}

    def _kept(self) -> Identity:
        """Read what is kept anew: a daemon reports too."""
        kept = read_identity(self._system, self._identity.vm_id)
        published = {**self._identity.published, **kept.published}
        return replace(self._identity, role=self._identity.role or kept.role, published=published)

    def _try_to_publish(self, values: Mapping[str, str]) -> None:
        onegate, clock = self._system.onegate, self._system.clock
        wanted = self._new_of(values)
        if onegate is None or not wanted or clock.monotonic() < self._quiet_until:
            return
        try:
            onegate.update(wanted)
        except OneGateError as error:
            self._quiet_until = clock.monotonic() + _QUIET_S
            self._log.warning("progress.unpublished", reason=str(error))
            return
        self._remember(wanted)

    def _remember(self, stored: Mapping[str, str]) -> None:
        kept = self._kept()
        self._identity = replace(kept, published={**kept.published, **stored})
        keep_identity(self._system, self._identity)

    def _locally(self, state: str, step: str, error: str) -> None:
        said = error or step or "the node does its job"
        line = f"OneKE {self._role}: {state}: {said}"
        with suppress(OSError):
            # Whoever reads may have gone.
            self._tell(line)
        document = {
            "time": self._system.clock.now(),
            "role": self._role,
            "state": state,
            "step": step,
            "error": error,
            "version": __version__,
        }
        try:
            self._system.files.write(paths.PROGRESS, json.dumps(document) + "\n", mode=0o600)
            self._show_on_console(line)
        except (FileError, CommandError) as untold:
            self._log.warning("progress.unwritten", reason=str(untold))

    def _show_on_console(self, line: str) -> None:
        addresses = " ".join(
            f"{link.name} {' '.join(str(address) for address in link.addresses)}"
            for link in self._system.network.links()
            if link.name != "lo" and link.addresses
        )
        # agetty takes a backslash for the start of an escape.
        shown = f"{line}\n{addresses}\n".replace("\\", "/")
        self._system.files.write(paths.ISSUE, shown)
        self._system.files.write(paths.MOTD, f"{shown}More: oneke-agent status\n")
