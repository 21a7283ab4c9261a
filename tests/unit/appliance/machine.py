"""A gateway node made of fakes, with daemons that do what the real ones would."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from appliance import paths
from appliance.agent import RunResult, run
from appliance.options import Options
from appliance.system import System
from appliance.system.units import UnitState
from tests.contexts import GATEWAY
from tests.fakes import (
    Call,
    FakeClock,
    FakeCommands,
    FakeFiles,
    FakeLog,
    FakeNetwork,
    FakeOneGate,
    FakePacketFilter,
    FakeSockets,
    FakeUnits,
    Tape,
    make_link,
    make_system,
)

HAPROXY, KEEPALIVED = "haproxy.service", "keepalived.service"
OTHERS = ("oneke-backends.service", "unbound.service")
HAPROXY_SOCKET = "/run/haproxy/admin.sock"
ONE_ENV = "/run/one-context/one_env"
# Written at every run, whatever it changes of the machine: what a person or the next run reads.
BOOKKEEPING = (
    "files.folder",
    f"files.append {paths.JOURNAL}",
    f"files.write {paths.IDENTITY}",
    f"files.write {paths.PROGRESS}",
    f"files.write {paths.ISSUE}",
    f"files.write {paths.MOTD}",
)

_INSTALLED = UnitState("loaded", "inactive", "dead", "success", "disabled")
_AGREES = Call((), 0)
_BIND = re.compile(r"^\s*bind ([\d.]+):(\d+)$", re.MULTILINE)
_INSTANCE = re.compile(
    r"vrrp_instance (\w+) \{\n.*?virtual_ipaddress \{\n(.*?)\}", re.DOTALL | re.MULTILINE
)
_VIP = re.compile(r"([\d.]+/\d+) dev (\w+)")


def write_one_env(values: Mapping[str, str]) -> str:
    """Write a context as the contextualization package does."""
    return "".join(f'export {key}="{value}"\n' for key, value in values.items())


class Gateway:
    """A gateway that was just started for the first time.

    Attributes:
        told: The lines for people.
        options: What every run is asked for.
    """

    def __init__(self, *, tape: Tape | None = None, **changes: str | None) -> None:
        """Take the usual context with keys changed, or taken away where the value is None."""
        values = {k: v for k, v in {**GATEWAY, **changes}.items() if v is not None}
        self.tape = tape or Tape()
        self.files = FakeFiles({ONE_ENV: write_one_env(values)}, tape=self.tape)
        self.units = FakeUnits(
            dict.fromkeys((HAPROXY, KEEPALIVED, *OTHERS), _INSTALLED), tape=self.tape
        )
        self.network = FakeNetwork(
            [
                make_link("lo", "127.0.0.1/8"),
                make_link("eth0", "10.2.11.200/24", mac="02:00:0a:02:0b:c8"),
                make_link("eth1", "172.20.0.100/24", mac="02:00:ac:14:00:64"),
            ],
            tape=self.tape,
        )
        self.packet_filter = FakePacketFilter(tape=self.tape)
        self.commands = FakeCommands(standing={"haproxy": _AGREES, "keepalived": _AGREES})
        self.clock = FakeClock()
        self.sockets = FakeSockets()
        self.onegate = FakeOneGate(365, {"ROLE_NAME": "vnf", "SERVICE_ID": "23"}, tape=self.tape)
        self.log = FakeLog()
        self.told: list[str] = []
        self.options = Options(service_folders=(paths.packaged_services(),))
        self.units.whenever_loaded(HAPROXY, self._serve)
        self.units.whenever_loaded(KEEPALIVED, self._elect)

    @property
    def system(self) -> System:
        """The machine as the agent is handed it."""
        return make_system(
            commands=self.commands,
            files=self.files,
            units=self.units,
            network=self.network,
            packet_filter=self.packet_filter,
            clock=self.clock,
            sockets=self.sockets,
            onegate=self.onegate,
        )

    def run(self, **options: Any) -> RunResult:
        """Run the agent once."""
        return run(self.system, replace(self.options, **options), self.log, self.told.append)

    def set_context(self, **changes: str | None) -> None:
        """Give the VM another context."""
        values = {k: v for k, v in {**GATEWAY, **changes}.items() if v is not None}
        self.files.put(ONE_ENV, write_one_env(values))

    def give_folder(self, folder: Path) -> None:
        """Let an administrator's drop-ins win over the packaged ones."""
        folders = (folder, paths.packaged_services())
        self.options = replace(self.options, service_folders=folders)

    def restart(self) -> None:
        """Restart the machine: what is in memory is lost, enabled units run again."""
        one_env = self.files.text(ONE_ENV)
        self.files.restart()
        self.files.put(ONE_ENV, one_env)
        self.network.restart()
        self.packet_filter.tables.clear()
        self.sockets.daemons.clear()
        for name, state in self.units.states.items():
            is_active = state.enabled == "enabled"
            self.units.states[name] = replace(
                state,
                active="active" if is_active else "inactive",
                sub="running" if is_active else "dead",
            )
            if is_active and name == HAPROXY:
                self._serve()
            elif is_active and name == KEEPALIVED:
                self._elect()

    def changes_of_the_machine(self, since: int = 0) -> list[str]:
        """Return what was changed, without what every run notes down."""
        return [one for one in self.tape.changes[since:] if not one.startswith(BOOKKEEPING)]

    def shape(self) -> dict[str, object]:
        """Return what the machine is like, without what tells of runs."""
        told = {str(paths.JOURNAL), str(paths.PROGRESS), str(paths.ISSUE), str(paths.MOTD)}
        told.add(str(paths.IDENTITY))
        return {
            "files": {
                str(path): kept for path, kept in self.files.kept.items() if str(path) not in told
            },
            "units": dict(self.units.states),
            "settings": dict(self.network.settings),
            "tables": dict(self.packet_filter.tables),
        }

    def everything_written(self) -> str:
        """Return every text that may be seen by others than root, and all that tells of runs."""
        secret_files = {ONE_ENV, str(paths.CONTEXT_IN_FORCE), "/etc/keepalived/keepalived.conf"}
        texts = [t for path, t in self.files.texts().items() if path not in secret_files]
        return "\n".join([*texts, *self.told, repr(self.log.lines), repr(self.onegate.updates)])

    def _serve(self) -> None:
        self.sockets.daemons[HAPROXY_SOCKET] = lambda question: "# pxname,svname,type\n"
        for address, port in _BIND.findall(self.files.text("/etc/haproxy/haproxy.cfg")):
            self.network.listen(address, int(port))

    def _elect(self) -> None:
        """Become MASTER of every instance at once."""
        conf = self.files.text("/etc/keepalived/keepalived.conf")
        for name, addresses in _INSTANCE.findall(conf):
            state = f"MASTER {self.clock.uptime():.2f}\n"
            self.files.put(f"/run/keepalived/oneke-INSTANCE-{name}.state", state, mode=0o600)
            for address, link in _VIP.findall(addresses):
                self.network.add_address(link, address)
