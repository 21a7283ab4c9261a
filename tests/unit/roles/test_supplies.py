"""What a node is offered of its image, and what is left to be fetched from outside."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

import pytest
import yaml

from appliance import paths
from appliance.actions import WriteFile
from appliance.context import Context
from appliance.decision import decide
from appliance.errors import ParameterProblems
from appliance.facts import Facts
from appliance.folderactions import LinkFiles, StartFile
from appliance.role import StatusLine
from roles.common.components import plan_components
from roles.common.imagestore import (
    AGENT_IMAGES,
    IMPORT_CACHE,
    LARGEST_CHART,
    Stored,
    StoredChart,
    knows_import_cache,
)
from roles.common.outside import KEY, TIME_SERVERS
from roles.common.supplies import Supplies
from tests.contexts import SERVICES
from tests.fakes import FakeFiles, make_system
from tests.unit.roles.cluster import AGENT, Cloud, Machine
from tests.unit.roles.nodes import NODE

STORE = PurePosixPath("/usr/share/oneke/images")
ARCHIVES = {
    "rke2": ("rke2-images-core.linux-amd64.tar.zst",),
    "canal": ("rke2-images-canal.linux-amd64.tar.zst",),
    "cilium": ("rke2-images-cilium.linux-amd64.tar.zst",),
    "multus": ("rke2-images-multus.linux-amd64.tar.zst",),
    "longhorn": ("longhornio_csi-attacher.tar", "longhornio_longhorn-manager.tar"),
    "metallb": ("quay.io_metallb_speaker.tar",),
    "traefik": ("docker.io_library_traefik.tar",),
}
CHARTS = ("longhorn-1.9.1.tgz", "metallb-0.15.2.tgz", "traefik-37.1.0.tgz")
FULL = Stored(ARCHIVES, {name: StoredChart("dGd6") for name in CHARTS}, "v1.35.7+rke2r1")
ALL_ON = {f"ONEAPP_K8S_{name}_ENABLED": "YES" for name in ("LONGHORN", "METALLB", "TRAEFIK")}
AIRGAPPED = {KEY: "YES"}


def supplies(role: str, /, **changes: str) -> Supplies:
    """The supplies of a node whose context differs so from the usual one."""
    params = decide(role, Context({**NODE, **changes}, "test"), SERVICES).params
    return Supplies(params, SERVICES, role)


def facts(of: Supplies, stored: Stored, time_servers: str | None = None) -> Facts:
    """What is seen of such an image."""
    return Facts(seen={of.store: stored}, files={TIME_SERVERS: time_servers})


def offered(role: str, stored: Stored = FULL, /, **changes: str) -> set[str]:
    """The drop-ins whose archives a node is offered."""
    of = supplies(role, **changes)
    links = next(one for one in of.plan(facts(of, stored)) if isinstance(one, LinkFiles))
    assert (links.folder, links.store) == (AGENT_IMAGES, STORE)
    assert {path.name for path in links.targets} == {
        name for path in links.targets for name in ARCHIVES[path.parent.name]
    }
    return {path.parent.name for path in links.targets}


def lines(of: Supplies, stored: Stored, time_servers: str | None = None) -> dict[str, StatusLine]:
    """What is said about the outside, by subject."""
    return {one.subject: one for one in of.describe(facts(of, stored, time_servers))}


# ---- archives of images


@pytest.mark.parametrize("role", ["master", "worker", "storage"])
def test_without_components_there_are_rke2_and_the_network_plug_in_alone(role: str) -> None:
    assert offered(role) == {"rke2", "cilium"}
    assert offered(role, ONEAPP_K8S_CNI_PLUGIN="canal") == {"rke2", "canal"}
    assert offered(role, ONEAPP_K8S_CNI_PLUGIN="none") == {"rke2"}
    assert offered(role, ONEAPP_K8S_MULTUS_ENABLED="YES") == {"rke2", "cilium", "multus"}


@pytest.mark.parametrize(
    ("role", "changes", "added"),
    [
        ("worker", {}, {"longhorn", "metallb", "traefik"}),
        ("storage", {}, {"longhorn"}),
        ("master", {}, set()),
        ("master", {"ONEAPP_K8S_TAINTED_MASTER": "NO"}, {"longhorn", "metallb", "traefik"}),
    ],
)
def test_components_are_where_their_pods_may_come(
    role: str, changes: Mapping[str, str], added: set[str]
) -> None:
    assert offered(role, **ALL_ON, **changes) == {"rke2", "cilium", *added}


@pytest.mark.parametrize("name", ["LONGHORN", "METALLB", "TRAEFIK"])
def test_a_worker_is_told_of_each_component_by_its_switch(name: str) -> None:
    found = offered("worker", **{f"ONEAPP_K8S_{name}_ENABLED": "YES"})
    assert found == {"rke2", "cilium", name.lower()}


def test_an_image_without_archives_leads_to_no_links_and_no_cache() -> None:
    of = supplies("worker")
    (links,) = of.plan(facts(of, Stored(rke2="v1.35.7+rke2r1")))
    assert isinstance(links, LinkFiles)
    assert links.targets == ()


@pytest.mark.parametrize(
    ("version", "knows"),
    [
        ("v1.35.7+rke2r1", True),
        ("v1.33.1+rke2r1", True),
        ("v1.33.0+rke2r1", False),
        ("v1.32.5+rke2r1", True),
        ("v1.32.4+rke2r1", False),
        ("v1.31.9+rke2r1", True),
        ("v1.30.12+rke2r1", False),
        ("v1.29.15+rke2r1", False),
        ("", False),
    ],
)
def test_imports_are_remembered_by_versions_that_know_how(version: str, knows: bool) -> None:
    assert knows_import_cache(version) is knows
    of = supplies("worker")
    started = [
        one.path
        for one in of.plan(facts(of, Stored(ARCHIVES, rke2=version)))
        if isinstance(one, StartFile)
    ]
    assert started == ([IMPORT_CACHE] if knows else [])


# ---- the look


def test_an_image_is_looked_through_for_archives_charts_and_its_version() -> None:
    files = FakeFiles(
        {
            f"{STORE}/rke2/core.tar": "x",
            f"{STORE}/longhorn/b.tar": "x",
            f"{STORE}/longhorn/a.tar": "x",
            f"{STORE}/somebody/else.tar": "x",
            f"{paths.CHARTS_DIR}/longhorn-1.9.1.tgz": b"\x1f\x8b\xff",
            f"{paths.CHARTS_DIR}/traefik-37.1.0.tgz": b"x" * (LARGEST_CHART + 1),
            str(paths.IMAGE_RECORD): json.dumps({"releases": {"rke2": "v1.35.7+rke2r1"}}),
        }
    )
    found = supplies("master", **ALL_ON).store.look(make_system(files=files))
    assert found.archives == {"rke2": ("core.tar",), "longhorn": ("a.tar", "b.tar")}
    assert {name: chart.content for name, chart in found.charts.items()} == {
        "longhorn-1.9.1.tgz": base64.b64encode(b"\x1f\x8b\xff").decode(),
        "traefik-37.1.0.tgz": "",
    }
    assert found.rke2 == "v1.35.7+rke2r1"


@pytest.mark.parametrize("record", [b"{}", b"[]", b"null", b"{", b"\xff", b'{"releases": "x"}'])
def test_a_record_that_tells_no_version_is_as_none(record: bytes) -> None:
    files = FakeFiles({str(paths.IMAGE_RECORD): record})
    assert supplies("worker").store.look(make_system(files=files)) == Stored()


def test_only_masters_read_charts_and_only_those_they_deploy() -> None:
    assert set(supplies("master", **ALL_ON).store.charts) == set(CHARTS)
    assert supplies("master").store.charts == ()
    assert supplies("worker", **ALL_ON).store.charts == ()


# ---- charts


def charts_of(stored: Stored, /, **changes: str) -> dict[str, dict[str, Any]]:
    """What a master says of each chart."""
    of = supplies("master", **ALL_ON, **changes)
    actions = plan_components(of.params, SERVICES, of.charts(facts(of, stored)))
    documents = [
        document
        for action in actions
        if isinstance(action, WriteFile)
        for document in yaml.safe_load_all(action.text)
    ]
    return {one["metadata"]["name"]: one["spec"] for one in documents if one["kind"] == "HelmChart"}


def test_a_chart_of_the_image_is_handed_over_with_the_object() -> None:
    found = charts_of(FULL)
    assert set(found) == {"one-longhorn", "one-metallb", "one-traefik"}
    for spec in found.values():
        assert spec["chartContent"] == "dGd6"
        assert not {"chart", "repo", "version"} & set(spec)


def test_another_version_than_that_of_the_image_comes_from_the_repository() -> None:
    changes = {"ONEAPP_K8S_TRAEFIK_CHART_VERSION": "37.2.0"}
    found = charts_of(FULL, **changes)
    assert "chartContent" in found["one-longhorn"]
    assert "chartContent" not in found["one-traefik"]
    assert found["one-traefik"]["version"] == "37.2.0"
    line = lines(supplies("master", **ALL_ON, **changes), FULL)["outside"]
    assert line.is_well
    assert line.state == (
        "chart traefik 37.2.0, which is not in the image, from https://traefik.github.io/charts"
    )


def test_a_chart_that_is_too_large_for_an_object_comes_from_the_repository() -> None:
    stored = Stored(ARCHIVES, {**FULL.charts, "metallb-0.15.2.tgz": StoredChart("")})
    assert "repo" in charts_of(stored)["one-metallb"]
    line = lines(supplies("master", **ALL_ON), stored)["outside"]
    assert "metallb 0.15.2, which is too large to be given to the cluster" in line.state


# ---- the outside


@pytest.mark.parametrize("role", ["master", "worker", "storage"])
def test_an_image_with_everything_leaves_nothing_to_be_fetched(role: str) -> None:
    of = supplies(role, **ALL_ON, **AIRGAPPED)
    found = lines(of, FULL, "[Time]\nNTP=10.0.0.1 10.0.0.2\nFallbackNTP=\n")
    assert (found["outside"].is_well, found["time"].is_well) == (True, True)
    assert "nothing is fetched" in found["outside"].state
    assert found["time"].state == "10.0.0.1 10.0.0.2"
    assert of.plan(facts(of, FULL))


def test_time_servers_that_are_not_named_are_told_where_there_is_no_way_out() -> None:
    line = lines(supplies("worker", **AIRGAPPED), FULL)["time"]
    assert (line.is_well, line.is_vital) == (False, False)
    assert "ntp_servers" in line.state
    assert "time" not in lines(supplies("worker"), FULL)


def test_what_can_not_be_fetched_is_refused_all_at_once() -> None:
    of = supplies("master", **ALL_ON, **AIRGAPPED)
    stored = Stored(charts={"longhorn-1.9.1.tgz": StoredChart("dGd6")})
    with pytest.raises(ParameterProblems) as refused:
        of.plan(facts(of, stored))
    told = [str(one) for one in refused.value.problems]
    assert len(told) == 3
    assert all(one.startswith(f"{KEY}=YES: there is no way to fetch ") for one in told)
    assert [one for one in told if "images of cilium, rke2 from their registries; take an" in one]
    assert [one for one in told if "chart metallb 0.15.2, which is not in the image" in one]
    line = lines(of, stored)["outside"]
    assert (line.is_well, line.is_vital) == (False, False)


def test_where_there_is_a_way_out_nothing_is_refused() -> None:
    of = supplies("worker")
    assert of.plan(facts(of, Stored()))
    assert lines(of, Stored())["outside"].state == "images of cilium, rke2 from their registries"


@pytest.mark.parametrize(
    ("given", "where"),
    [
        (
            {"ONEAPP_RKE2_REGISTRY_ENDPOINTS": "https://r.example:5000"},
            "https://r.example:5000",
        ),
        (
            {"ONEAPP_RKE2_REGISTRIES": "mirrors:\n  docker.io: {endpoint: [https://r]}\n"},
            "where ONEAPP_RKE2_REGISTRIES says",
        ),
        ({"ONEAPP_K8S_HTTPS_PROXY": "http://proxy.example:3128"}, "their registries"),
    ],
)
def test_a_registry_or_a_proxy_within_reach_is_told_and_not_refused(
    given: Mapping[str, str], where: str
) -> None:
    of = supplies("worker", **AIRGAPPED, **given)
    assert of.plan(facts(of, Stored()))
    line = lines(of, Stored())["outside"]
    assert line.is_well
    assert line.state == f"images of cilium, rke2 from {where}"


OWN, ENDPOINTS = "ONEAPP_RKE2_REGISTRIES", "ONEAPP_RKE2_REGISTRY_ENDPOINTS"
MIRRORED, PREFIX = "ONEAPP_RKE2_REGISTRY_MIRRORED", "ONEAPP_RKE2_SYSTEM_DEFAULT_REGISTRY"
REGISTRY = {ENDPOINTS: "https://r.example"}


@pytest.mark.parametrize(
    ("given", "beyond"),
    [
        ({**REGISTRY, MIRRORED: "docker.io"}, {"metallb"}),
        ({**REGISTRY, MIRRORED: "quay.io"}, {"cilium", "longhorn", "rke2", "traefik"}),
        ({**REGISTRY, MIRRORED: "docker.io quay.io"}, set()),
        ({OWN: "configs: {r.example: {auth: {username: u}}}"}, {*ARCHIVES} - {"canal", "multus"}),
        ({OWN: "mirrors: {docker.io: {endpoint: [https://r]}}"}, {"metallb"}),
        ({PREFIX: "r.example:5000"}, {"metallb", "longhorn", "traefik"}),
        ({PREFIX: "r.example:5000", **REGISTRY, MIRRORED: "docker.io"}, {"metallb"}),
    ],
)
def test_a_registry_is_a_way_to_those_images_alone_that_it_stands_for(
    given: Mapping[str, str], beyond: set[str]
) -> None:
    of = supplies("worker", **ALL_ON, **AIRGAPPED, **given)
    told = ""
    try:
        of.plan(facts(of, Stored()))
    except ParameterProblems as refused:
        (told,) = map(str, refused.problems)
    names = told.partition("images of ")[2].partition(" from ")[0]
    assert set(filter(None, names.split(", "))) == beyond
    assert lines(of, Stored())["outside"].is_well is not bool(beyond)


# ---- whole runs


def put_image(machine: Machine) -> None:
    """Have everything in a machine's image."""
    for name, archives in ARCHIVES.items():
        for archive in archives:
            machine.files.put(f"{STORE}/{name}/{archive}", "x")
    for name in CHARTS:
        machine.files.put(f"{paths.CHARTS_DIR}/{name}", b"\x1f\x8b")
    record = json.dumps({"releases": {"rke2": "v1.35.7+rke2r1"}})
    machine.files.put(paths.IMAGE_RECORD, record)


def test_masters_of_one_image_write_the_same_and_a_second_run_changes_nothing() -> None:
    cloud = Cloud()
    written = []
    for vm_id in (101, 102):
        master = Machine(cloud, "master", vm_id, **ALL_ON, **AIRGAPPED)
        put_image(master)
        master.run()
        written.append(
            {path: text for path, text in master.files.texts().items() if "/manifests/" in path}
        )
        assert {path.name for path in master.files.links} == {
            *ARCHIVES["rke2"],
            *ARCHIVES["cilium"],
        }
        assert master.run().changes == 0
    assert written[0] == written[1]
    assert sum("chartContent" in text for text in written[0].values()) == 3


def test_a_node_without_a_way_out_and_without_images_is_refused_at_once() -> None:
    worker = Machine(Cloud(), "worker", 111, **AIRGAPPED)
    with pytest.raises(ParameterProblems, match="no way to fetch images of cilium, rke2"):
        worker.run()
    assert not [change for change in worker.tape.changes if "rancher" in change]
    assert not [change for change in worker.tape.changes if change.startswith("units.")]
    assert not worker.units.states[AGENT].is_active
