"""Where a node fetches images from."""

from __future__ import annotations

import base64
import hashlib
import json

import pytest
import yaml

from appliance.actions import BeginUnit, RemoveFile, WriteFile
from appliance.context import Context
from appliance.decision import decide
from appliance.errors import ParameterProblems
from appliance.secret import Secret
from roles.common.clusternode import Rke2Settings, plan_rke2
from roles.common.registries import (
    REGISTRIES,
    REGISTRY_CA,
    RegistryFiles,
    build_files,
    image_name,
)
from tests.contexts import SERVICES
from tests.unit.roles.nodes import NODE, params_of
from tests.unit.roles.test_rke2_config import agent, master
from tests.unit.roles.test_rke2_environment import exceptions

URL = "https://registry.example.org:5000"
CA = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"
PREFIX = "ONEAPP_RKE2_REGISTRY_"
ENDPOINTS, PASSWORD = f"{PREFIX}ENDPOINTS", f"{PREFIX}PASSWORD"
SYSTEM_DEFAULT = "ONEAPP_RKE2_SYSTEM_DEFAULT_REGISTRY"
OWN = "ONEAPP_RKE2_REGISTRIES"
SIGNED_IN = {f"{PREFIX}USERNAME": "oneke", PASSWORD: "p4ss: #word"}


def files(**changes: str | None) -> RegistryFiles:
    return build_files(params_of("worker", **changes).registries)


def written(**changes: str | None) -> object:
    return yaml.safe_load(files(**changes).registries.reveal())


def problems(role: str = "master", **changes: str) -> dict[str, str]:
    try:
        decide(role, Context({**NODE, **changes}, "test"), SERVICES)
    except ParameterProblems as wrong:
        return {one.key: one.accepted for one in wrong.problems}
    return {}


def warnings(**changes: str) -> list[str]:
    found = decide("worker", Context({**NODE, **changes}, "test"), SERVICES).warnings
    return [line for line in found if "REGISTR" in line or "EXTRA_CONFIG" in line]


# --- what is written ------------------------------------------------------------------------------


def test_without_parameters_there_is_no_file() -> None:
    assert files() == RegistryFiles(Secret(""), "")


def test_a_registry_stands_for_every_other_one() -> None:
    assert written(**{ENDPOINTS: URL}) == {"mirrors": {"*": {"endpoint": [URL]}}}


def test_a_registry_stands_for_those_that_are_named() -> None:
    found = written(
        **{ENDPOINTS: f"{URL},http://10.0.0.9/proxy", f"{PREFIX}MIRRORED": "docker.io quay.io"}
    )
    mirror = {"endpoint": [URL, "http://10.0.0.9/proxy"]}
    assert found == {"mirrors": {"docker.io": mirror, "quay.io": mirror}}


def test_name_and_password_are_those_of_every_registry_that_is_asked() -> None:
    found = written(
        **{
            ENDPOINTS: f"{URL} https://two.example.org",
            SYSTEM_DEFAULT: "three.example.org:8443",
        },
        **SIGNED_IN,
    )
    assert isinstance(found, dict)
    auth = {"auth": {"username": "oneke", "password": "p4ss: #word"}}
    assert found["configs"] == {
        "registry.example.org:5000": auth,
        "two.example.org": auth,
        "three.example.org:8443": auth,
    }


def test_a_ca_is_a_file_of_its_own_that_is_named() -> None:
    found = files(**{ENDPOINTS: URL, f"{PREFIX}CA": base64.b64encode(CA.encode()).decode()})
    assert found.ca.endswith(CA)
    assert yaml.safe_load(found.registries.reveal())["configs"] == {
        "registry.example.org:5000": {"tls": {"ca_file": str(REGISTRY_CA)}}
    }


def test_an_own_text_is_written_as_it_is_and_wins() -> None:
    own = 'mirrors:\n  docker.io:\n    rewrite: {"^rancher/(.*)": "oneke/$1"}  # ours\n'
    found = files(**{OWN: base64.b64encode(own.encode()).decode(), ENDPOINTS: URL})
    assert found.registries.reveal().endswith(own)
    assert URL not in found.registries.reveal()


# --- what RKE2 is told ----------------------------------------------------------------------------


def test_servers_alone_put_a_name_in_front_of_images() -> None:
    given = {SYSTEM_DEFAULT: "registry.example.org:5000"}
    assert master(**given)["system-default-registry"] == "registry.example.org:5000"
    assert "system-default-registry" not in agent(**given)


def test_every_node_may_be_kept_from_the_registries_that_images_name() -> None:
    given = {ENDPOINTS: URL, f"{PREFIX}FALLBACK_ENABLED": "NO"}
    assert master(**given)["disable-default-registry-endpoint"] is True
    assert agent(**given)["disable-default-registry-endpoint"] is True
    assert "disable-default-registry-endpoint" not in agent(**{ENDPOINTS: URL})


def test_without_a_way_out_nobody_tries_the_registries_that_images_name() -> None:
    airgapped = {ENDPOINTS: URL, "ONEAPP_ONEKE_AIRGAPPED": "YES"}
    for decided in (master, agent):
        assert decided(**airgapped)["disable-default-registry-endpoint"] is True
        said = {f"{PREFIX}FALLBACK_ENABLED": "YES"}
        assert "disable-default-registry-endpoint" not in decided(**airgapped, **said)
        without = {"ONEAPP_ONEKE_AIRGAPPED": "YES"}
        assert "disable-default-registry-endpoint" not in decided(**without)


def test_a_registry_is_reached_without_the_proxy() -> None:
    found = exceptions(
        **{ENDPOINTS: f"{URL},https://10.0.0.9", SYSTEM_DEFAULT: "[2001:db8::9]:5000"}
    )
    assert found[-3:] == ["registry.example.org", "10.0.0.9", "2001:db8::9"]


def test_an_own_text_leaves_the_proxy_alone() -> None:
    own = f"mirrors: {{docker.io: {{endpoint: ['{URL}']}}}}"
    assert "registry.example.org" not in exceptions(**{OWN: own, ENDPOINTS: URL})


def settings(registries: RegistryFiles) -> Rke2Settings:
    return Rke2Settings("rke2-agent.service", {"node-name": "n"}, "", None, registries)


def test_the_file_is_for_root_alone_and_there_before_rke2_starts() -> None:
    found = files(**{ENDPOINTS: URL, f"{PREFIX}CA": CA}, **SIGNED_IN)
    actions = list(plan_rke2(settings(found)))
    (registries,) = (
        one for one in actions if isinstance(one, WriteFile) and one.path == REGISTRIES
    )
    assert (registries.mode, registries.is_secret) == (0o600, True)
    assert "p4ss" not in repr([one for one in actions if one is not registries])
    assert isinstance(actions[-1], BeginUnit)


def test_what_is_not_wanted_any_more_goes_unless_it_is_somebody_elses() -> None:
    removed = {one.path: one for one in plan_rke2(settings(files())) if isinstance(one, RemoveFile)}
    assert removed[REGISTRIES].own_mark in files(**{ENDPOINTS: URL}).registries.reveal()
    assert removed[REGISTRY_CA].own_mark in files(**{ENDPOINTS: URL, f"{PREFIX}CA": CA}).ca


def test_rke2_is_started_anew_when_registries_change_and_else_is_not() -> None:
    none, one = settings(files()), settings(files(**{ENDPOINTS: URL}))
    other = settings(files(**{ENDPOINTS: URL, f"{PREFIX}CA": CA}))
    assert len({none.digest(), one.digest(), other.digest()}) == 3
    # Nodes that ran before there were registries are not restarted for nothing.
    before = json.dumps([{"node-name": "n"}, "", ""]).encode()
    assert none.digest() == hashlib.sha256(before).hexdigest()


def test_an_image_is_named_as_in_the_cluster() -> None:
    prefix = params_of("master", **{SYSTEM_DEFAULT: "registry.example.org:5000"}).registries
    assert image_name("rancher/rke2-upgrade", None) == "rancher/rke2-upgrade"
    assert (
        image_name("rancher/rke2-upgrade", prefix.system_default)
        == "registry.example.org:5000/rancher/rke2-upgrade"
    )


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "key", "said"),
    [
        ({ENDPOINTS: URL, PASSWORD: "x"}, f"{PREFIX}USERNAME", "lets nobody in"),
        ({ENDPOINTS: URL, f"{PREFIX}USERNAME": "x"}, PASSWORD, "lets nobody in"),
        ({ENDPOINTS: URL, f"{PREFIX}CA": "no certificate"}, f"{PREFIX}CA", "PEM"),
        ({ENDPOINTS: URL, f"{PREFIX}CA": CA[:-10]}, f"{PREFIX}CA", "PEM"),
        ({f"{PREFIX}CA": CA}, f"{PREFIX}CA", "which registry"),
        (SIGNED_IN, PASSWORD, "which registry"),
        ({OWN: "mirrors: ["}, OWN, "line 1"),
        ({OWN: "a text"}, OWN, "no mapping"),
        ({OWN: "mirror: {}"}, OWN, "something else"),
        ({OWN: "mirrors: [docker.io]"}, OWN, "mirrors maps"),
    ],
)
@pytest.mark.parametrize("role", ["master", "worker", "storage"])
def test_what_does_not_fit_together_is_refused(
    role: str, changes: dict[str, str], key: str, said: str
) -> None:
    assert said in problems(role, **changes)[key]


def test_a_secret_is_in_no_message() -> None:
    wrong = problems(**{OWN: "configs: {r: {auth: {password: hidden}}}\nhidden: hidden"})
    assert "hidden" not in str(wrong)
    assert OWN in wrong


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({f"{PREFIX}MIRRORED": "docker.io"}, "MIRRORED has no effect"),
        ({f"{PREFIX}FALLBACK_ENABLED": "NO"}, "FALLBACK_ENABLED has no effect"),
        ({ENDPOINTS: "http://10.0.0.9", **SIGNED_IN}, "in the clear"),
        ({ENDPOINTS: URL, OWN: "mirrors: {}"}, f"{ENDPOINTS} has no effect"),
    ],
)
def test_a_doubt_is_a_warning(changes: dict[str, str], said: str) -> None:
    (line,) = warnings(**changes)
    assert said in line


def test_another_file_of_the_users_is_a_doubt() -> None:
    other = "private-registry: /etc/ours.yaml"
    (line,) = warnings(**{ENDPOINTS: URL, "ONEAPP_RKE2_EXTRA_CONFIG": other})
    assert "another file" in line
    assert warnings(ONEAPP_RKE2_EXTRA_CONFIG=other) == []


def test_what_is_sound_gives_no_warning() -> None:
    assert warnings(**{ENDPOINTS: URL, f"{PREFIX}CA": CA}, **SIGNED_IN) == []
