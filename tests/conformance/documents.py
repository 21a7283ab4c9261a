"""OneGate played from a vector's documents, read as the agent reads OneGate's answers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from appliance.errors import OneGateMalformed, OneGateUnavailable
from appliance.system.onegate import (
    Lease,
    Service,
    Vm,
    parse_network,
    parse_service,
    parse_virtual_router,
    parse_vm,
    reserved_networks,
)

Documents = Mapping[str, Any]


def service_of(documents: Documents) -> Service:
    """Return the service with those VMs that can be read one by one.

    Raises:
        OneGateError: There is no such document, or it holds no service.
    """
    service = parse_service(_wanted(documents, "service"))
    vms = {vm.vm_id: vm for vm in _vms(documents)}
    roles = tuple(
        replace(role, vms=tuple(vms[vm_id] for vm_id in role.vm_ids if vm_id in vms))
        for role in service.roles
    )
    complete = all(role.cardinality <= len(role.vm_ids) == len(role.vms) for role in roles)
    return replace(service, roles=roles, complete=complete)


def service_id_of(documents: Documents) -> int | None:
    """Return the id of the service, where OneGate tells one."""
    try:
        service_id = service_of(documents).service_id
    except (OneGateMalformed, OneGateUnavailable):
        return None
    return service_id if service_id >= 0 else None


def _vms(documents: Documents) -> Iterator[Vm]:
    for document in documents.get("vms") or ():
        try:
            yield parse_vm(document)
        except OneGateMalformed:
            continue


def leases_of(documents: Documents) -> tuple[Lease, ...]:
    """Return the leases of the virtual router's networks and of those they are reserved from.

    Raises:
        OneGateError: The document of the router or of a network is missing or malformed.
    """
    networks = {
        str(document["VNET"].get("ID")): document
        for document in documents.get("vnets") or ()
        if isinstance(document.get("VNET"), dict)
    }
    waiting = list(parse_virtual_router(_wanted(documents, "vrouter")))
    found: dict[int, tuple[Lease, ...]] = {}
    while waiting:
        network_id = waiting.pop(0)
        if network_id not in found:
            found[network_id] = parse_network(_wanted(networks, str(network_id)))
            waiting += reserved_networks(found[network_id])
    return tuple(lease for leases in found.values() for lease in leases)


def _wanted(documents: Documents, name: str) -> Mapping[str, Any]:
    document = documents.get(name)
    if not document:
        raise OneGateUnavailable(f"no answer about {name}")
    return document
