"""The program Packer, where there is one."""

from __future__ import annotations

import os
import shutil

import pytest

needs_packer = pytest.mark.skipif(
    shutil.which("packer") is None and "CI" not in os.environ,
    reason="this distribution has no Packer",
)
"""Ubuntu 24.04 has none; in CI that would be a fault."""
