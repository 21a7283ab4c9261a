"""The daemon that keeps HAProxy's servers as OneGate tells: look, decide, act, remember."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from appliance import paths
from appliance.actions import WriteFile, digest_of, mark_loaded
from appliance.daemon import CycleOutcome
from appliance.errors import OneGateError, OneGateUnavailable, OnekeError, SocketError
from appliance.facts import read_if_text
from appliance.logs import Logger
from appliance.report import Reporter
from appliance.system import System
from appliance.system.signals import Signals
from appliance.waiting import Deadline, hold_lock
from roles.common.addresses import AddressBook
from roles.vnf import backends, haproxy, keepalived
from roles.vnf.haproxy import BalancerModel
from roles.vnf.keepalived import STRANGER_WINDOW_S, VrrpInstance
from roles.vnf.params import VnfParams

UNIT = "oneke-backends.service"
KNOWN = paths.STATE_DIR / "backends.json"
SETTINGS = paths.STATE_DIR / "backends-settings.json"
LAST_CYCLE = paths.RUN_DIR / "backends-cycle.json"

# Source: states of a OneFlow service: pending, deploying, scaling, cooldown.
_CHANGING_STATES = frozenset({0, 1, 8, 10})
_FAST_S = 1.0
_SWEEP_S = 5.0
# An extended answer costs the server 10-15 ms a VM: leave it alone for several times as long.
_GENTLE = 3.0
# While the service changes somebody waits for each new server: it is looked for within 2 s, plus
# what OneGate itself takes, however slow that is.
_LONGEST_PAUSE_CHANGING_S = 1.5
_LONGEST_HELD_S = 600.0
_LOCK_TIMEOUT_S = 30.0


def follows(params: VnfParams) -> bool:
    """Say whether backends are to follow OneGate."""
    return params.haproxy.enabled and params.haproxy.discovery


def uses_leases(params: VnfParams) -> bool:
    """Say whether backends are looked up in the virtual router's networks, not in the service."""
    source = params.haproxy.discovery_source
    if source != "auto":
        return source == "vrouter"
    opennebula = params.opennebula
    return opennebula.service_id is None and opennebula.virtual_router_id is not None


@dataclass(frozen=True)
class Gateway:
    """What the gateway's parameters come to.

    Attributes:
        model: The declared balancers with their static servers.
        book: What placeholders stand for.
        instances: The VRRP instances, on which a stranger may speak.
        render: The renderer of HAProxy's file that `configure` uses too.
    """

    model: BalancerModel
    book: AddressBook
    instances: tuple[VrrpInstance, ...]
    render: Callable[[backends.Registrations], WriteFile]


def settings_text(params: VnfParams, gateway: Gateway) -> str:
    """Write what the daemon has to be told of when it changes, as one digest of it all."""
    opennebula = params.opennebula
    token = opennebula.onegate_token.reveal() if opennebula.onegate_token else ""
    everything = (
        params.haproxy,
        opennebula.vm_id,
        opennebula.service_id,
        opennebula.virtual_router_id,
        opennebula.onegate_endpoint,
        opennebula.onegate_ca,
        opennebula.onegate_tls_verify,
        token,
        gateway.instances,
        gateway.book,
        gateway.render({}).text,
    )
    digest = hashlib.sha256(repr(everything).encode()).hexdigest()
    return f"{json.dumps({'settings': digest})}\n"


@dataclass
class _Memory:
    """What outlasts a cycle, but not the daemon.

    Attributes:
        leaving_since: Server (backend/name) to when it was first seen to be held by connections.
        complaints: What was said about siblings' registrations, to say it once.
    """

    known: backends.Registrations | None = None
    leaving_since: dict[str, float] = field(default_factory=dict)
    complaints: tuple[str, ...] = ()
    next_look: float = 0.0
    next_listening: float = 0.0
    stranger: str = ""
    is_changing: bool = True
    last_answer_s: float = 0.0
    onegate_error: str = ""
    failures: int = 0
    seen_at: float | None = None


class BackendsCycle:
    """One look at OneGate and what follows from it.

    OneGate failing, or knowing fewer VMs than it should, takes no server away.
    """

    def __init__(
        self,
        system: System,
        params: VnfParams,
        gateway: Gateway,
        reporter: Reporter,
        log: Logger,
    ) -> None:
        """Work for one set of parameters.

        Args:
            system: The machine.
            params: The gateway's parameters.
            gateway: What was decided from them.
            reporter: Told of trouble that others should know of.
            log: Where changes go.
        """
        self._system = system
        self._params = params
        self._gateway = gateway
        self._reporter = reporter
        self._log = log
        self._memory = _Memory()

    def run(self, signals: Signals) -> CycleOutcome:
        """Ask OneGate if it is time to, and bring HAProxy to what is known; see `Cycle.run`."""
        memory, clock = self._memory, self._system.clock
        if memory.known is None:
            memory.known = backends.from_text(read_if_text(self._system, KNOWN))
        if clock.monotonic() >= memory.next_look:
            with signals.interruptible():
                self._look()
        if clock.monotonic() >= memory.next_listening:
            memory.next_listening = clock.monotonic() + STRANGER_WINDOW_S
            self._listen_for_strangers()
        changed, leaving = self._converge(memory.known, signals)
        servers = sum(len(b.servers) for b in self._wanted(memory.known).balancers)
        pause = max(0.1, memory.next_look - clock.monotonic())
        if leaving:
            pause = min(pause, _SWEEP_S)
        self._remember_cycle(servers, leaving, "")
        error = f"; OneGate: {memory.onegate_error}" if memory.onegate_error else ""
        summary = f"{servers} servers, {changed} changes, {len(leaving)} leaving{error}"
        return CycleOutcome(pause, summary)

    def failed(self, error: str) -> None:
        """Leave the error where `status` finds it."""
        try:
            self._remember_cycle(None, (), error)
        except OnekeError as unwritable:
            self._log.warning("cycle.unwritten", reason=str(unwritable))

    def _look(self) -> None:
        """Ask OneGate, and keep what was known where it does not answer."""
        memory, clock = self._memory, self._system.clock
        started = clock.monotonic()
        try:
            seen = self._ask()
        except OneGateError as error:
            memory.failures += 1
            took = clock.monotonic() - started
            pause = min(self._params.haproxy.refresh_rate, _FAST_S * 2 ** min(memory.failures, 4))
            pause = max(pause, _GENTLE * took)
            memory.next_look = clock.monotonic() + pause
            if str(error) != memory.onegate_error:
                memory.onegate_error = str(error)
                self._log.warning("onegate.failed", reason=str(error))
            return
        if memory.onegate_error:
            self._log.info("onegate.answers_again", attempt=memory.failures + 1)
        memory.onegate_error, memory.failures = "", 0
        memory.last_answer_s = clock.monotonic() - started
        memory.seen_at = clock.now()
        memory.next_look = clock.monotonic() + self._pause_between_looks()
        for complaint in seen.complaints:
            if complaint not in memory.complaints:
                self._log.warning("registration.refused", reason=complaint)
        memory.complaints = seen.complaints
        merged = backends.merge(memory.known or {}, seen)
        if merged != memory.known:
            self._system.files.write(KNOWN, backends.to_text(merged), mode=0o600)
            memory.known = merged

    def _pause_between_looks(self) -> float:
        gentle = _GENTLE * self._memory.last_answer_s
        if self._memory.is_changing:
            return min(max(_FAST_S, gentle), _LONGEST_PAUSE_CHANGING_S)
        return max(self._params.haproxy.refresh_rate, gentle)

    def _listen_for_strangers(self) -> None:
        """Report a router that uses our virtual router id, once when it comes and when it goes."""
        words = self._system.units.recent_words(keepalived.UNIT, STRANGER_WINDOW_S)
        heard = keepalived.find_strangers(words)
        said = "; ".join(
            keepalived.describe_stranger(instance.vrid, instance.link)
            for instance in self._gateway.instances
            if instance.name in heard
        )
        if said != self._memory.stranger:
            self._memory.stranger = said
            if said:
                self._log.warning("vrrp.stranger", reason=said)
            else:
                self._log.info("vrrp.stranger_gone")
        self._reporter.trouble(said, ours=keepalived.STRANGER_SIGN)

    def _ask(self) -> backends.Seen:
        onegate = self._system.onegate
        if onegate is None:
            raise OneGateUnavailable("the context names no OneGate, or holds no token")
        opennebula = self._params.opennebula
        if uses_leases(self._params):
            self._memory.is_changing = False
            identity = _text(opennebula.virtual_router_id)
            return backends.read_leases(
                onegate.leases(), self._gateway.model, self._gateway.book, identity
            )
        service = onegate.service()
        self._memory.is_changing = service.state in _CHANGING_STATES
        identity = _text(opennebula.service_id) or str(service.service_id)
        return backends.read_service(
            service, opennebula.vm_id, self._gateway.model, self._gateway.book, identity
        )

    def _wanted(self, known: backends.Registrations) -> BalancerModel:
        return backends.with_registrations(self._gateway.model, known)

    def _converge(
        self, known: backends.Registrations, signals: Signals
    ) -> tuple[int, tuple[str, ...]]:
        """Bring HAProxy, and the file it will start with, to what is known."""
        deadline = Deadline.after(self._system.clock, _LOCK_TIMEOUT_S)
        with ExitStack() as held:
            # Who holds the lock may be about to stop this very daemon.
            with signals.interruptible():
                held.enter_context(hold_lock(self._system, paths.CHANGE_LOCK, deadline))
            transition = self._plan(known)
            refused = [answer for step in transition.steps if (answer := self._carry_out(step))]
            self._write_file(known, reload_needed=bool(transition.unknown))
        if refused:
            raise SocketError("; ".join(refused))
        if transition.unknown:
            raise SocketError(
                f"HAProxy does not have {', '.join(transition.unknown)}: oneke-agent configure"
                " brings its configuration up to date"
            )
        return sum(step.is_change for step in transition.steps), transition.leaving

    def _plan(self, known: backends.Registrations) -> backends.Transition:
        memory, now = self._memory, self._system.clock.monotonic()
        running = backends.parse_statistics(self._tell("show stat"))
        present = frozenset(self._tell("show backend").split())
        overdue = frozenset(
            server
            for server, since in memory.leaving_since.items()
            if now - since >= _LONGEST_HELD_S
        )
        transition = backends.plan_transition(
            self._wanted(known),
            running,
            present,
            overdue,
            server_options=haproxy.SERVER_OPTIONS,
        )
        memory.leaving_since = {
            server: memory.leaving_since.get(server, now)
            for server in (*transition.leaving, *overdue)
        }
        return transition

    def _carry_out(self, step: backends.Step) -> str:
        """Give a step's commands; return what HAProxy said against one of them, else nothing."""
        for command in step.commands:
            answer = self._tell(command).strip()
            if not haproxy.is_agreement(command, answer):
                return f"HAProxy refuses {command!r}: {' '.join(answer.split())}"
        self._log.info("server.changed" if step.is_change else "server.swept", changed=step.summary)
        return ""

    def _tell(self, command: str) -> str:
        return self._system.sockets.ask(haproxy.STATS_SOCKET, command)

    def _write_file(self, known: backends.Registrations, *, reload_needed: bool) -> None:
        file = self._gateway.render(known)
        if file.check(self._system, frozenset()) is None:
            return
        file.apply(self._system)
        if not reload_needed:
            mark_loaded(self._system, haproxy.UNIT, digest_of(self._system, (haproxy.CONF,)))

    def _remember_cycle(self, servers: int | None, leaving: tuple[str, ...], error: str) -> None:
        memory = self._memory
        document: dict[str, Any] = {
            "time": self._system.clock.now(),
            "servers": servers,
            "leaving": list(leaving),
            "error": error,
            "onegate_error": memory.onegate_error,
            "onegate_seen": memory.seen_at,
            "onegate_answer_s": round(memory.last_answer_s, 3),
            "refused": list(memory.complaints),
        }
        self._system.files.write(LAST_CYCLE, json.dumps(document) + "\n", mode=0o600)


def _text(number: int | None) -> str:
    return "" if number is None else str(number)


@dataclass(frozen=True)
class LastCycle:
    """What the daemon left for `status`; None and empty where it left nothing."""

    time_s: float | None
    error: str
    onegate_error: str
    refused: tuple[str, ...]
    leaving: tuple[str, ...]


def read_last_cycle(text: str | None) -> LastCycle:
    """Read what the daemon left."""
    try:
        found = json.loads(text or "{}")
        return LastCycle(
            found.get("time"),
            str(found.get("error") or ""),
            str(found.get("onegate_error") or ""),
            tuple(map(str, found.get("refused") or ())),
            tuple(map(str, found.get("leaving") or ())),
        )
    except (ValueError, AttributeError, TypeError):
        return LastCycle(None, "", "", (), ())


def longest_quiet_s(params: VnfParams) -> float:
    """Return how old the last cycle may be before something is wrong."""
    return 2 * params.haproxy.refresh_rate + 120


def files() -> tuple[PurePosixPath, ...]:
    """Return the files that plan and status look at."""
    return (KNOWN, LAST_CYCLE)
