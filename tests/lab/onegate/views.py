"""The JSON shapes OneGate answers with, computed from state.

All scalars are strings except in the frame of a service. Keys come in the order of the real
answers; oned writes attributes sorted by name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tests.lab.onegate.state import (
    AddressRange,
    Lease,
    Nic,
    Node,
    Owner,
    Service,
    VirtualNetwork,
    VirtualRouter,
    Vm,
)
from tests.lab.onegate.template import HIDDEN, Value, Version

Json = dict[str, Any]

_NIC_KEYS = frozenset(
    {"IP", "IP6_LINK", "IP6_SITE", "IP6_GLOBAL", "NETWORK", "MAC", "NAME", "PARENT", "EXTERNAL"}
    | {"EXTERNAL_IP"}
)
_NETWORK_KEYS = (
    "NETWORK_ADDRESS",
    "NETWORK_MASK",
    "GATEWAY",
    "GATEWAY6",
    "DNS",
    "GUEST_MTU",
    "SEARCH_DOMAIN",
    "METRIC",
    "IP6_METRIC",
)
_CLUSTER = '("CLUSTERS/ID" @> 0)'
_HOSTS = {
    Version.V7_4: "(CLUSTER_ID = 0) & !(PIN_POLICY = PINNED)",
    Version.V6_4: "(CLUSTER_ID = 0) & !(PUBLIC_CLOUD = YES) & !(PIN_POLICY = PINNED)",
}


def build_vm(vm: Vm) -> Json:
    """Build the short answer of /vm and /vms/ID; here NIC is always a list."""
    shown = {name: value for name, value in _sort(vm.user_template).items() if name not in HIDDEN}
    return {
        "VM": {
            "NAME": vm.name,
            "ID": str(vm.vm_id),
            "STATE": str(vm.state),
            "LCM_STATE": str(vm.lcm_state),
            "USER_TEMPLATE": shown,
            "TEMPLATE": {
                "NIC": [_build_short_nic(nic) for nic in vm.nics],
                "NIC_ALIAS": [_build_short_nic(nic) for nic in vm.aliases],
            },
        }
    }


def build_service(service: Service, extended: Mapping[int, Json] | None = None) -> Json:
    """Build the answer of /service.

    Args:
        service: The service.
        extended: The raw view of every VM by id; None for the plain answer.
    """
    roles = [
        {
            "name": role.name,
            "cardinality": role.cardinality,
            "state": role.state,
            "nodes": [
                {
                    "deploy_id": node.vm_id,
                    "running": None,
                    "vm_info": _build_frozen(node) if extended is None else extended[node.vm_id],
                }
                for node in role.nodes
            ],
        }
        for role in service.roles
    ]
    frame = {"name": service.name, "id": str(service.service_id), "state": service.state}
    return {"SERVICE": {**frame, "roles": roles}}


def build_raw_vm(vm: Vm, version: Version) -> Json:
    """Build a whole VM as the extended answer shows it, context and its secrets included."""
    raw: Json = {
        **_build_identity(vm.vm_id, vm.name, vm.owner),
        "PERMISSIONS": {
            f"{who}_{right}": str(int(who == "OWNER" and right != "A"))
            for who in ("OWNER", "GROUP", "OTHER")
            for right in "UMA"
        },
        "LAST_POLL": str(vm.polled_at),
        "STATE": str(vm.state),
        "LCM_STATE": str(vm.lcm_state),
        "PREV_STATE": str(vm.state),
        "PREV_LCM_STATE": str(vm.lcm_state),
        "RESCHED": "0",
        "STIME": str(vm.created_at),
        "ETIME": "0",
        "DEPLOY_ID": f"{vm.placement.host_name}:{vm.name}:dummy" if vm.placement else {},
        "MONITORING": dict(vm.monitoring),
    }
    if version is Version.V7_4:
        raw["SCHED_ACTIONS"] = {}
    raw["TEMPLATE"] = _build_raw_template(vm, version)
    raw["USER_TEMPLATE"] = _sort(vm.user_template)
    raw["HISTORY_RECORDS"] = _build_history(vm, version)
    if version is Version.V7_4:
        raw["BACKUPS"] = {"BACKUP_CONFIG": {}, "BACKUP_IDS": {}}
    return {"VM": raw}


def build_virtual_router(vrouter: VirtualRouter) -> Json:
    """Build the answer of /vrouter."""
    return {
        "VROUTER": {
            "NAME": vrouter.name,
            "ID": str(vrouter.vrouter_id),
            "VMS": {"ID": [str(vm_id) for vm_id in vrouter.vm_ids]},
            "TEMPLATE": {
                "NIC": [dict(sorted(nic.items())) for nic in vrouter.nics],
                "TEMPLATE_ID": str(vrouter.template_id),
            },
        }
    }


def build_virtual_network(network: VirtualNetwork) -> Json:
    """Build the answer of /vnet/ID (the plain one: `extended` was not recorded)."""
    ranges = [_build_range(index, found) for index, found in enumerate(network.ranges)]
    return {
        "VNET": {
            "ID": str(network.network_id),
            "NAME": network.name,
            "USED_LEASES": str(sum(len(found.leases) for found in network.ranges)),
            "VROUTERS": {"ID": [str(vrouter_id) for vrouter_id in network.vrouter_ids]},
            "PARENT_NETWORK_ID": {} if network.parent_id is None else str(network.parent_id),
            "AR_POOL": {"AR": ranges},
            "TEMPLATE": {
                key: network.attributes[key] for key in _NETWORK_KEYS if key in network.attributes
            },
        }
    }


def _build_range(index: int, found: AddressRange) -> Json:
    return {
        "AR_ID": str(index),
        "IP": found.first_ip,
        "MAC": found.first_mac,
        "NEXT_INDEX": str(found.next_index),
        "SHARED": "NO",
        "SIZE": str(found.size),
        "TYPE": "IP4",
        "MAC_END": found.last_mac(),
        "IP_END": found.last_ip(),
        "USED_LEASES": str(len(found.leases)),
        "LEASES": {"LEASE": [_build_lease(lease) for lease in found.leases]},
    }


def _build_lease(lease: Lease) -> Json:
    kind, holder_id = lease.holder
    return {"IP": lease.ip, "MAC": lease.mac, kind: str(holder_id)}


def _build_identity(vm_id: int, name: str, owner: Owner) -> Json:
    return {
        "ID": str(vm_id),
        "UID": str(owner.uid),
        "GID": str(owner.gid),
        "UNAME": owner.user_name,
        "GNAME": owner.group_name,
        "NAME": name,
    }


def _build_frozen(node: Node) -> Json:
    return {"VM": _build_identity(node.vm_id, node.name, node.owner)}


def _build_short_nic(nic: Nic) -> Json:
    return {key: value for key, value in sorted(nic.attributes.items()) if key in _NIC_KEYS}


def _build_raw_nic(vm_id: int, nic: Nic) -> Json:
    given = nic.attributes
    defaults = {
        "AR_ID": "0",
        "BRIDGE": f"br{given.get('NETWORK_ID', '0')}",
        "BRIDGE_TYPE": "linux",
        "CLUSTER_ID": "0",
        "SECURITY_GROUPS": "0",
        "TARGET": f"one-{vm_id}-{given.get('NIC_ID', '0')}",
        "VN_MAD": "dummy",
    }
    return dict(sorted({**defaults, **given}.items()))


def _build_raw_template(vm: Vm, version: Version) -> Json:
    parts: Json = {
        "AUTOMATIC_DS_REQUIREMENTS": _CLUSTER,
        "AUTOMATIC_NIC_REQUIREMENTS": _CLUSTER,
        "AUTOMATIC_REQUIREMENTS": _HOSTS[version],
        "CONTEXT": dict(sorted(vm.context.items())),
        "CPU": vm.hardware.cpu,
        "CREATED_BY": str(vm.owner.uid),
        "GRAPHICS": {"LISTEN": "127.0.0.1", "PORT": str(5900 + vm.vm_id), "TYPE": "VNC"},
        "MEMORY": vm.hardware.memory,
        "NIC": _fold([_build_raw_nic(vm.vm_id, nic) for nic in vm.nics]),
        "NIC_ALIAS": _fold([_build_raw_nic(vm.vm_id, nic) for nic in vm.aliases]),
        "OS": {"ARCH": "x86_64", "UUID": vm.hardware.uuid},
        "SECURITY_GROUP_RULE": [
            {
                "PROTOCOL": "ALL",
                "RULE_TYPE": direction,
                "SECURITY_GROUP_ID": "0",
                "SECURITY_GROUP_NAME": "default",
            }
            for direction in ("OUTBOUND", "INBOUND")
        ],
        "TEMPLATE_ID": str(vm.hardware.template_id),
        "TM_MAD_SYSTEM": "dummy",
        "VCPU": vm.hardware.vcpu,
        "VMID": str(vm.vm_id),
    }
    return {name: part for name, part in parts.items() if part is not None}


def _build_history(vm: Vm, version: Version) -> Json:
    if vm.placement is None:
        return {}
    started, booted = str(vm.placement.started_at), str(vm.placement.booted_at)
    record = {
        "OID": str(vm.vm_id),
        "SEQ": "0",
        "HOSTNAME": vm.placement.host_name,
        "HID": str(vm.placement.host_id),
        "CID": "0",
        "STIME": started,
        "ETIME": "0",
        "VM_MAD": "dummy",
        "TM_MAD": "dummy",
        "DS_ID": "0",
    }
    if version is Version.V7_4:
        record |= {"PLAN_ID": "-1", "ACTION_ID": str(vm.placement.action_id)}
    record |= {"PSTIME": started, "PETIME": booted, "RSTIME": booted, "RETIME": "0"}
    record |= {"ESTIME": "0", "EETIME": "0", "ACTION": "0"}
    return {"HISTORY": record | {"UID": "-1", "GID": "-1", "REQUEST_ID": "-1"}}


def _fold(items: Sequence[Json]) -> Sequence[Json] | Json | None:
    """Show a repeated element as the raw view does: absent, alone, or a list."""
    if not items:
        return None
    return items if len(items) > 1 else items[0]


def _sort(user_template: Mapping[str, Value]) -> dict[str, Value]:
    return {name: _sort_value(value) for name, value in sorted(user_template.items())}


def _sort_value(value: Value) -> Value:
    if isinstance(value, list):
        return [
            single if isinstance(single, str) else dict(sorted(single.items())) for single in value
        ]
    return value if isinstance(value, str) else dict(sorted(value.items()))
