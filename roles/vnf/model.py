"""What a gateway's parameters come to, for those who plan, describe and watch it."""

from __future__ import annotations

from roles.common.addresses import AddressBook, build_address_book
from roles.vnf import keepalived, nat
from roles.vnf.params import VnfParams

# Balancers and resolver bind virtual addresses that the other node holds.
_NONLOCAL_BIND = ("net.ipv4.ip_nonlocal_bind", "1")


def address_book(params: VnfParams) -> AddressBook:
    """Return every address of this gateway."""
    return build_address_book(params.opennebula, params.keepalived.vips)


def vrrp_model(params: VnfParams) -> keepalived.VrrpModel:
    """Return the VRRP instances."""
    return keepalived.build_vrrp(params.keepalived, params.opennebula, address_book(params))


def holds_addresses(params: VnfParams) -> bool:
    """Say whether there is a virtual address for keepalived to hold."""
    return params.keepalived.enabled and bool(vrrp_model(params).vips)


def kernel_settings(params: VnfParams) -> tuple[tuple[str, str], ...]:
    """Return the kernel settings, in the order they have to be written."""
    enabled = nat.is_router(params.router4, params.opennebula)
    forwarding = nat.build_forwarding(params.router4, address_book(params), enabled=enabled)
    return (*forwarding.items(), _NONLOCAL_BIND)
