"""The worker: runs the cluster's workloads, and stands behind the ingress balancers."""

from roles.worker.role import WorkerRole

HANDLER = WorkerRole
