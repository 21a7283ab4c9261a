"""The benchmark of a whole service."""

from __future__ import annotations

import sys

from bench.common.command import run
from bench.service import accounting

if __name__ == "__main__":
    sys.exit(run("bench.service", {"accounting": accounting.measure}))
