"""The verbs about a cluster as a whole, which work on a master: `etcd` and `upgrade plan`."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from typing import Any

AddVerb = Callable[[Any, str, str, Callable[..., int]], argparse.ArgumentParser]


def add_cluster_verbs(verbs: Any, add_verb: AddVerb, run: Callable[..., int]) -> None:
    """Add them to the parser of the command line.

    Args:
        verbs: The parser's verbs.
        add_verb: Adds a verb with the options that all have.
        run: Has a role's task done.
    """
    etcd = verbs.add_parser("etcd", help="take or list snapshots of the cluster's database")
    etcd.description = "Takes or lists snapshots of the cluster's database, on a master."
    of_etcd = etcd.add_subparsers(dest="what", metavar="WHAT", required=True)
    snapshot = add_verb(of_etcd, "snapshot", "take a snapshot now", run)
    snapshot.set_defaults(task="etcd-snapshot")
    snapshot.add_argument(
        "--name",
        dest="argument",
        type=_snapshot_name,
        help="what its name begins with (on-demand)",
    )
    snapshot.add_argument("--dry-run", action="store_true", help="say what would be done")
    listed = add_verb(of_etcd, "list", "list the snapshots of all masters", run)
    listed.set_defaults(task="etcd-list", argument="", dry_run=False)

    upgrade = verbs.add_parser("upgrade", help="plan the way to another version of RKE2")
    upgrade.description = "Plans the way to another version of RKE2, on a master."
    of_upgrade = upgrade.add_subparsers(dest="what", metavar="WHAT", required=True)
    plan = add_verb(of_upgrade, "plan", "write plans for the system-upgrade-controller", run)
    plan.set_defaults(task="upgrade-plan", dry_run=True)
    plan.add_argument(
        "--to",
        dest="argument",
        required=True,
        metavar="VERSION",
        help="the version, such as v1.35.7+rke2r1",
    )
    plan.description = (
        "Prints plans for this cluster as it is now: servers one by one, then the other nodes, each"
        " drained. Nothing is changed; hand them to kubectl apply -f - where they are to be"
        " carried out. A downgrade, a minor version that is left out and a cluster that could lose"
        " its database's majority are refused."
    )
    for verb in (snapshot, listed, plan):
        verb.set_defaults(onegate_timeout_s=None, quiet=False)


def _snapshot_name(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}", text):
        raise argparse.ArgumentTypeError(
            "expected up to 63 letters, digits, dashes, dots and underscores"
        )
    return text
