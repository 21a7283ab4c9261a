"""OneGate over HTTP: one call is one request, on one connection that is kept open.

Repeating a call is the caller's business (`appliance.waiting.retry`), who knows the deadline.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any
from urllib.parse import quote

import requests

from appliance.errors import (
    OneGateError,
    OneGateMalformed,
    OneGatePassing,
    OneGateRefused,
    OneGateUnavailable,
)
from appliance.secret import Secret
from appliance.system.onegate import (
    Lease,
    Service,
    Vm,
    encode_update,
    parse_network,
    parse_service,
    parse_virtual_router,
    parse_vm,
    reserved_networks,
)
from appliance.system.transfer import AnswerTooLarge, TransferFailed, cause_of, read_whole, said

CONNECT_TIMEOUT_S = 10
OWN_TIMEOUT_S = 30
SERVICE_TIMEOUT_S = 60
MAX_ANSWER_BYTES = 64 * 1024 * 1024
_MOST_NETWORKS = 64


class HttpOneGate:
    """OneGate over HTTP, on one connection that is kept open."""

    def __init__(
        self,
        endpoint: str,
        vm_id: int,
        token: Secret,
        *,
        verify: bool | str = True,
        longest_s: float | None = None,
    ) -> None:
        """Remember where OneGate is and who asks.

        Args:
            endpoint: Base URL.
            vm_id: This VM.
            token: What proves it.
            verify: Whether TLS certificates are checked, or the file of certificates to check
                against.
            longest_s: The longest an answer may take, also one that takes several requests; None
                for as long as is usual.
        """
        self._longest_s = SERVICE_TIMEOUT_S if longest_s is None else longest_s
        self._endpoint = endpoint.rstrip("/")
        self._session = requests.Session()
        self._session.verify = verify
        self._session.trust_env = False
        self._session.headers.update(
            {
                "X-ONEGATE-TOKEN": token.reveal().strip(),
                "X-ONEGATE-VMID": str(vm_id),
                "Accept": "*/*",
            }
        )

    def own_vm(self) -> Vm:
        """Return this VM; see `OneGate.own_vm`."""
        return parse_vm(self._get("/vm", OWN_TIMEOUT_S))

    def vm(self, vm_id: int) -> Vm:
        """Return a VM of the same service."""
        return self._vm(vm_id, math.inf)

    def _vm(self, vm_id: int, until: float) -> Vm:
        return parse_vm(self._get(f"/vms/{vm_id}", SERVICE_TIMEOUT_S, until))

    def service(self, roles: Iterable[str] = ()) -> Service:
        """Return the service; see `OneGate.service`."""
        until = time.monotonic() + self._longest_s
        try:
            return parse_service(self._get("/service?extended=true", SERVICE_TIMEOUT_S, until))
        except OneGatePassing as spoilt:
            if spoilt.status != 404:
                raise
        return self._service_vm_by_vm(frozenset(roles), until)

    def _service_vm_by_vm(self, wanted: frozenset[str], until: float) -> Service:
        plain = parse_service(self._get("/service", SERVICE_TIMEOUT_S, until))
        roles = []
        for role in plain.roles:
            asked = role.vm_ids if not wanted or role.name in wanted else ()
            roles.append(replace(role, vms=tuple(self._vms(asked, until))))
        return replace(plain, roles=tuple(roles), complete=False)

    def _vms(self, vm_ids: Iterable[int], until: float) -> Iterator[Vm]:
        """Return the VMs that are shown, as far as the time lasts."""
        for vm_id in vm_ids:
            try:
                yield self._vm(vm_id, until)
            except (OneGatePassing, OneGateRefused):
                continue
            except OneGateUnavailable:
                if time.monotonic() < until:
                    raise
                return

    def leases(self) -> tuple[Lease, ...]:
        """Return the leases of this virtual router's networks; see `OneGate.leases`."""
        waiting = list(parse_virtual_router(self._get("/vrouter", SERVICE_TIMEOUT_S)))
        found: dict[int, tuple[Lease, ...]] = {}
        while waiting and len(found) < _MOST_NETWORKS:
            network_id = waiting.pop(0)
            if network_id not in found:
                document = self._get(f"/vnet/{network_id}", SERVICE_TIMEOUT_S)
                found[network_id] = parse_network(document)
                waiting += reserved_networks(found[network_id])
        return tuple(lease for leases in found.values() for lease in leases)

    def update(self, values: Mapping[str, str]) -> None:
        """Store attributes of this VM; see `OneGate.update`."""
        body = f"data={quote(encode_update(values), safe='')}&type=1"
        self._request("PUT", "/vm", OWN_TIMEOUT_S, body)

    def _get(self, path: str, timeout_s: float, until: float = math.inf) -> dict[str, Any]:
        response = self._request("GET", path, timeout_s, until=until)
        try:
            document = json.loads(response)
        except (ValueError, RecursionError) as error:
            raise OneGateMalformed(
                f"OneGate GET {path}: the answer is not JSON ({error})"
            ) from error
        if not isinstance(document, dict):
            raise OneGateMalformed(f"OneGate GET {path}: the answer is no JSON object")
        return document

    def _request(
        self,
        method: str,
        path: str,
        timeout_s: float,
        body: str | None = None,
        *,
        until: float = math.inf,
    ) -> bytes:
        started = time.monotonic()
        timeout_s = min(timeout_s, self._longest_s, until - started)
        what = f"OneGate {method} {path.partition('?')[0]}"
        if timeout_s <= 0:
            raise OneGateUnavailable(f"{what}: no time is left to ask")
        headers = {"Content-Type": "application/x-www-form-urlencoded"} if body else {}
        try:
            response = self._session.request(
                method,
                self._endpoint + path,
                data=body,
                headers=headers,
                timeout=(min(CONNECT_TIMEOUT_S, timeout_s), timeout_s),
                allow_redirects=False,
                stream=True,
            )
            content = read_whole(response, started + timeout_s, MAX_ANSWER_BYTES)
        except AnswerTooLarge as error:
            raise OneGateMalformed(f"{what}: {error}") from error
        except TransferFailed as error:
            raise OneGateUnavailable(f"{what}: {error}") from error
        except requests.exceptions.SSLError as error:
            raise OneGateUnavailable(
                f"{what}: the TLS certificate of {self._endpoint} does not verify:"
                f" {cause_of(error)}",
                hint="give the CA in ONEAPP_ONEGATE_CA",
            ) from error
        except requests.exceptions.InvalidHeader:
            # What requests says quotes the header, which is the token.
            raise OneGateRefused(f"{what}: the token holds what no header can carry") from None
        except requests.RequestException as error:
            raise OneGateUnavailable(f"{what}: {self._endpoint}: {cause_of(error)}") from error
        except OSError as error:
            # The file of certificates is missing; requests looks for it before it connects.
            raise OneGateUnavailable(f"{what}: {error}", hint="see ONEAPP_ONEGATE_CA") from error
        if response.status_code != 200:
            raise _error_of(what, method, response.status_code, content)
        return content


def _error_of(what: str, method: str, status: int, content: bytes) -> OneGateError:
    message = f"{what}: status {status}: {said(content)}"
    if status == 401:
        return OneGatePassing(
            message,
            status=status,
            hint="the token or VM id is wrong, or oned is down for a while: both give this answer",
        )
    if status == 404:
        return OneGatePassing(
            message, status=status, hint="gone, of another owner, or OneFlow is down for a while"
        )
    # An update that oned refuses is a 500 too, and for good; a question is never refused that way.
    if status in (429, 502, 503, 504) or (status == 500 and method == "GET"):
        return OneGatePassing(message, status=status)
    return OneGateRefused(message, status=status)
