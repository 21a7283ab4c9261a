"""Settings that a cluster keeps for life: with others its nodes could not talk to each other."""

from __future__ import annotations

from collections.abc import Mapping

import yaml

from appliance.errors import ParameterProblems, Problem

# Source: rke2-docs, server configuration: immutable after the first start.
_KEYS = {
    "cni": "ONEAPP_K8S_CNI_PLUGIN",
    "cluster-cidr": "ONEAPP_K8S_CLUSTER_CIDR",
    "service-cidr": "ONEAPP_K8S_SERVICE_CIDR",
}


def refuse_changed(in_force: str | None, wanted: Mapping[str, object]) -> None:
    """Compare the settings a master with data runs with, with those it would get.

    Args:
        in_force: The text of the configuration file; None where there is none.
        wanted: The settings to be written.

    Raises:
        ParameterProblems: Some would change that can not.
    """
    kept = _read(in_force)
    problems = [
        Problem(
            parameter,
            _shown(wanted.get(key)),
            f"can not be changed any more: the cluster was founded with {_shown(kept[key])}",
        )
        for key, parameter in _KEYS.items()
        if key in kept and kept[key] != wanted.get(key)
    ]
    if problems:
        raise ParameterProblems(problems)


def _read(text: str | None) -> Mapping[str, object]:
    try:
        found = yaml.safe_load(text or "")
    except yaml.YAMLError:
        return {}
    return found if isinstance(found, dict) else {}


def _shown(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)
