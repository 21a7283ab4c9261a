"""Where a node fetches images from: RKE2's registries.yaml, and what does not fit together in it.

RKE2 reads the file when it starts, and no later.
Source: rke2-docs, docs/install/private_registry.md and registry_mirror.md; k3s-io/k3s,
pkg/agent/containerd.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Set
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import urlsplit

import yaml

from appliance.errors import Problem
from appliance.secret import Secret
from appliance.values import HostAndPort
from appliance.yamltext import PlainDumper
from roles.common.rke2extra import EXTRA_CONFIG_KEY
from roles.common.rke2params import RegistryParams

REGISTRIES = PurePosixPath("/etc/rancher/rke2/registries.yaml")
REGISTRY_CA = PurePosixPath("/etc/rancher/rke2/oneke-registry-ca.pem")
HEADER = "# Written by oneke-agent; local changes will be overwritten.\n"

_PREFIX = "ONEAPP_RKE2_REGISTRY_"
_ENDPOINTS = f"{_PREFIX}ENDPOINTS"
_SYSTEM_DEFAULT = "ONEAPP_RKE2_SYSTEM_DEFAULT_REGISTRY"
_OWN_TEXT = "ONEAPP_RKE2_REGISTRIES"
_OTHER_FILE = "private-registry"
_EVERY = "*"
_BEGIN, _END = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"
_SECTIONS = frozenset({"mirrors", "configs", "auths"})


@dataclass(frozen=True)
class RegistryFiles:
    """The files about registries; empty texts where there is to be none."""

    registries: Secret
    ca: str


# ---- what is written


def build_files(params: RegistryParams) -> RegistryFiles:
    """Decide the texts of the files."""
    if params.own_text:
        return RegistryFiles(Secret(f"{HEADER}{params.own_text.reveal().rstrip()}\n"), "")
    ca = f"{HEADER}{params.ca.strip()}\n" if params.ca and params.ca.strip() else ""
    document = build_registries(params)
    return RegistryFiles(Secret(_render(document) if document else ""), ca if document else "")


def build_registries(params: RegistryParams) -> dict[str, Any]:
    """Decide what registries.yaml says; nothing where images come from the registries they name."""
    mirror = {"endpoint": list(params.endpoints or ())}
    config = dict(_config_of(params))
    return {
        **({"mirrors": {name: mirror for name in params.mirrored}} if params.endpoints else {}),
        **({"configs": {host: config for host in registry_hosts(params)}} if config else {}),
    }


def _config_of(params: RegistryParams) -> Iterator[tuple[str, dict[str, str]]]:
    if params.username and params.password:
        yield "auth", {"username": params.username, "password": params.password.reveal()}
    if params.ca:
        yield "tls", {"ca_file": str(REGISTRY_CA)}


def registry_hosts(params: RegistryParams) -> tuple[str, ...]:
    """List the registries that images are fetched from: host, with the port where one is given."""
    hosts = [urlsplit(url).netloc for url in params.endpoints or ()]
    if params.system_default:
        hosts.append(str(params.system_default))
    return tuple(dict.fromkeys(hosts))


def is_mirrored(params: RegistryParams, named: Set[str]) -> bool:
    """Say whether others stand for all of these registries.

    Args:
        params: Of the node; an own text of them is known to be sound.
        named: The registries, by host.
    """
    if params.own_text:
        mirrored = set(yaml.safe_load(params.own_text.reveal()).get("mirrors", ()))
    else:
        mirrored = set(params.mirrored) if params.endpoints else set()
    return _EVERY in mirrored or (bool(named) and named <= mirrored)


def direct_hosts(params: RegistryParams) -> tuple[str, ...]:
    """List the registries that are reached without a proxy: host names and addresses."""
    if params.own_text:
        return ()
    hosts = [urlsplit(url).hostname or "" for url in params.endpoints or ()]
    if params.system_default:
        hosts.append(params.system_default.host)
    return tuple(dict.fromkeys(hosts))


def settings_of(
    params: RegistryParams, *, is_server: bool, is_airgapped: bool
) -> dict[str, object]:
    """Decide what RKE2's own settings say of registries.

    Args:
        params: Of the node.
        is_server: Whether RKE2 is one. The name in front of its own images is a matter of servers,
            who tell the other nodes.
        is_airgapped: Whether there is no way to the registries that images name.
    """
    prefix = params.system_default if is_server else None
    falls_back = params.fallback_enabled
    if falls_back is None:
        falls_back = not (is_airgapped and params.endpoints)
    return {
        **({"system-default-registry": str(prefix)} if prefix else {}),
        **({} if falls_back else {"disable-default-registry-endpoint": True}),
    }


def image_name(image: str, system_default: HostAndPort | None) -> str:
    """Name an image of RKE2's as it is named in this cluster."""
    return f"{system_default}/{image}" if system_default else image


def _render(document: Mapping[str, Any]) -> str:
    return HEADER + yaml.dump(document, Dumper=PlainDumper, sort_keys=False, allow_unicode=True)


# ---- what does not fit together


def check_registries(
    params: RegistryParams, extra_keys: Container[str] = ()
) -> tuple[list[Problem], list[str]]:
    """Find what is wrong with a node's parameters for registries: problems and warnings.

    Args:
        params: Of the node.
        extra_keys: What the user's own settings of RKE2 say something of.
    """
    aside = list(_put_aside(params, extra_keys))
    if params.own_text:
        return list(_check_own_text(params.own_text)), [*_replaced(params), *aside]
    return list(_check_given(params)), [*_doubts(params), *aside]


def _put_aside(params: RegistryParams, extra_keys: Container[str]) -> Iterator[str]:
    files = build_files(params)
    if files.registries and _OTHER_FILE in extra_keys:
        yield (
            f"{EXTRA_CONFIG_KEY}: with {_OTHER_FILE} RKE2 reads another file than {REGISTRIES},"
            " which is written all the same"
        )


def _check_given(params: RegistryParams) -> Iterator[Problem]:
    given = {f"{_PREFIX}USERNAME": params.username, f"{_PREFIX}PASSWORD": params.password}
    missing = [key for key, value in given.items() if not value]
    if len(missing) == 1:
        other = next(key for key in given if key not in missing)
        yield Problem(
            missing[0], None, f"missing: {other} alone lets nobody in", depends_on=(other,)
        )
    if params.ca and not is_pem(params.ca):
        yield Problem(
            f"{_PREFIX}CA", None, f"expected certificates in PEM, which begin with {_BEGIN}"
        )
    if not registry_hosts(params):
        for key, value in {**given, f"{_PREFIX}CA": params.ca}.items():
            if value:
                yield Problem(
                    key,
                    None,
                    f"which registry it is for is not said: neither {_ENDPOINTS} nor"
                    f" {_SYSTEM_DEFAULT} is given",
                    depends_on=(_ENDPOINTS, _SYSTEM_DEFAULT),
                )


def is_pem(text: str) -> bool:
    """Say whether a text holds whole certificates."""
    return _BEGIN in text and text.count(_BEGIN) == text.count(_END)


def _doubts(params: RegistryParams) -> Iterator[str]:
    if not params.endpoints:
        if params.mirrored != (_EVERY,):
            yield f"{_PREFIX}MIRRORED has no effect: {_ENDPOINTS} is not given"
        if params.fallback_enabled is False:
            yield (
                f"{_PREFIX}FALLBACK_ENABLED has no effect: {_ENDPOINTS} is not given, and only a"
                " registry that has one is not fetched from itself"
            )
    for url in params.endpoints or ():
        if params.password and urlsplit(url).scheme == "http":
            yield f"{_ENDPOINTS}: {url}: {_PREFIX}PASSWORD is sent in the clear"


def _check_own_text(own: Secret) -> Iterator[Problem]:
    """Judge the shape; what is in it may be secret, and is not shown."""
    expected = "expected the YAML of a registries.yaml, with mirrors and configs"
    try:
        document = yaml.safe_load(own.reveal())
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"line {mark.line + 1} is none" if mark else "this is none"
        yield Problem(_OWN_TEXT, None, f"{expected}; {place}")
        return
    if not isinstance(document, dict) or not document:
        yield Problem(_OWN_TEXT, None, f"{expected}; this is no mapping")
        return
    unknown = sorted(str(key) for key in document if key not in _SECTIONS)
    if unknown:
        yield Problem(_OWN_TEXT, None, f"{expected}; it has something else beside them")
    for section in _SECTIONS & document.keys():
        entries = document[section]
        if not isinstance(entries, dict) or not all(
            isinstance(one, dict) for one in entries.values()
        ):
            yield Problem(_OWN_TEXT, None, f"{expected}; {section} maps registries to mappings")


def _replaced(params: RegistryParams) -> Iterator[str]:
    given = {
        "ENDPOINTS": params.endpoints,
        "USERNAME": params.username,
        "PASSWORD": params.password,
        "CA": params.ca,
    }
    for name, value in given.items():
        if value:
            yield f"{_PREFIX}{name} has no effect: {_OWN_TEXT} is given"
