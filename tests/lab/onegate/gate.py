"""OneGate itself: a request and the state in, an answer out; no sockets."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from tests.lab.onegate import template, views
from tests.lab.onegate.messages import (
    Answer,
    HaltError,
    Request,
    ServerBugError,
    to_integer,
)
from tests.lab.onegate.state import SERVERADMIN, Cloud, Owner, Service, VirtualRouter, Vm
from tests.lab.onegate.template import TemplateRefusedError, Version, XPathProblem

UPDATE, ERASE = 1, 2


@dataclass(frozen=True)
class Conditions:
    """What is out of order behind OneGate.

    Attributes:
        unreadable: VMs that nobody but they themselves can read.
    """

    oned_is_up: bool = True
    oneflow_is_up: bool = True
    unreadable: frozenset[int] = frozenset()


ALL_WELL = Conditions()


class Gate:
    """Answers requests from the state of a cloud; may be used from many threads at once."""

    def __init__(self, cloud: Cloud, version: Version, conditions: Conditions = ALL_WELL) -> None:
        """Serve a cloud the way a version of OpenNebula does."""
        self._cloud = cloud
        self._version = version
        self._conditions = conditions
        self._routes: tuple[tuple[str, str, Callable[[Request, str], Answer]], ...] = (
            ("GET", r"/", self._get_root),
            ("GET", r"/vm", self._get_vm),
            ("PUT", r"/vm", self._put_vm),
            ("GET", r"/vms/([^/]+)", self._get_vm_by_id),
            ("PUT", r"/vms/([^/]+)", self._put_vm_by_id),
            ("POST", r"/vms/([^/]+)/action", self._post_action),
            ("GET", r"/service", self._get_service),
            ("PUT", r"/service/role/([^/]+)", self._put_role),
            ("GET", r"/vrouter", self._get_vrouter),
            ("GET", r"/vnet/([^/]+)", self._get_vnet),
        )

    def answer(self, request: Request) -> Answer:
        """Answer a request; an error is an answer too."""
        try:
            return self._route(request)
        except HaltError as halt:
            return halt.to_answer(self._version)
        except ServerBugError as bug:
            return bug.to_answer(self._version, request.path)

    def _route(self, request: Request) -> Answer:
        method = "GET" if request.method == "HEAD" else request.method
        path = clean_path(request.path)
        for route_method, pattern, handler in self._routes:
            match = re.fullmatch(pattern, path)
            if match and method == route_method:
                argument = unquote(match.group(1)) if match.groups() else ""
                self._authenticate(request, argument)
                return handler(request, argument)
        raise HaltError(400, "OneGate server doesn't support this feature")

    # --- who asks, and what may be seen ----------------------------------------------------------

    def _authenticate(self, request: Request, argument: str) -> None:
        """Check the token against the VM id of the header, or else of the path or the query."""
        token = request.headers.get("x-onegate-token")
        claimed = request.headers.get("x-onegate-vmid")
        if claimed is None:
            from_query = request.read_parameters().get("id")
            claimed = argument or (from_query or b"").decode(errors="replace")
        vm = self._cloud.vms.get(int(claimed)) if re.fullmatch(r"\s*[0-9]+\s*", claimed) else None
        if not self._conditions.oned_is_up or vm is None or token is None:
            raise HaltError(401, "Not authorized")
        if token.rstrip() != vm.token:
            raise HaltError(401, "Not authorized")

    def _find_source(self, request: Request) -> Vm:
        """Return the asking VM; without a header that is VM 0, however it authenticated."""
        return self._read_vm(to_integer(request.headers.get("x-onegate-vmid", "")), None)

    def _read_vm(self, vm_id: int, reader: Vm | None) -> Vm:
        vm = self._cloud.vms.get(vm_id)
        if vm is None:
            raise HaltError(404, f"[one.vm.info] Error getting virtual machine [{vm_id}].")
        if reader is not None and reader is not vm and not self._may_read(reader.owner, vm):
            who = f"User [{reader.owner.uid}]"
            raise HaltError(
                404, f"[one.vm.info] {who} : Not authorized to perform USE VM [{vm_id}]."
            )
        return vm

    def _may_read(self, reader: Owner, vm: Vm) -> bool:
        owner = SERVERADMIN if vm.vm_id in self._conditions.unreadable else vm.owner
        return reader.may_use_vms_of(owner)

    def _find_requested(self, request: Request, vm_id: int) -> Vm:
        source = self._find_source(request)
        if source.vm_id == vm_id:
            return source
        if "SERVICE_ID" in source.user_template:
            self._find_service_with(source, vm_id)
        elif source.vrouter_id is not None:
            self._find_vrouter_with(source, vm_id)
        else:
            raise HaltError(
                400,
                "This VM does not belong to any Virtual Router or Service, "
                "so it cannot retrieve information from other VMs",
            )
        return self._read_vm(vm_id, source)

    def _find_service(self, source: Vm) -> Service:
        service_id = source.user_template.get("SERVICE_ID")
        if not isinstance(service_id, str) or not re.fullmatch(r"[0-9]+", service_id):
            raise HaltError(400, "Empty or invalid SERVICE_ID")
        service = self._cloud.services.get(int(service_id))
        if service is None or not self._conditions.oneflow_is_up:
            raise HaltError(404, f"Service {service_id} not found")
        return service

    def _find_service_with(self, source: Vm, vm_id: int) -> Service:
        service = self._find_service(source)
        if vm_id not in service.vm_ids():
            raise HaltError(400, f"Service {service.service_id} does not contain VM {vm_id}.")
        return service

    def _find_vrouter_with(self, source: Vm, vm_id: int) -> VirtualRouter:
        if source.vrouter_id is None:
            raise HaltError(400, "Empty or invalid VROUTER_ID")
        vrouter = self._cloud.vrouters.get(source.vrouter_id)
        if vrouter is None:
            raise HaltError(404, f"Virtual router {source.vrouter_id} not found")
        if vm_id not in vrouter.vm_ids or source.vm_id not in vrouter.vm_ids:
            raise HaltError(
                400, f"Virtual Router {vrouter.vrouter_id} does not contain VM {vm_id}."
            )
        return vrouter

    # --- reading ---------------------------------------------------------------------------------

    def _get_root(self, request: Request, _: str) -> Answer:
        base_url = f"{request.scheme}://{request.headers.get('host', '')}"
        return _answer_json({"vm_info": f"{base_url}/vm", "service_info": f"{base_url}/service"})

    def _get_vm(self, request: Request, _: str) -> Answer:
        with self._cloud.lock:
            return _answer_json(views.build_vm(self._find_source(request)))

    def _get_vm_by_id(self, request: Request, argument: str) -> Answer:
        with self._cloud.lock:
            return _answer_json(views.build_vm(self._find_requested(request, to_integer(argument))))

    def _get_service(self, request: Request, _: str) -> Answer:
        is_extended = request.read_parameters().get("extended") is not None
        with self._cloud.lock:
            source = self._find_source(request)
            service = self._find_service(source)
            raw: dict[int, views.Json] | None = None
            if is_extended:  # before the membership check: one VM that cannot be read spoils all
                raw = {
                    vm_id: views.build_raw_vm(self._read_vm(vm_id, source), self._version)
                    for vm_id in service.vm_ids()
                }
            self._find_service_with(source, source.vm_id)
            return _answer_json(views.build_service(service, raw))

    def _get_vrouter(self, request: Request, _: str) -> Answer:
        with self._cloud.lock:
            source = self._find_source(request)
            vrouter = self._find_vrouter_with(source, source.vm_id)
            return _answer_json(views.build_virtual_router(vrouter))

    def _get_vnet(self, request: Request, argument: str) -> Answer:
        if not re.fullmatch(r"[+-]?[0-9]+", argument):
            raise HaltError(400, f"Invalid id format (ID: {argument}). ID must be an integer.")
        network_id = int(argument)
        with self._cloud.lock:
            source = self._find_source(request)
            if source.vrouter_id is None:
                raise HaltError(
                    400, "Virtual networks information can only be retrieved from Virtual Routers."
                )
            vrouter = self._find_vrouter_with(source, source.vm_id)
            network = self._cloud.networks.get(network_id)
            if network is None:
                raise HaltError(404, f"Virtual network {network_id} not found")
            if str(network_id) not in {nic.get("NETWORK_ID") for nic in vrouter.nics}:
                raise HaltError(
                    400,
                    f"Virtual Network {network_id} cannot be retrieved "
                    f"from Virtual router {vrouter.vrouter_id}.",
                )
            return _answer_json(views.build_virtual_network(network))

    # --- writing ---------------------------------------------------------------------------------

    def _put_vm(self, request: Request, _: str) -> Answer:
        return self._update(self._find_source(request), request)

    def _put_vm_by_id(self, request: Request, argument: str) -> Answer:
        with self._cloud.lock:
            vm = self._find_requested(request, to_integer(argument))
        return self._update(vm, request)

    def _update(self, vm: Vm, request: Request) -> Answer:
        parameters = request.read_parameters()
        given_type = parameters.get("type")
        kind = UPDATE if given_type is None else to_integer(given_type.decode(errors="replace"))
        data = parameters.get("data")
        try:
            quoted = template.quote_values((request.body if data is None else data).decode())
        except UnicodeDecodeError:
            raise ServerBugError("ArgumentError", "invalid byte sequence in UTF-8") from None
        restricted = template.find_restricted_key(quoted)
        if restricted is not None:
            refusal = "cannot be modified" if kind == UPDATE else "cannot be deleted"
            raise HaltError(403, f"Attribute ({restricted}) {refusal}")
        if kind == UPDATE:
            try:
                self._cloud.update_vm(vm.vm_id, quoted, self._version)
            except TemplateRefusedError as refused:
                raise HaltError(500, str(refused)) from None
        else:
            self._erase(vm, quoted, kind)
        return Answer(200)

    def _erase(self, vm: Vm, quoted: str, kind: int) -> None:
        """Erase one key: read the template, write the rest back; updates in between are lost.

        Any type other than 1 gets here; only type 2 writes the result.
        """
        problem = template.judge_key(quoted)
        if problem is XPathProblem.NOT_NODES:
            raise ServerBugError("ArgumentError", problem)
        if problem is not None:
            text = f"{problem}: USER_TEMPLATE/{quoted}"
            raise ServerBugError("Nokogiri::XML::XPath::SyntaxError", text)
        if kind != ERASE:
            return
        with self._cloud.lock:
            rest = dict(vm.user_template)
        if rest.pop(quoted.strip(), None) is None:
            raise HaltError(500, "attribute not found")
        self._cloud.replace_user_template(vm.vm_id, rest)

    def _post_action(self, request: Request, argument: str) -> Answer:
        """Refuse: no life-cycle action is emulated."""
        with self._cloud.lock:
            self._find_requested(request, to_integer(argument))
        raise HaltError(403, "Action (action_by_id) on resource (vm) not supported")

    def _put_role(self, request: Request, role_name: str) -> Answer:
        with self._cloud.lock:
            source = self._find_source(request)
            service = self._find_service_with(source, source.vm_id)
        text = request.body.decode(errors="replace")
        try:
            wish = json.loads(text)
        except json.JSONDecodeError:
            raise ServerBugError("JSON::ParserError", f"unexpected token at '{text}'") from None
        cardinality = wish.get("cardinality") if isinstance(wish, dict) else None
        scaler = self._cloud.scaler
        if scaler is None or not scaler(service.service_id, role_name, cardinality):
            raise HaltError(
                400,
                f"Error performing action on service {service.service_id} role {role_name}",
            )
        return Answer(200)


def clean_path(path: str) -> str:
    """Drop empty parts and dots of a path; a slash at its end stays."""
    parts: list[str] = []
    for part in path.split("/"):
        if part == "..":
            del parts[-1:]
        elif part not in ("", "."):
            parts.append(part)
    slash = "/" if parts and re.search(r"/\.{0,2}$", path) else ""
    return "/" + "/".join(parts) + slash


def _answer_json(value: Any) -> Answer:
    return Answer(200, json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode())
