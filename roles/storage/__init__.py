"""The storage node: keeps Longhorn's replicas on a disk of its own."""

from roles.storage.role import StorageRole

HANDLER = StorageRole
