"""The administrator's kubeconfig as others may use it: by the public endpoint."""

from __future__ import annotations

import re

from roles.common.endpoints import Endpoints

_SERVER = re.compile(r"^(\s*server:\s*)\S+\s*$", re.MULTILINE)


def published_kubeconfig(text: str, endpoints: Endpoints) -> str:
    """Return a kubeconfig of RKE2 with the control plane's endpoint for this machine's own address.

    Source: RKE2 writes one cluster, at https://127.0.0.1:6443.
    """
    if endpoints.control_plane is None:
        return text
    return _SERVER.sub(rf"\g<1>{endpoints.control_plane.url}", text)
