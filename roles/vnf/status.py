"""What a gateway is right now, line by line: for `status`, and to tell whether it is ready."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from appliance.facts import Facts
from appliance.role import StatusLine
from roles.vnf import backends, dns, haproxy, keepalived, nat, watcher
from roles.vnf.model import address_book, holds_addresses, kernel_settings, vrrp_model
from roles.vnf.params import VnfParams


def describe_gateway(params: VnfParams, facts: Facts) -> tuple[StatusLine, ...]:
    """Describe routing, NAT, balancers, backends, resolver and virtual addresses."""
    return (
        _describe_routing(params, facts),
        _describe_nat(params, facts),
        *_describe_haproxy(params, facts),
        *_describe_watcher(params, facts),
        *_describe_dns(params, facts),
        *_describe_vrrp(params, facts),
    )


def _unit_trouble(subject: str, name: str, facts: Facts) -> StatusLine | None:
    """Return the line that says that a unit does not run, or None where it does."""
    unit = facts.units[name]
    if unit.is_active:
        return None
    said = f"failed ({unit.result})" if unit.active == "failed" else f"not running ({unit.active})"
    return StatusLine(subject, f"{said}: journalctl -u {name} tells why", is_well=False)


def _describe_routing(params: VnfParams, facts: Facts) -> StatusLine:
    wrong = [key for key, value in kernel_settings(params) if facts.settings.get(key) != value]
    if wrong:
        return StatusLine("routing", f"{', '.join(wrong)} not as it should be", is_well=False)
    links = [
        key.split(".")[3]
        for key, value in kernel_settings(params)
        if key.endswith(".forwarding") and value == "1"
    ]
    return StatusLine("routing", f"between {', '.join(links)}" if links else "off")


def _describe_nat(params: VnfParams, facts: Facts) -> StatusLine:
    table = nat.build_nat(params.nat4, address_book(params))
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


def _describe_haproxy(params: VnfParams, facts: Facts) -> Iterator[StatusLine]:
    if not params.haproxy.enabled:
        yield StatusLine("haproxy", "off")
        return
    trouble = _unit_trouble("haproxy", haproxy.UNIT, facts)
    if trouble:
        yield trouble
        return
    answer = facts.answers.get(haproxy.STATISTICS)
    if answer is None:
        yield StatusLine("haproxy", "does not answer on its socket: it hangs", is_well=False)
    servers = backends.parse_statistics(answer or "")
    for balancer in haproxy.build_balancers(params.haproxy, address_book(params)).balancers:
        yield from _describe_balancer(balancer, servers, facts)


def _describe_balancer(
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


def _describe_watcher(params: VnfParams, facts: Facts) -> Iterator[StatusLine]:
    if not watcher.follows(params):
        yield StatusLine("backends", "those of the context; OneGate is not followed")
        return
    trouble = _unit_trouble("backends", watcher.UNIT, facts)
    if trouble:
        yield trouble
        return
    last = watcher.read_last_cycle(facts.files.get(watcher.LAST_CYCLE))
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


def _describe_dns(params: VnfParams, facts: Facts) -> Iterator[StatusLine]:
    if not params.dns.enabled:
        yield StatusLine("dns", "off")
        return
    conf = dns.build_resolver(
        params.dns,
        params.opennebula,
        address_book(params),
        is_airgapped=params.airgap.enabled,
    )
    trouble = _unit_trouble("dns", dns.UNIT, facts)
    if trouble:
        yield trouble
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
    nobody = "nobody" if conf.is_closed else "the root servers"
    asks = ", ".join(str(one.address) for one in conf.forwarders) or nobody
    yield StatusLine("dns", f"answers on {where}, asks {asks}")


def _describe_vrrp(params: VnfParams, facts: Facts) -> Iterator[StatusLine]:
    vrrp = vrrp_model(params)
    for vip in vrrp.unheld if params.keepalived.enabled else ():
        yield StatusLine(f"vip {vip.address.ip}", "can be held by nobody", is_well=False)
    if not holds_addresses(params):
        yield StatusLine("vrrp", "off: no virtual address to hold")
        return
    trouble = _unit_trouble("vrrp", keepalived.UNIT, facts)
    if trouble:
        yield trouble
        return
    strangers = keepalived.find_strangers(facts.words.get(keepalived.UNIT, ""))
    for instance in vrrp.instances:
        found = keepalived.read_state(
            facts.files.get(keepalived.state_file("INSTANCE", instance.name))
        )
        yield _describe_instance(instance, found, facts)
        if instance.name in strangers:
            # A backup that hears only a stranger does not know whether anyone holds its addresses.
            said = keepalived.describe_stranger(instance.vrid, instance.link)
            is_vital = found.name != "MASTER"
            yield StatusLine(f"vrrp {instance.name}", said, is_well=False, is_vital=is_vital)


def _describe_instance(
    instance: keepalived.VrrpInstance, state: keepalived.VrrpState, facts: Facts
) -> StatusLine:
    subject = f"vrrp {instance.name}"
    vips = ", ".join(str(vip.address.ip) for vip in instance.vips)
    held = [vip for vip in instance.vips if facts.has_address(vip.link, vip.address)]
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
