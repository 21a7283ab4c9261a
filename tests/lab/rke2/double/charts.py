"""What charts bring to the cluster: their kinds, and the pods that are to be seen of them.

As much of each chart as operators and tests look at; what values change here, they change there.
Source: the charts' values.yaml and CRD folders, mid-2026.
"""

from __future__ import annotations

import io
import json
import tarfile
from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from gzip import GzipFile
from typing import Any

import yaml

from .store import Object

CNI_FOLDER = "/etc/cni/net.d"
EVERYWHERE = ({"operator": "Exists"},)
CRITICAL = ({"key": "CriticalAddonsOnly", "operator": "Exists"},)
_CONTROL = (
    {"key": "node-role.kubernetes.io/control-plane", "operator": "Exists", "effect": "NoSchedule"},
    {"key": "node-role.kubernetes.io/etcd", "operator": "Exists", "effect": "NoExecute"},
)

Values = Mapping[str, Any]
Build = Callable[["Release"], list[Object]]


@dataclass(frozen=True)
class Release:
    """A chart that is installed.

    Attributes:
        name: Of the release.
        namespace: Where it is.
        chart: Of the chart.
        version: Likewise; empty if nobody said.
        values: What it is installed with.
    """

    name: str
    namespace: str
    chart: str
    version: str = ""
    values: Values = field(default_factory=dict)

    def value(self, path: str, default: Any = None) -> Any:
        """The value at a path such as `deployment.replicas`."""
        found: Any = self.values
        for part in path.split("."):
            found = found.get(part) if isinstance(found, Mapping) else None
        return default if found is None else found


@dataclass(frozen=True)
class Crd:
    """A kind that a chart brings.

    Attributes:
        name: Of the kind.
        plural: Of its path.
        group: Likewise.
        versions: Those that are served.
        namespaced: Whether objects of it are in namespaces.
    """

    name: str
    plural: str
    group: str
    versions: tuple[str, ...]
    namespaced: bool = True


@dataclass(frozen=True)
class Chart:
    """A chart.

    Attributes:
        build: The objects it brings.
        crds: The kinds it brings.
        operator: A deployment that has to run before what comes later comes.
        operator_brings_crds: Whether the kinds are among that.
        later: Objects that are.
    """

    build: Build
    crds: tuple[Crd, ...] = ()
    operator: str = ""
    operator_brings_crds: bool = False
    later: Build = lambda _: []


# --- building ------------------------------------------------------------------------------------


def _app(
    kind: str,
    name: str,
    release: Release,
    *,
    replicas: int = 1,
    labels: Mapping[str, str] | None = None,
    is_cni: bool = False,
    namespace: str = "",
    **spec: Any,
) -> Object:
    chosen = {"app.kubernetes.io/instance": release.name, "app.kubernetes.io/name": name}
    chosen |= dict(labels or {})
    volumes = [{"name": "cni", "hostPath": {"path": CNI_FOLDER}}] if is_cni else []
    template = {
        "metadata": {"labels": chosen},
        "spec": {
            "containers": [{"name": name, "image": f"rancher/{name}"}],
            "volumes": volumes,
            **({"hostNetwork": True} if is_cni else {}),
            **{key: value for key, value in spec.items() if value},
        },
    }
    body: Object = {"selector": {"matchLabels": chosen}, "template": template}
    if kind != "DaemonSet":
        body["replicas"] = replicas
    return {
        "apiVersion": "apps/v1",
        "kind": kind,
        "metadata": {"name": name, "namespace": namespace or release.namespace, "labels": chosen},
        "spec": body,
    }


def _deployment(name: str, release: Release, **more: Any) -> Object:
    return _app("Deployment", name, release, **more)


def _daemons(name: str, release: Release, **more: Any) -> Object:
    return _app("DaemonSet", name, release, **more)


def _tolerations(release: Release, path: str, *own: Mapping[str, Any]) -> list[Any]:
    return [*own, *release.value(path, [])]


def _service(name: str, release: Release, selector: str, **spec: Any) -> Object:
    chosen = {"app.kubernetes.io/instance": release.name, "app.kubernetes.io/name": selector}
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": release.namespace},
        "spec": {"selector": chosen, **spec},
    }


def _crds(group: str, versions: str, names: str, *, namespaced: bool = True) -> tuple[Crd, ...]:
    found = []
    for name in names.split():
        plural = name.lower() + ("es" if name.endswith(("s", "ss")) else "s")
        if name.endswith("y"):
            plural = name.lower()[:-1] + "ies"
        found.append(Crd(name, plural, group, tuple(versions.split(",")), namespaced))
    return tuple(found)


def crd_object(crd: Crd) -> Object:
    """A kind as the API has it."""
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{crd.plural}.{crd.group}"},
        "spec": {
            "group": crd.group,
            "scope": "Namespaced" if crd.namespaced else "Cluster",
            "names": {"kind": crd.name, "plural": crd.plural, "singular": crd.name.lower()},
            "versions": [
                {"name": version, "served": True, "storage": version == crd.versions[-1]}
                for version in crd.versions
            ],
        },
    }


# --- the charts ----------------------------------------------------------------------------------


def _coredns(release: Release) -> list[Object]:
    labels = {"k8s-app": "kube-dns"}
    name = f"{release.name}-rke2-coredns"
    dns = _deployment(name, release, labels=labels, tolerations=[*CRITICAL, *_CONTROL])
    scaler = _deployment(f"{name}-autoscaler", release, tolerations=[*_CONTROL])
    return [dns, scaler]


def _metallb(release: Release) -> list[Object]:
    controller = _deployment("metallb-controller", release)
    hook = {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingWebhookConfiguration",
        "metadata": {"name": "metallb-webhook-configuration"},
        "webhooks": [
            {
                "name": "ipaddresspoolvalidationwebhook.metallb.io",
                "failurePolicy": "Fail",
                "rules": [
                    {
                        "apiGroups": ["metallb.io"],
                        "resources": ["*"],
                        "operations": ["CREATE", "UPDATE"],
                    }
                ],
                "clientConfig": {
                    "service": {"name": "metallb-webhook-service", "namespace": release.namespace}
                },
            }
        ],
    }
    service = _service("metallb-webhook-service", release, "metallb-controller")
    speaker = _daemons("metallb-speaker", release, hostNetwork=True, tolerations=[*_CONTROL])
    return [controller, speaker, service, hook]


def _longhorn(release: Release) -> list[Object]:
    ui = {
        "nodeSelector": release.value("longhornUI.nodeSelector"),
        "tolerations": _tolerations(release, "longhornUI.tolerations"),
    }
    driver = {
        "nodeSelector": release.value("longhornDriver.nodeSelector"),
        "tolerations": _tolerations(release, "longhornDriver.tolerations"),
    }
    manager = {
        "nodeSelector": release.value("longhornManager.nodeSelector"),
        "tolerations": _tolerations(release, "longhornManager.tolerations"),
    }
    storage_class = {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": {
            "name": "longhorn",
            "annotations": {"storageclass.kubernetes.io/is-default-class": "true"},
        },
        "provisioner": "driver.longhorn.io",
    }
    return [
        _daemons("longhorn-manager", release, **manager),
        _deployment("longhorn-driver-deployer", release, **driver),
        _deployment("longhorn-ui", release, replicas=2, **ui),
        storage_class,
    ]


def _longhorn_later(release: Release) -> list[Object]:
    """What Longhorn's manager makes: of settings only the text with taints counts for it."""
    text = str(release.value("defaultSettings.taintToleration", ""))
    tolerations = []
    for entry in filter(None, text.split(";")):
        pair, _, effect = entry.rpartition(":")
        key, equals, value = pair.partition("=")
        toleration = {"key": key, "effect": effect, "operator": "Equal" if equals else "Exists"}
        tolerations.append(toleration | ({"value": value} if equals else {}))
    return [_daemons("longhorn-csi-plugin", release, tolerations=tolerations)]


def _traefik(release: Release) -> list[Object]:
    ports = [
        {"name": name, "port": port, "nodePort": node}
        for name, port in (("web", 80), ("websecure", 443))
        if (node := release.value(f"ports.{name}.nodePort"))
    ]
    name = release.name
    labels = {"app.kubernetes.io/name": "traefik"}
    deployment = _deployment(
        name,
        release,
        labels=labels,
        replicas=int(release.value("deployment.replicas", 1)),
        affinity=release.value("affinity"),
        tolerations=_tolerations(release, "tolerations"),
    )
    kind = release.value("service.type", "LoadBalancer")
    service = _service(name, release, "traefik", type=kind, ports=ports)
    ingress = {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "IngressClass",
        "metadata": {"name": name},
        "spec": {"controller": "traefik.io/ingress-controller"},
    }
    return [deployment, service, ingress]


def _rke2_traefik(release: Release) -> list[Object]:
    return [_daemons("rke2-traefik", release, tolerations=[*_CONTROL])]


def _nginx(release: Release) -> list[Object]:
    labels = {"app.kubernetes.io/component": "controller"}
    return [_daemons("rke2-ingress-nginx-controller", release, labels=labels)]


def _canal(release: Release) -> list[Object]:
    labels = {"k8s-app": "canal"}
    return [_daemons(release.name, release, labels=labels, is_cni=True, tolerations=[*EVERYWHERE])]


def _flannel(release: Release) -> list[Object]:
    return [_daemons("kube-flannel-ds", release, is_cni=True, tolerations=[*EVERYWHERE])]


def _cilium(release: Release) -> list[Object]:
    operator = _deployment(
        "cilium-operator",
        release,
        replicas=int(release.value("operator.replicas", 1)),
        hostNetwork=True,
        tolerations=[*EVERYWHERE],
    )
    labels = {"k8s-app": "cilium"}
    agent = _daemons("cilium", release, labels=labels, is_cni=True, tolerations=[*EVERYWHERE])
    return [operator, agent]


def _calico(release: Release) -> list[Object]:
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "tigera-operator"}}
    operator = _deployment(
        "tigera-operator",
        release,
        namespace="tigera-operator",
        hostNetwork=True,
        tolerations=[*EVERYWHERE],
    )
    return [namespace, operator]


def _calico_later(release: Release) -> list[Object]:
    name = "calico-system"
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
    labels = {"k8s-app": "calico-node"}
    node = _daemons(
        "calico-node",
        release,
        namespace=name,
        labels=labels,
        is_cni=True,
        tolerations=[*EVERYWHERE],
    )
    controllers = _deployment(
        "calico-kube-controllers", release, namespace=name, tolerations=[*CRITICAL, *_CONTROL]
    )
    return [namespace, node, controllers]


def _multus(release: Release) -> list[Object]:
    daemons = [_daemons("rke2-multus", release, hostNetwork=True, tolerations=[*EVERYWHERE])]
    if release.value("rke2-whereabouts.enabled"):
        daemons.append(_daemons("rke2-multus-rke2-whereabouts", release, hostNetwork=True))
    return daemons


def _one_deployment(name: str) -> Build:
    return lambda release: [_deployment(name, release, tolerations=[*_CONTROL])]


def _nothing(_: Release) -> list[Object]:
    return []


_SNAPSHOTS = _crds(
    "snapshot.storage.k8s.io", "v1", "VolumeSnapshotClass VolumeSnapshotContent", namespaced=False
) + _crds("snapshot.storage.k8s.io", "v1", "VolumeSnapshot")
_TRAEFIK = _crds(
    "traefik.io",
    "v1alpha1",
    "IngressRoute IngressRouteTCP IngressRouteUDP Middleware MiddlewareTCP ServersTransport "
    "ServersTransportTCP TLSOption TLSStore TraefikService",
)
_CILIUM = _crds(
    "cilium.io",
    "v2alpha1,v2",
    "CiliumLoadBalancerIPPool CiliumBGPClusterConfig CiliumBGPPeerConfig CiliumBGPAdvertisement "
    "CiliumBGPNodeConfigOverride",
    namespaced=False,
)
_CILIUM += _crds("cilium.io", "v2alpha1", "CiliumL2AnnouncementPolicy", namespaced=False)
_CILIUM += _crds("cilium.io", "v2", "CiliumNode CiliumClusterwideNetworkPolicy", namespaced=False)
_CILIUM += _crds("cilium.io", "v2", "CiliumNetworkPolicy CiliumEndpoint")
_CALICO = _crds(
    "crd.projectcalico.org",
    "v1",
    "IPPool FelixConfiguration BGPConfiguration BGPPeer GlobalNetworkPolicy",
    namespaced=False,
) + _crds("operator.tigera.io", "v1", "Installation APIServer TigeraStatus", namespaced=False)
_METALLB = _crds(
    "metallb.io",
    "v1beta1",
    "IPAddressPool L2Advertisement BGPAdvertisement BFDProfile Community",
) + _crds("metallb.io", "v1beta1,v1beta2", "BGPPeer")
_LONGHORN = _crds(
    "longhorn.io",
    "v1beta2",
    "Volume Engine Replica Setting Node InstanceManager BackingImage BackupTarget RecurringJob",
)
_NETWORKS = _crds("k8s.cni.cncf.io", "v1", "NetworkAttachmentDefinition")

CHARTS: dict[str, Chart] = {
    "rke2-coredns": Chart(_coredns),
    "rke2-metrics-server": Chart(_one_deployment("rke2-metrics-server")),
    "rke2-snapshot-controller": Chart(_one_deployment("rke2-snapshot-controller")),
    "rke2-snapshot-controller-crd": Chart(_nothing, _SNAPSHOTS),
    "rke2-runtimeclasses": Chart(_nothing),
    "rke2-ingress-nginx": Chart(_nginx),
    "rke2-traefik": Chart(_rke2_traefik),
    "rke2-traefik-crd": Chart(_nothing, _TRAEFIK),
    "rke2-canal": Chart(_canal, _CALICO[:5]),
    "rke2-flannel": Chart(_flannel),
    "rke2-cilium": Chart(_cilium, _CILIUM, "cilium-operator", operator_brings_crds=True),
    "rke2-calico": Chart(_calico, (), "tigera-operator", later=_calico_later),
    "rke2-calico-crd": Chart(_nothing, _CALICO),
    "rke2-multus": Chart(_multus, _NETWORKS),
    "metallb": Chart(_metallb, _METALLB),
    "longhorn": Chart(_longhorn, _LONGHORN, "longhorn-driver-deployer", later=_longhorn_later),
    "traefik": Chart(_traefik, _TRAEFIK),
}
"""By name; a chart that is not among them brings nothing but its release."""


CNIS = ("canal", "calico", "cilium", "flannel", "multus")
INGRESSES = ("ingress-nginx", "traefik")


def bundled(minor: int, cnis: Sequence[str], ingresses: Sequence[str]) -> list[str]:
    """The charts that RKE2 of a version deploys by itself."""
    names = ["rke2-coredns", "rke2-metrics-server", "rke2-runtimeclasses"]
    names += ["rke2-snapshot-controller", "rke2-snapshot-controller-crd"]
    for cni in cnis:
        names += [f"rke2-{cni}", *(["rke2-calico-crd"] if cni == "calico" else [])]
    chosen = list(ingresses) or ["traefik" if minor >= 36 else "ingress-nginx"]
    for name in chosen:
        if name != "none":
            names += [f"rke2-{name}", *(["rke2-traefik-crd"] if name == "traefik" else [])]
    return names


# --- archives ------------------------------------------------------------------------------------


def pack(name: str, version: str) -> str:
    """A chart's archive in base64: equal for equal charts."""
    text = yaml.safe_dump({"apiVersion": "v2", "name": name, "version": version}).encode()
    packed = io.BytesIO()
    with (
        GzipFile(fileobj=packed, mode="wb", mtime=0) as zipped,
        tarfile.open(fileobj=zipped, mode="w") as archive,
    ):
        member = tarfile.TarInfo(f"{name}/Chart.yaml")
        member.size = len(text)
        archive.addfile(member, io.BytesIO(text))
    return b64encode(packed.getvalue()).decode()


def unpack(content: str) -> tuple[str, str, list[Object]]:
    """Name, version and kinds of an archive in base64.

    Raises:
        ValueError: If it is none.
    """
    name = version = ""
    kinds: list[Object] = []
    try:
        with tarfile.open(fileobj=io.BytesIO(b64decode(content))) as archive:
            for member in archive.getmembers():
                parts = member.name.split("/")
                file = archive.extractfile(member) if member.isfile() else None
                if file is None:
                    continue
                if len(parts) == 2 and parts[1] == "Chart.yaml":
                    told = yaml.safe_load(file.read())
                    name, version = str(told["name"]), str(told["version"])
                elif len(parts) > 2 and parts[1] == "crds":
                    kinds += [each for each in yaml.safe_load_all(file.read()) if each]
    except (tarfile.TarError, yaml.YAMLError, EOFError, OSError, KeyError) as error:
        raise ValueError(f"Chart.yaml file is missing: {error}") from None
    if not name:
        raise ValueError("Chart.yaml file is missing")
    return name, version, kinds


def merge_values(*texts: Any) -> dict[str, Any]:
    """Values of several sources, a later one wins key by key.

    Raises:
        ValueError: If one is no mapping.
    """
    merged: dict[str, Any] = {}
    for text in texts:
        try:
            parsed = yaml.safe_load(text) if isinstance(text, str) else text
        except yaml.YAMLError as error:
            raise ValueError(f"failed to parse values: {str(error).splitlines()[0]}") from None
        if parsed is None:
            continue
        if not isinstance(parsed, dict):
            raise ValueError("failed to parse values: cannot unmarshal into a map")
        merged = _deep(merged, parsed)
    return merged


def _deep(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(old)
    for key, value in new.items():
        present = merged.get(key)
        both = isinstance(value, dict) and isinstance(present, dict)
        merged[key] = _deep(present, value) if both and isinstance(present, dict) else value
    return merged


def encode_release(release: Release, revision: int) -> str:
    """What the secret of a release holds here; the real one has the whole chart in it."""
    told = {
        "name": release.name,
        "namespace": release.namespace,
        "version": revision,
        "chart": {"metadata": {"name": release.chart, "version": release.version}},
        "config": dict(release.values),
        "info": {"status": "deployed"},
    }
    return b64encode(json.dumps(told).encode()).decode()


def decode_release(data: str) -> Release:
    """The release that a secret tells of."""
    told = json.loads(b64decode(data))
    chart = told["chart"]["metadata"]
    return Release(told["name"], told["namespace"], chart["name"], chart["version"], told["config"])
