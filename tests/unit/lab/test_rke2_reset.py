"""The double's reset: what it refuses before it touches any data."""

from __future__ import annotations

import pytest

from tests.lab.rke2.double.config import Value
from tests.lab.rke2.double.journal import Fatal
from tests.lab.rke2.double.knobs import Knobs
from tests.lab.rke2.double.reset import check_source
from tests.lab.rke2.double.start import Start

RESTORES: dict[str, Value] = {"cluster-reset-restore-path": "/var/lib/snapshots/one"}
BY_SECRET: dict[str, Value] = {"etcd-s3": True, "etcd-s3-config-secret": "one-etcd-s3"}


def start(values: dict[str, Value]) -> Start:
    return Start("server", Knobs([]), values, "token", "", "s0", ("10.0.0.1",))


def test_a_restore_is_refused_where_only_a_secret_tells_of_the_bucket() -> None:
    with pytest.raises(Fatal, match="configuration must be set in CLI or config file"):
        check_source(start({**RESTORES, **BY_SECRET}))


@pytest.mark.parametrize(
    "values",
    [RESTORES, BY_SECRET, {**RESTORES, **BY_SECRET, "etcd-s3-bucket": "backup"}],
)
def test_what_needs_no_secret_is_not_refused(values: dict[str, Value]) -> None:
    check_source(start(values))
