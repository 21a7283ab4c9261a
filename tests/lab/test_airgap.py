"""A service on a network without any way out: what its nodes' image has is all that they need.

The double asks for images and charts where it lacks them, as RKE2 would; whoever asks for anything
outside is seen where the network's gateway would be. Archives and charts are small stand-ins.
"""

from __future__ import annotations

import io
import json
import tarfile
from base64 import b64decode
from collections.abc import Iterator, Mapping
from ipaddress import IPv4Address
from pathlib import Path

import pytest
import yaml

from appliance import paths
from appliance.service import load_services
from tests.lab.bake import Image
from tests.lab.context import PUBLIC
from tests.lab.lab import Lab
from tests.lab.network import (
    INTERNET,
    ONEGATE_ADDRESS,
    ONEGATE_PORT,
    PEER_SERVER,
    PUBLIC_GATEWAY,
    Process,
    ip,
)
from tests.lab.node import CONTEXT_FOLDER, Node
from tests.lab.rke2.double.charts import pack
from tests.lab.rke2.double.helm import JOB_IMAGE
from tests.lab.service import Service
from tests.lab.test_cluster import COMES_UP_S, HEALS_S, Cluster

pytestmark = pytest.mark.lab

RKE2 = "v1.35.7+rke2r1"
AGENT_IMAGES = "/var/lib/rancher/rke2/agent/images"
STORE = "/usr/share/oneke/images"
CACHE = f"{AGENT_IMAGES}/.cache.json"
ADD_ONS = {"ONEAPP_K8S_LONGHORN_ENABLED": "YES", "ONEAPP_K8S_TRAEFIK_ENABLED": "YES"}
AIRGAPPED = {**ADD_ONS, "ONEAPP_ONEKE_AIRGAPPED": "YES"}
# What the double's pods are of, by the drop-in whose archive has them.
CONTENTS: Mapping[str, tuple[str, ...]] = {
    "rke2": (
        f"rke2-runtime:{RKE2.replace('+', '-')}",
        JOB_IMAGE.removeprefix("rancher/"),
        "rke2-coredns-rke2-coredns",
        "rke2-coredns-rke2-coredns-autoscaler",
        "rke2-metrics-server",
        "rke2-snapshot-controller",
    ),
    "canal": ("rke2-canal",),
    "cilium": ("cilium", "cilium-operator"),
    "longhorn": (
        *("longhorn-manager", "longhorn-driver-deployer", "longhorn-ui"),
        "longhorn-csi-plugin",
    ),
    "traefik": ("one-traefik",),
    "metallb": ("metallb-controller", "metallb-speaker"),
}
NEEDED = {
    "master": {"rke2", "cilium"},
    "worker": {"rke2", "cilium", "longhorn", "traefik"},
    "storage": {"rke2", "cilium", "longhorn"},
}
REGISTRY = "registry-1.docker.io"
NAMESPACES = {"longhorn-system", "traefik-system"}


# --- images that nodes boot from -----------------------------------------------------------------


def archive(names: tuple[str, ...]) -> bytes:
    """An archive of images without anything in them."""
    told = [{"Config": "none", "RepoTags": [f"rancher/{one}" for one in names], "Layers": []}]
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as tar:
        data = json.dumps(told).encode()
        member = tarfile.TarInfo("manifest.json")
        member.size = len(data)
        tar.addfile(member, io.BytesIO(data))
    return made.getvalue()


def charts() -> dict[str, bytes]:
    """The charts that `install` puts into an image, by their files' names."""
    services = load_services((paths.packaged_services(),)).values()
    known = {
        one.component.chart.name: one.chart_version
        for one in services
        if one.component and one.component.chart
    }
    return {
        f"{name}-{version}.tgz": b64decode(pack(name, version)) for name, version in known.items()
    }


def full_image() -> dict[str, bytes]:
    """What an image of flavor EE has more than that of the lab."""
    record = {"flavor": "ee", "arch": "amd64", "releases": {"rke2": RKE2}}
    return {
        **{f"{STORE}/{name}/{name}.tar": archive(names) for name, names in CONTENTS.items()},
        **{f"{paths.CHARTS_DIR}/{name}": data for name, data in charts().items()},
        str(paths.IMAGE_RECORD): json.dumps(record).encode(),
        "/etc/systemd/timesyncd.conf.d/50-oneke.conf": f"[Time]\nNTP={PUBLIC_GATEWAY}\n".encode(),
    }


def with_files(image: Image, folder: Path, files: Mapping[str, bytes]) -> Image:
    """An image with more files, on nodes whose RKE2 asks for what it lacks."""
    told = yaml.safe_dump({"fetch": True}).encode()
    for path, data in {**files, "/etc/rke2-double.yaml": told}.items():
        at = folder / "fs" / path.lstrip("/")
        at.parent.mkdir(parents=True, exist_ok=True)
        at.write_bytes(data)
    for made in (folder / "fs").rglob("*"):
        made.chmod(0o755 if made.is_dir() else 0o644)
    (folder / "fs").chmod(0o755)
    return Image((*image.layers, folder))


# --- the network ---------------------------------------------------------------------------------


class Recorder:
    """Sees everything that leaves the service's networks, beyond which there is nothing."""

    def __init__(self, lab: Lab) -> None:
        ip("address", "del", f"{PEER_SERVER}/32", "dev", "lo", namespace=INTERNET)
        self._process: Process = lab.internet.start("-m", "tests.lab.recorder", what="recorder")
        self._process.wait_ready()

    def outside(self) -> list[str]:
        """What was sent to others than the service's own, its OneGate and its name server."""
        lines = [line for line in self._process.output.splitlines() if line.startswith("{")]
        return sorted({found for line in lines if (found := _outside(json.loads(line)))})

    def has_seen(self, port: int) -> bool:
        """Whether anything went to a port."""
        return f'"port": {port}' in self._process.output

    def close(self) -> None:
        """End it."""
        self._process.stop()


def _outside(seen: Mapping[str, object]) -> str:
    target, port, name = IPv4Address(str(seen["target"])), seen["port"], str(seen["name"])
    if (str(target), port) == (ONEGATE_ADDRESS, ONEGATE_PORT):
        return ""
    if (str(target), port) == (PUBLIC_GATEWAY, 53):
        # The name server is the network's own; it is asked for names of the service alone.
        return "" if name.endswith((".vr", ".in-addr.arpa")) else f"name {name}"
    if target.is_multicast or target == PUBLIC.subnet.broadcast_address:
        return ""
    return f"{seen['source']} to {target} protocol {seen['protocol']} port {port}"


# --- services ------------------------------------------------------------------------------------


def tar_links(node: Node) -> dict[str, str]:
    """Every link among the archives that RKE2 imports, with where it leads."""
    found = node.run(["find", AGENT_IMAGES, "-type", "l", "-printf", "%f %l\n"]).stdout
    return dict(line.split() for line in found.splitlines())


def wanted_links(names: set[str]) -> dict[str, str]:
    """The links to the archives of some drop-ins."""
    return {f"{name}.tar": f"{STORE}/{name}/{name}.tar" for name in names}


class TestWithoutAWayOut:
    """An image with everything."""

    @pytest.fixture(scope="class")
    @classmethod
    def lab(cls, lab_image: Image, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
        folder = tmp_path_factory.mktemp("full")
        with Lab(with_files(lab_image, folder, full_image())) as made:
            yield made

    @pytest.fixture(scope="class")
    @classmethod
    def recorder(cls, lab: Lab) -> Iterator[Recorder]:
        made = Recorder(lab)
        yield made
        made.close()

    @pytest.fixture(scope="class")
    @classmethod
    def service(cls, lab: Lab, recorder: Recorder) -> Service:
        return lab.service(worker=2, **AIRGAPPED)

    def test_the_service_runs_and_nobody_has_asked_for_anything_outside(
        self, lab: Lab, service: Service, recorder: Recorder
    ) -> None:
        cluster = Cluster(lab, service)
        service.wait_running(COMES_UP_S)
        cluster.wait_healthy()
        told = cluster.master().kubectl("get", "helmcharts", "-A", "-o", "json")
        specs = {one["metadata"]["name"]: one["spec"] for one in json.loads(told)["items"]}
        for name in ("one-longhorn", "one-traefik"):
            assert "repo" not in specs[name]
            assert specs[name]["chartContent"]

        def all_run() -> bool:
            pods = json.loads(cluster.master().kubectl("get", "pods", "-A", "-o", "json"))["items"]
            added = [one for one in pods if one["metadata"]["namespace"] in NAMESPACES]
            names = {one["metadata"]["namespace"] for one in added}
            return names == NAMESPACES and all(one["status"]["phase"] == "Running" for one in added)

        service.wait_until(all_run, HEALS_S, "the components' pods to run")
        assert recorder.has_seen(ONEGATE_PORT)
        assert recorder.outside() == []

    def test_each_node_is_offered_what_it_needs_and_nothing_else(self, service: Service) -> None:
        for role, names in NEEDED.items():
            for node in service.nodes(role):
                assert tar_links(node) == wanted_links(names), node.name
                assert node.run(["stat", "-c", "%s %a", CACHE]).stdout == "0 600\n"
                assert "nothing is fetched" in node.run(["oneke-agent", "status"]).stdout

    def test_what_is_turned_off_is_offered_no_longer_and_other_files_stay(
        self, service: Service, recorder: Recorder
    ) -> None:
        worker = service.nodes("worker")[0]
        worker.write(f"{AGENT_IMAGES}/theirs.tar", "somebody's")
        text = worker.read(f"{CONTEXT_FOLDER}/context.sh")
        lines = [line for line in text.splitlines() if "TRAEFIK_ENABLED" not in line]
        worker.set_context("\n".join([*lines, "ONEAPP_K8S_TRAEFIK_ENABLED='NO'", ""]))
        worker.run(["oneke-agent", "configure"], timeout_s=HEALS_S)
        assert tar_links(worker) == wanted_links(NEEDED["worker"] - {"traefik"})
        assert worker.read(f"{AGENT_IMAGES}/theirs.tar") == "somebody's"
        said = worker.run(["oneke-agent", "configure"], timeout_s=HEALS_S).stdout
        assert "0 changes; ready" in said
        assert recorder.outside() == []


class TestAnImageWithoutAnything:
    """The same without archives and charts, to see that the recorder would have told."""

    @pytest.fixture(scope="class")
    @classmethod
    def lab(cls, lab_image: Image, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
        with Lab(with_files(lab_image, tmp_path_factory.mktemp("bare"), {})) as made:
            yield made

    def test_what_is_not_in_the_image_is_asked_for_outside(self, lab: Lab) -> None:
        recorder = Recorder(lab)
        try:
            service = lab.service(worker=1, storage=0, **ADD_ONS)
            service.wait_running(COMES_UP_S)
            wanted = [f"name {REGISTRY}", "name charts.longhorn.io", "name traefik.github.io"]

            def told() -> bool:
                return set(wanted) <= set(recorder.outside())

            service.wait_until(told, HEALS_S, "what is not in the image to be asked for")
            said = service.nodes("worker")[0].run(["oneke-agent", "status"]).stdout
            assert "images of cilium, longhorn, rke2, traefik from their registries" in said
        finally:
            recorder.close()
