"""Decides what a gateway node should be: VRRP, balancers, NAT and routing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from appliance.actions import (
    Judge,
    RemoveFile,
    ReplaceTable,
    RunUnit,
    StopUnit,
    WriteFile,
)
from appliance.errors import Problem, UnknownRole
from appliance.facts import Facts, FactsWanted
from appliance.logs import Logger
from appliance.networkactions import BringUp, KernelSettings
from appliance.plan import Action, Plan, Stage
from appliance.render import render
from appliance.report import Reporter
from appliance.role import Findings, StatusLine, Task
from appliance.service import Service
from appliance.system import System
from appliance.values import InterfaceItem
from appliance.waiting import Failed, NotYet, Readiness, Ready
from roles.common.addresses import (
    ADDRESS_KEYS,
    AddressBook,
    missing_links,
    select_interfaces,
)
from roles.common.leaving import begin_leaving
from roles.common.prerequisites import await_addresses
from roles.vnf import backends, dns, haproxy, keepalived, nat, watcher
from roles.vnf.model import address_book, holds_addresses, kernel_settings, vrrp_model
from roles.vnf.params import VnfParams
from roles.vnf.status import describe_gateway

_READY_TIMEOUT_S = 120.0


class VnfRole:
    """Gateway: virtual addresses, balancing towards the cluster, NAT and routing."""

    params_type = VnfParams
    ready_timeout_s = _READY_TIMEOUT_S
    sibling_roles = ()

    def __init__(self, services: Mapping[str, Service]) -> None:
        """Keep the drop-ins, whose templates are rendered."""
        self._services = services

    def check(self, params: VnfParams) -> Findings:
        """Find what does not fit together."""
        book = address_book(params)
        problems: list[Problem] = []
        warnings: list[str] = []
        found = [keepalived.check_vrrp(params.keepalived, params.opennebula, book)]
        found.append(nat.check_nat(params.nat4, book))
        found.append(dns.check_resolver(params.dns, params.opennebula, book))
        if params.haproxy.enabled:
            found.append(haproxy.check_balancers(params.haproxy, book))
        for these_problems, these_warnings in found:
            problems += these_problems
            warnings += these_warnings
        for key, items in _interface_lists(params).items():
            problems += _check_interface_list(key, items, book)
        return Findings(tuple(problems), tuple(warnings))

    def facts_wanted(self, params: VnfParams) -> FactsWanted:
        """Name what is looked at: units, table, settings, and what daemons left and answer."""
        vrrp = vrrp_model(params)
        states = tuple(keepalived.state_file("INSTANCE", i.name) for i in vrrp.instances)
        return FactsWanted(
            units=(haproxy.UNIT, keepalived.UNIT, watcher.UNIT, dns.UNIT),
            files=(*states, *watcher.files()),
            tables=((nat.TABLE_FAMILY, nat.TABLE_NAME),),
            settings=tuple(key for key, _ in kernel_settings(params)),
            questions=(haproxy.STATISTICS,) if params.haproxy.enabled else (),
            words=((keepalived.UNIT, keepalived.STRANGER_WINDOW_S),),
        )

    def prerequisites(self, params: VnfParams, facts: Facts) -> Readiness:
        """Wait for the links of the context, and for the addresses that others put on them."""
        return await_addresses(params.opennebula, facts)

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
                *self._plan_keepalived(params),
                # These come up while VRRP elects.
                *self._plan_follower(params),
                *self._plan_dns(params),
            ),
        )

    def _plan_kernel(self, params: VnfParams) -> Iterator[Action]:
        settings = kernel_settings(params)
        yield WriteFile(
            nat.SYSCTL_CONF, self._render("router4", "60-oneke.conf.j2", nat.SysctlConf(settings))
        )
        for link in vrrp_model(params).links_to_raise:
            yield BringUp(link)
        yield KernelSettings(settings)

    def _plan_nat(self, params: VnfParams) -> Action:
        table = nat.build_nat(params.nat4, address_book(params))
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

    def _plan_follower(self, params: VnfParams) -> Iterator[Action]:
        if not params.haproxy.enabled:
            return  # stopped before HAProxy was
        if not watcher.follows(params):
            yield StopUnit(watcher.UNIT)
            return
        yield WriteFile(
            watcher.SETTINGS,
            watcher.settings_text(params, self._gateway(params)),
            mode=0o600,
            loaded_by=(watcher.UNIT,),
        )
        yield RunUnit(watcher.UNIT, (watcher.SETTINGS,), at_boot=False)

    def _haproxy_cfg(self, params: VnfParams, known: backends.Registrations) -> WriteFile:
        """Render the one file that `configure` and the daemon both write."""
        model = haproxy.build_balancers(params.haproxy, address_book(params))
        balancers = backends.with_registrations(model, known).balancers
        cfg = haproxy.HaproxyCfg(
            balancers,
            (params.haproxy.own_config or "").strip(),
            haproxy.SERVER_OPTIONS,
            str(haproxy.STATS_SOCKET),
            str(haproxy.HEALTH_SOCKET),
            has_names=any(server.options for one in balancers for server in one.servers),
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
        conf = dns.build_resolver(
            params.dns,
            params.opennebula,
            address_book(params),
            is_airgapped=params.airgap.enabled,
        )
        yield WriteFile(
            dns.CONF,
            self._render("dns", "50-oneke.conf.j2", conf),
            loaded_by=(dns.UNIT,),
            judge=Judge(("unbound-checkconf", "{file}"), "the parameters ONEAPP_VNF_DNS_*"),
        )
        # unbound keeps its listeners at a reload.
        yield RunUnit(dns.UNIT, (dns.CONF,), restarts=True)

    def _plan_keepalived(self, params: VnfParams) -> Iterator[Action]:
        vrrp = vrrp_model(params)
        if not holds_addresses(params):
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
        # Not at boot by itself: it would take the addresses before NAT is there, or with settings
        # of another time.
        yield RunUnit(keepalived.UNIT, (keepalived.CONF,), at_boot=False)

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
        """Describe routing, NAT, balancers, backends, resolver and virtual addresses."""
        return describe_gateway(params, facts)

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
        return watcher.BackendsCycle(system, params, self._gateway(params), reporter, log)

    def make_task(
        self,
        name: str,
        system: System,
        params: VnfParams,
        reporter: Reporter,
        log: Logger,
        argument: str = "",
    ) -> Task:
        """Return what a gateway does when it is asked to: leave, though it is behind no balancer.

        Its addresses are handed over by keepalived when that is stopped.
        """
        if name != "leave":
            raise UnknownRole(
                f"a gateway has no task {name!r}",
                hint="the cluster's nodes are cleaned on a master",
            )
        return begin_leaving(system, {}, None, reporter, log)

    def _gateway(self, params: VnfParams) -> watcher.Gateway:
        book = address_book(params)
        return watcher.Gateway(
            haproxy.build_balancers(params.haproxy, book),
            book,
            vrrp_model(params).instances if holds_addresses(params) else (),
            lambda known: self._haproxy_cfg(params, known),
        )


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
