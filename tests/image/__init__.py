"""Boots a whole virtual machine of the provisioned image under QEMU, as a node of the lab."""
