"""The gateway pair: virtual addresses, balancers, NAT and routing."""

from roles.vnf.role import VnfRole

HANDLER = VnfRole
