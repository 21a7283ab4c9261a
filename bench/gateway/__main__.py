"""The benchmarks of the gateway."""

from __future__ import annotations

import sys

from bench.common.command import run
from bench.gateway import churn, discovery, failover, scale

BENCHMARKS = {
    "failover": failover.measure,
    "discovery": discovery.measure,
    "churn": churn.measure,
    "scale": scale.measure,
}

if __name__ == "__main__":
    sys.exit(run("bench.gateway", BENCHMARKS))
