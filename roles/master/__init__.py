"""The master: serves the Kubernetes API; one of them founds the cluster, the others join it."""

from roles.master.role import MasterRole

HANDLER = MasterRole
