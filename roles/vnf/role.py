"""Decides what a gateway node should be: VRRP, balancers, NAT and routing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from ipaddress import IPv4Interface
from typing import Any

from appliance.actions import (
    BringUp,
    Judge,
    KernelSettings,
    RemoveFile,
    ReplaceTable,
    RunUnit,
    StopUnit,
    WriteFile,
)
from appliance.errors import Problem, UnknownRole
from appliance.facts import Facts, FactsWanted
from appliance.logs import Logger
from appliance.plan import Action, Plan, Stage
from appliance.render import render
from appliance.report import Reporter
from appliance.role import Findings, StatusLine
from appliance.service import Service
from appliance.system import System
from appliance.values import InterfaceItem
from appliance.waiting import Failed, NotYet, Readiness, Ready
from roles.common.addresses import (
    ADDRESS_KEYS,
    AddressBook,
    build_address_book,
    missing_links,
    select_interfaces,
)
from roles.vnf import backends, dns, haproxy, keepalived, nat, watcher
from roles.vnf.params import VnfParams

_READY_TIMEOUT_S = 120.0
# Balancers bind virtual addresses that the other node holds.
_NONLOCAL_BIND = ("net.ipv4.ip_nonlocal_bind", "1")


class VnfRole:
    """Gateway: virtual addresses, balancing towards the cluster, NAT and routing."""

    params_type = VnfParams
    ready_timeout_s = _READY_TIMEOUT_S

    def __init__(self, services: Mapping[str, Service]) -> None:
        """Keep the drop-ins, whose templates are rendered."""
        self._services = services

    def check(self, params: VnfParams) -> Findings:
        """Find what does not fit together."""
        book = _book(params)
        problems: list[Problem] = []
        warnings: list[str] = []
        found = [keepalived.check_vrrp(params.keepalived, params.opennebula, book)]
        found.append(nat.check_nat(params.nat4, book))
        if params.haproxy.enabled:
            found.append(haproxy.check_balancers(params.haproxy, book))
        warnings += dns.check_resolver(params.dns, params.opennebula, book)
        for these_problems, these_warnings in found:
            problems += these_problems
            warnings += these_warnings
        for key, items in _interface_lists(params).items():
            problems += _check_interface_list(key, items, book)
        return Findings(tuple(problems), tuple(warnings))

    def facts_wanted(self, params: VnfParams) -> FactsWanted:
        """Name what is looked at: units, table, settings, and what daemons left and answer."""
        vrrp = _vrrp(params)
        states = tuple(keepalived.state_file("INSTANCE", i.name) for i in vrrp.instances)
        return FactsWanted(
            units=(haproxy.UNIT, keepalived.UNIT, watcher.UNIT, dns.UNIT),
            files=(*states, *watcher.files()),
            tables=((nat.TABLE_FAMILY, nat.TABLE_NAME),),
            settings=tuple(key for key, _ in _settings(params)),
            questions=(haproxy.STATISTICS,) if params.haproxy.enabled else (),
            words=((keepalived.UNIT, keepalived.STRANGER_WINDOW_S),),
        )

    def prerequisites(self, params: VnfParams, facts: Facts) -> Readiness:
        """Wait for the links of the context, and for the addresses that others put on them."""
        for nic in _book(params).nics:
            link = facts.link(nic.name)
            if link is None:
                return NotYet(f"{nic.name} is not there: is the NIC attached?")
            if nic.address and not _is_on(nic.address, nic.name, facts):
                return NotYet(
                    f"{nic.name} has no address {nic.address.ip} yet: the contextualization"
                    " package sets it"
                )
        return Ready()

    def plan(self, stage: Stage, params: VnfParams, facts: Facts) -> Plan:
        """Put kernel, packet filter, balancers and virtual addresses in order; all is local."""
        if stage is not Stage.CONFIGURE:
            return Plan(stage)
        return Plan(
            stage,
            (
                *self._plan_kernel(params),
                self._plan_nat(params),
                *self._plan_haproxy(params, facts),
                *self._plan_dns(params),
                *self._plan_keepalived(params),
            ),
        )

    def _plan_kernel(self, params: VnfParams) -> Iterator[Action]:
        settings = _settings(params)
        yield WriteFile(
            nat.SYSCTL_CONF, self._render("router4", "60-oneke.conf.j2", nat.SysctlConf(settings))
        )
        for link in _vrrp(params).links_to_raise:
            yield BringUp(link)
        yield KernelSettings(settings)

    def _plan_nat(self, params: VnfParams) -> Action:
        table = nat.build_nat(params.nat4, _book(params))
        wanted = params.nat4.enabled and (table.masquerade or table.forwards)
        rules = self._render("nat4", "oneke.nft.j2", table) if wanted else ""
        return ReplaceTable(nat.TABLE_FAMILY, nat.TABLE_NAME, rules)

    def _plan_haproxy(self, params: VnfParams, facts: Facts) -> Iterator[Action]:
        if not params.haproxy.enabled:
            yield StopUnit(watcher.UNIT)
            yield StopUnit(haproxy.UNIT)
            return
        known = backends.from_text(facts.files.get(watcher.KNOWN))
        yield self._haproxy_cfg(params, known if watcher.follows(params) else {})
        yield RunUnit(haproxy.UNIT, (haproxy.CONF,))
        if not watcher.follows(params):
            yield StopUnit(watcher.UNIT)
            return
        model = haproxy.build_balancers(params.haproxy, _book(params))
        yield WriteFile(
            watcher.SETTINGS,
            watcher.settings_text(params, model),
            mode=0o600,
            loaded_by=(watcher.UNIT,),
        )
        yield RunUnit(watcher.UNIT, (watcher.SETTINGS,))

    def _haproxy_cfg(self, params: VnfParams, known: backends.Registrations) -> WriteFile:
        """Render the one file that `configure` and the daemon both write."""
        model = haproxy.build_balancers(params.haproxy, _book(params))
        cfg = haproxy.HaproxyCfg(
            backends.with_registrations(model, known).balancers,
            (params.haproxy.own_config or "").strip(),
            haproxy.SERVER_OPTIONS,
            str(haproxy.STATS_SOCKET),
            str(haproxy.HEALTH_SOCKET),
        )
        return WriteFile(
            haproxy.CONF,
            self._render("haproxy", "haproxy.cfg.j2", cfg),
            mode=0o640,
            group="haproxy",
            is_secret=bool(cfg.own_config),
            sensitive_mark=haproxy.OWN_CONFIG_KEY,
            loaded_by=(haproxy.UNIT,),
            judge=Judge(
                ("haproxy", "-c", "-f", "{file}"),
                (
                    haproxy.OWN_CONFIG_KEY
                    if cfg.own_config
                    else "the parameters ONEAPP_VNF_HAPROXY_*"
                ),
            ),
        )

    def _plan_dns(self, params: VnfParams) -> Iterator[Action]:
        if not params.dns.enabled:
            yield StopUnit(dns.UNIT)
            yield RemoveFile(dns.CONF)
            return
        conf = dns.build_resolver(params.dns, params.opennebula, _book(params))
        yield WriteFile(
            dns.CONF,
            self._render("dns", "50-oneke.conf.j2", conf),
            loaded_by=(dns.UNIT,),
            judge=Judge(("unbound-checkconf", "{file}"), "the parameters ONEAPP_VNF_DNS_*"),
        )
        # unbound keeps its listeners at a reload.
        yield RunUnit(dns.UNIT, (dns.CONF,), restarts=True)

    def _plan_keepalived(self, params: VnfParams) -> Iterator[Action]:
        vrrp = _vrrp(params)
        if not _holds_addresses(params):
            yield StopUnit(keepalived.UNIT)
            return
        conf = keepalived.KeepalivedConf(
            vrrp.router_name,
            vrrp.version,
            keepalived.SYNC_GROUP,
            vrrp.instances,
            params.haproxy.enabled,
            str(haproxy.HEALTH_SOCKET),
            str(keepalived.STATE_SCRIPT),
        )
        yield WriteFile(
            keepalived.STATE_SCRIPT, self._render("keepalived", "vrrp-state.j2", conf), mode=0o755
        )
        yield WriteFile(
            keepalived.CONF,
            self._render("keepalived", "keepalived.conf.j2", conf),
            mode=0o600,
            is_secret=any(instance.password for instance in vrrp.instances),
            sensitive_mark="auth_pass",
            loaded_by=(keepalived.UNIT,),
            judge=Judge(
                ("keepalived", "--config-test={log}", "-f", "{file}"),
                "the parameters ONEAPP_VNF_KEEPALIVED_* and ONEAPP_VROUTER_*",
            ),
        )
        yield RunUnit(keepalived.UNIT, (keepalived.CONF,))

    def _render(self, service: str, template: str, model: Any) -> str:
        return render(self._services[service].folders, template, model)

    def readiness(self, params: VnfParams, facts: Facts) -> Readiness:
        """Ready means: NAT loaded, balancers listening, VRRP settled, addresses in place."""
        for line in self.status(params, facts):
            if line.is_vital and not line.is_well:
                said = f"{line.subject}: {line.state}"
                return Failed(said) if line.state.startswith("failed") else NotYet(said)
        return Ready()

    def status(self, params: VnfParams, facts: Facts) -> tuple[StatusLine, ...]:
        """Describe routing, NAT, balancers and virtual addresses."""
        return (
            _status_of_routing(params, facts),
            _status_of_nat(params, facts),
            *_status_of_haproxy(params, facts),
            *_status_of_watcher(params, facts),
            *_status_of_dns(params, facts),
            *_status_of_vrrp(params, facts),
        )

    def make_cycle(
        self, daemon: str, system: System, params: VnfParams, reporter: Reporter, log: Logger
    ) -> watcher.BackendsCycle:
        """Return the work of the daemon that follows OneGate."""
        if daemon != "backends":
            raise UnknownRole(f"a gateway has no daemon {daemon!r}; it has backends")
        if not watcher.follows(params):
            raise UnknownRole(
                "backends do not follow OneGate on this gateway",
                hint="ONEAPP_VNF_HAPROXY_ENABLED and ONEAPP_VNF_HAPROXY_ONEGATE_ENABLED turn it on",
            )
        book = _book(params)
        return watcher.BackendsCycle(
            system,
            params,
            watcher.Gateway(
                haproxy.build_balancers(params.haproxy, book),
                book,
                _vrrp(params).instances if _holds_addresses(params) else (),
                lambda known: self._haproxy_cfg(params, known),
            ),
            reporter,
            log,
        )


def _book(params: VnfParams) -> AddressBook:
    return build_address_book(params.opennebula, params.keepalived.vips)


def _vrrp(params: VnfParams) -> keepalived.VrrpModel:
    return keepalived.build_vrrp(params.keepalived, params.opennebula, _book(params))


def _holds_addresses(params: VnfParams) -> bool:
    return params.keepalived.enabled and bool(_vrrp(params).vips)


def _settings(params: VnfParams) -> tuple[tuple[str, str], ...]:
    enabled = nat.is_router(params.router4, params.opennebula)
    forwarding = nat.build_forwarding(params.router4, _book(params), enabled=enabled)
    return (*forwarding.items(), _NONLOCAL_BIND)


def _interface_lists(params: VnfParams) -> dict[str, tuple[InterfaceItem, ...] | None]:
    return {
        keepalived.INTERFACES_KEY: params.keepalived.interfaces,
        haproxy.INTERFACES_KEY: params.haproxy.interfaces,
        nat.INTERFACES_OUT_KEY: params.nat4.interfaces_out,
        nat.ROUTER_INTERFACES_KEY: params.router4.interfaces,
        dns.INTERFACES_KEY: params.dns.interfaces,
    }


def _check_interface_list(
    key: str, items: Sequence[InterfaceItem] | None, book: AddressBook
) -> Iterator[Problem]:
    selection = select_interfaces(items, book)
    names = ", ".join(nic.name for nic in book.nics) or "none"
    shown = " ".join(map(str, items or ()))
    wrong = [str(item) for item in selection.unknown] + list(missing_links(selection, book))
    if wrong:
        yield Problem(
            key,
            shown,
            f"{', '.join(wrong)}: expected an interface of this VM ({names}) or one of its"
            " addresses",
            depends_on=ADDRESS_KEYS,
        )


def _status_of_routing(params: VnfParams, facts: Facts) -> StatusLine:
    wrong = [key for key, value in _settings(params) if facts.settings.get(key) != value]
    if wrong:
        return StatusLine("routing", f"{', '.join(wrong)} not as it should be", is_well=False)
    links = [
        key.split(".")[3]
        for key, value in _settings(params)
        if key.endswith(".forwarding") and value == "1"
    ]
    return StatusLine("routing", f"between {', '.join(links)}" if links else "off")


def _status_of_nat(params: VnfParams, facts: Facts) -> StatusLine:
    table = nat.build_nat(params.nat4, _book(params))
    if not params.nat4.enabled or not (table.masquerade or table.forwards):
        return StatusLine("nat", "off")
    listed = facts.tables.get((nat.TABLE_FAMILY, nat.TABLE_NAME))
    if listed is None:
        return StatusLine("nat", f"table {nat.TABLE_NAME} is not loaded", is_well=False)
    counted = nat.read_counters(listed)
    out = ", ".join(table.masquerade) or "no interface"
    return StatusLine(
        "nat",
        f"masquerading on {out} ({counted.masqueraded} connections),"
        f" {len(table.forwards)} port forwards ({counted.forwarded} connections)",
    )


def _status_of_haproxy(params: VnfParams, facts: Facts) -> Iterator[StatusLine]:
    if not params.haproxy.enabled:
        yield StatusLine("haproxy", "off")
        return
    unit = facts.units[haproxy.UNIT]
    if not unit.is_active:
        state = "failed" if unit.active == "failed" else "not running"
        yield StatusLine("haproxy", f"{state} ({unit.active}, {unit.result})", is_well=False)
        return
    answer = facts.answers.get(haproxy.STATISTICS)
    if answer is None:
        yield StatusLine("haproxy", "does not answer on its socket: it hangs", is_well=False)
    servers = backends.parse_statistics(answer or "")
    for balancer in haproxy.build_balancers(params.haproxy, _book(params)).balancers:
        yield from _status_of_balancer(balancer, servers, facts)


def _status_of_balancer(
    balancer: haproxy.Balancer, servers: Sequence[backends.RunningServer], facts: Facts
) -> Iterator[StatusLine]:
    where = (str(balancer.address), balancer.port)
    anywhere = ("0.0.0.0", balancer.port)  # noqa: S104  # compared, not bound
    listens = where in facts.listening or anywhere in facts.listening
    behind = [server for server in servers if server.backend == balancer.name]
    up = [server for server in behind if server.is_up]
    yield StatusLine(
        f"balancer {balancer.number}",
        f"{where[0]}:{where[1]} {'listening' if listens else 'not listening'},"
        f" {len(up)} of {len(behind)} servers up",
        is_well=listens,
    )
    for server in behind:
        said = f"{server.status}, {server.sessions} sessions, check: {server.check or 'none yet'}"
        yield StatusLine(
            f"  {server.address}", said, is_well=server.is_up or server.is_leaving, is_vital=False
        )


def _status_of_watcher(params: VnfParams, facts: Facts) -> Iterator[StatusLine]:
    if not watcher.follows(params):
        yield StatusLine("backends", "those of the context; OneGate is not followed")
        return
    unit = facts.units[watcher.UNIT]
    last = watcher.read_last_cycle(facts.files.get(watcher.LAST_CYCLE))
    if not unit.is_active:
        said = f"{watcher.UNIT} is not running ({unit.active}, {unit.result})"
        yield StatusLine("backends", said, is_well=False)
        return
    if last.time_s is None:
        yield StatusLine("backends", "no look at OneGate yet", is_well=False, is_vital=False)
        return
    age = max(0.0, facts.now_s - last.time_s)
    is_fresh = age <= watcher.longest_quiet_s(params)
    yield StatusLine(
        "backends", f"follow OneGate, last cycle {age:.0f} s ago", is_fresh, is_vital=False
    )
    if last.leaving:
        yield StatusLine("  leaving", f"{', '.join(last.leaving)}, until their sessions end")
    if last.error:
        yield StatusLine("  last error", last.error, is_well=False, is_vital=False)
    if last.onegate_error:
        said = f"{last.onegate_error}; the servers known last stay"
        yield StatusLine("  OneGate", said, is_well=False, is_vital=False)
    for refused in last.refused:
        yield StatusLine("  refused", refused, is_well=False, is_vital=False)


def _status_of_dns(params: VnfParams, facts: Facts) -> Iterator[StatusLine]:
    if not params.dns.enabled:
        yield StatusLine("dns", "off")
        return
    conf = dns.build_resolver(params.dns, params.opennebula, _book(params))
    unit = facts.units[dns.UNIT]
    if not unit.is_active:
        state = "failed" if unit.active == "failed" else "not running"
        yield StatusLine("dns", f"{state} ({unit.active}, {unit.result})", is_well=False)
        return
    deaf = [
        one
        for one in conf.listeners
        if not conf.tcp_disabled and (str(one.address), one.port) not in facts.listening
    ]
    if deaf:
        said = f"not listening on {deaf[0].address}:{deaf[0].port}"
        yield StatusLine("dns", said, is_well=False)
        return
    where = ", ".join(dict.fromkeys(str(one.address) for one in conf.listeners)) or "no address"
    asks = ", ".join(str(one.address) for one in conf.forwarders) or "the root servers"
    yield StatusLine("dns", f"answers on {where}, asks {asks}")


def _status_of_vrrp(params: VnfParams, facts: Facts) -> Iterator[StatusLine]:
    vrrp = _vrrp(params)
    for vip in vrrp.unheld if params.keepalived.enabled else ():
        yield StatusLine(f"vip {vip.address.ip}", "can be held by nobody", is_well=False)
    if not _holds_addresses(params):
        yield StatusLine("vrrp", "off: no virtual address to hold")
        return
    unit = facts.units[keepalived.UNIT]
    if not unit.is_active:
        state = "failed" if unit.active == "failed" else "not running"
        yield StatusLine("vrrp", f"{state} ({unit.active}, {unit.result})", is_well=False)
        return
    strangers = keepalived.find_strangers(facts.words.get(keepalived.UNIT, ""))
    for instance in vrrp.instances:
        found = keepalived.read_state(
            facts.files.get(keepalived.state_file("INSTANCE", instance.name))
        )
        yield _status_of_instance(instance, found, facts)
        if instance.name in strangers:
            # A backup that hears only a stranger does not know whether anyone holds its addresses.
            said = keepalived.describe_stranger(instance.vrid, instance.link)
            is_vital = found.name != "MASTER"
            yield StatusLine(f"vrrp {instance.name}", said, is_well=False, is_vital=is_vital)


def _status_of_instance(
    instance: keepalived.VrrpInstance, state: keepalived.VrrpState, facts: Facts
) -> StatusLine:
    subject = f"vrrp {instance.name}"
    vips = ", ".join(str(vip.address.ip) for vip in instance.vips)
    held = [vip for vip in instance.vips if _is_on(vip.address, vip.link, facts)]
    if state.name == "MASTER":
        missing = ", ".join(str(vip.address.ip) for vip in instance.vips if vip not in held)
        if missing:
            return StatusLine(subject, f"MASTER, and {missing} not there yet", is_well=False)
        return StatusLine(subject, f"MASTER, holds {vips}")
    if state.name == "BACKUP":
        left = ", ".join(str(vip.address.ip) for vip in held)
        if left:
            return StatusLine(subject, f"BACKUP, and {left} still there", is_well=False)
        if facts.uptime_s - state.since_s < keepalived.election_s(instance):
            return StatusLine(subject, "BACKUP, the election is not over yet", is_well=False)
        return StatusLine(subject, f"BACKUP, another node holds {vips}")
    if state.name == "FAULT":
        said = "in FAULT: a link or an address of it is missing, or HAProxy does not answer"
        return StatusLine(subject, said, is_well=False)
    return StatusLine(subject, "keepalived has not told its state yet", is_well=False)


def _is_on(address: IPv4Interface, link_name: str, facts: Facts) -> bool:
    link = facts.link(link_name)
    return link is not None and any(own.ip == address.ip for own in link.addresses)
