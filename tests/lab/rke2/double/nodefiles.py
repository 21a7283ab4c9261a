"""Files of a node that both roles write."""

from __future__ import annotations

from . import paths


def write_pod_manifest(name: str, *, wanted: bool = True) -> None:
    """Write the file the kubelet would run a static pod from, or remove it."""
    file = paths.DATA / "agent" / "pod-manifests" / f"{name}.yaml"
    if not wanted:
        file.unlink(missing_ok=True)
        return
    text = (
        f"apiVersion: v1\nkind: Pod\nmetadata:\n  name: {name}\n  namespace: kube-system\n"
        f"spec:\n  hostNetwork: true\n  containers:\n  - name: {name}\n"
    )
    paths.write(file, text)


def write_kubelet_kubeconfig(server: str) -> None:
    """Write the kubelet's kubeconfig, which names its files."""
    agent = paths.DATA / "agent"
    text = (
        "apiVersion: v1\nkind: Config\nclusters:\n- name: local\n  cluster:\n"
        f"    server: {server}\n    certificate-authority: {agent}/server-ca.crt\n"
        "users:\n- name: user\n  user:\n"
        f"    client-certificate: {agent}/client-kubelet.crt\n"
        f"    client-key: {agent}/client-kubelet.key\n"
        "contexts:\n- name: Default\n  context:\n    cluster: local\n    user: user\n"
        "    namespace: default\ncurrent-context: Default\n"
    )
    paths.write(agent / "kubelet.kubeconfig", text)
