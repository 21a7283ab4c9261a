"""The API server over HTTPS: one call is one request on a connection of its own.

A node's certificates are renewed while the agent runs, and so they are read for every request.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

from appliance.errors import (
    KubernetesConflict,
    KubernetesError,
    KubernetesMalformed,
    KubernetesRefused,
    KubernetesUnavailable,
)
from appliance.system.files import Files
from appliance.system.kubernetes import (
    Access,
    Health,
    Node,
    parse_failing_checks,
    parse_node,
    parse_nodes,
)

if TYPE_CHECKING:
    import ssl

CONNECT_TIMEOUT_S = 5.0
TIMEOUT_S = 15.0
DELETE_TIMEOUT_S = 30.0
MAX_ANSWER_BYTES = 64 * 1024 * 1024
PAGE_SIZE = 200
_MOST_PAGES = 1000
_EXPIRED = 410


class HttpKubernetes:
    """The API server over HTTPS, with client certificates."""

    def __init__(self, files: Files) -> None:
        """Find certificates through `files`."""
        self._files = files

    def health(self, access: Access) -> Health:
        """Ask whether it is ready to serve; see `Kubernetes.health`."""
        status, content = self._ask(access, "GET", "/readyz", TIMEOUT_S)
        if status == 200:
            return Health(is_ok=True)
        failing = parse_failing_checks(content.decode("utf-8", errors="replace"))
        if status == 500 and failing:
            return Health(is_ok=False, failing=failing)
        raise _error_of("GET", "/readyz", status, content)

    def node(self, access: Access, name: str) -> Node | None:
        """Return a node; see `Kubernetes.node`."""
        path = _path_of(name)
        status, content = self._ask(access, "GET", path, TIMEOUT_S)
        if _is_unknown(status, content):
            return None
        return parse_node(_document("GET", path, status, content))

    def nodes(self, access: Access) -> tuple[Node, ...]:
        """Return all nodes; see `Kubernetes.nodes`."""
        try:
            return self._pages(access)
        except KubernetesRefused as expired:
            # The list changed so much since its first page that its rest can not be told any more.
            if expired.status != _EXPIRED:
                raise
        return self._pages(access)

    def _pages(self, access: Access) -> tuple[Node, ...]:
        found: list[Node] = []
        more = ""
        for _ in range(_MOST_PAGES):
            query = {"limit": str(PAGE_SIZE), **({"continue": more} if more else {})}
            path = f"/api/v1/nodes?{urlencode(query)}"
            page, more = parse_nodes(
                _document("GET", path, *self._ask(access, "GET", path, TIMEOUT_S))
            )
            found += page
            if not more:
                return tuple(found)
        raise KubernetesMalformed("Kubernetes GET /api/v1/nodes: the list has no end")

    def delete_node(self, access: Access, node: Node) -> bool:
        """Delete a node that is as it was; see `Kubernetes.delete_node`."""
        path = _path_of(node.name)
        options = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "preconditions": {"uid": node.uid, "resourceVersion": node.resource_version},
        }
        body = json.dumps(options)
        status, content = self._ask(access, "DELETE", path, DELETE_TIMEOUT_S, body)
        if _is_unknown(status, content):
            return False
        _document("DELETE", path, status, content)
        return True

    def _ask(
        self, access: Access, method: str, path: str, timeout_s: float, body: str | None = None
    ) -> tuple[int, bytes]:
        from appliance.system.transfer import TransferFailed, exchange  # requests takes 0.1 s

        what = _what(method, path)
        try:
            reply = exchange(
                method,
                access.server + path,
                context=self._context(access),
                connect_timeout_s=CONNECT_TIMEOUT_S,
                timeout_s=timeout_s,
                headers={"Accept": "application/json"}
                | ({"Content-Type": "application/json"} if body else {}),
                body=body,
                limit=MAX_ANSWER_BYTES,
            )
        except TransferFailed as failed:
            hint = f"{access.ca} does not vouch for it" if failed.is_untrusted else None
            raise KubernetesUnavailable(f"{what}: {access.server}: {failed}", hint=hint) from failed
        return reply.status, reply.content

    def _context(self, access: Access) -> ssl.SSLContext:
        from appliance.system.transfer import load_trust

        try:
            context = load_trust(self._files.real(access.ca))
        except OSError as error:
            raise _unusable(access.ca, error) from error
        try:
            context.load_cert_chain(
                self._files.real(access.certificate), self._files.real(access.key)
            )
        except OSError as error:
            raise _unusable(f"{access.certificate} with {access.key}", error) from error
        return context


def _unusable(what: object, error: OSError) -> KubernetesUnavailable:
    if isinstance(error, FileNotFoundError):
        return KubernetesUnavailable(f"{what}: not there yet; RKE2 makes it when it starts")
    return KubernetesUnavailable(f"{what}: can not be used: {error.strerror or error}")


def _path_of(name: str) -> str:
    return f"/api/v1/nodes/{quote(name, safe='')}"


def _what(method: str, path: str) -> str:
    return f"Kubernetes {method} {path.partition('?')[0]}"


def _document(method: str, path: str, status: int, content: bytes) -> dict[str, Any]:
    """Return the JSON object that a good answer is.

    Raises:
        KubernetesError: The answer is not good, or is none.
    """
    if status not in (200, 201, 202):
        raise _error_of(method, path, status, content)
    document = _parsed(content)
    if document is None:
        raise KubernetesMalformed(f"{_what(method, path)}: the answer is no JSON object")
    return document


def _parsed(content: bytes) -> dict[str, Any] | None:
    try:
        document = json.loads(content)
    except (ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) else None


def _is_unknown(status: int, content: bytes) -> bool:
    """Say whether the API server itself knows no such object; others answer with 404 too."""
    document = _parsed(content) if status == 404 else None
    return document is not None and document.get("reason") == "NotFound"


def _error_of(method: str, path: str, status: int, content: bytes) -> KubernetesError:
    from appliance.system.transfer import said

    told = (_parsed(content) or {}).get("message")
    words = said(told.encode() if isinstance(told, str) else content)
    message = f"{_what(method, path)}: status {status}: {words}"
    if status == 401:
        return KubernetesRefused(
            message,
            status=status,
            hint="the API server does not know this node's certificate: it is of another cluster",
        )
    if status == 403:
        return KubernetesRefused(
            message, status=status, hint="the certificate's bearer may not do this, or not yet"
        )
    if status == 409:
        return KubernetesConflict(message, status=status)
    if status == 429 or status >= 500:
        return KubernetesUnavailable(message, status=status)
    return KubernetesRefused(message, status=status)
