"""`kubectl` and `crictl`: as much of them as operators of nodes and their agents use."""

from __future__ import annotations

import argparse
import json
import os
import re
import ssl
import sys
import tempfile
import time
from base64 import b64decode
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import yaml

from .access import MIRROR
from .client import Api, Refused, Unreachable
from .kinds import KINDS, Kind
from .knobs import Knobs
from .kubectlfiles import UsageError, apply_files, create_files, delete_files
from .store import Object, condition

ROLE = "node-role.kubernetes.io/"
SHORT = {
    "no": "nodes",
    "po": "pods",
    "ns": "namespaces",
    "cm": "configmaps",
    "svc": "services",
    "ev": "events",
    "crd": "customresourcedefinitions",
    "ds": "daemonsets",
    "deploy": "deployments",
    "pvc": "persistentvolumeclaims",
}


BOOLEANS = (
    *("--ignore-not-found", "--no-headers", "--overwrite", "--all", "--client", "--wait"),
    *("--ignore-daemonsets", "--delete-emptydir-data", "--force", "--now"),
    *("--disable-eviction", "--show-labels"),
)
"""Options that need no value, yet may have one behind an equals sign."""

_STEP = re.compile(
    r"""\.((?:[^.\[\\]|\\.)+)|\[\?\(@\.(\w+)\s*==\s*["']?([^"')]*)["']?\)\]|\[(\*|\d+)\]"""
)


def run(command: str, arguments: Sequence[str]) -> int:
    """Run a tool and return the exit status."""
    if command == "crictl":
        return crictl(arguments)
    try:
        return kubectl(arguments)
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
    except Refused as error:
        print(f"Error from server{_reason(error)}", file=sys.stderr)
    except Unreachable as error:
        words = str(error).rpartition('": ')[2]
        print(f"Unable to connect to the server: {words}", file=sys.stderr)
    return 1


def crictl(arguments: Sequence[str]) -> int:
    """Answer as where no container runs but the runtime does."""
    if arguments[:1] in (["ps"], ["pods"], ["images"]):
        print("CONTAINER  IMAGE  CREATED  STATE  NAME")
        return 0
    print("RuntimeName:  containerd")
    return 0


def kubectl(arguments: Sequence[str]) -> int:
    """One command of kubectl."""
    options = _parse(arguments)
    if options.verb == "version":
        return _version(options)
    api = _api(options)
    verbs = {
        "get": _get,
        "delete": _delete,
        "cordon": lambda api, options: _schedulable(api, options, True),
        "uncordon": lambda api, options: _schedulable(api, options, False),
        "drain": _drain,
        "annotate": lambda api, options: _mark(api, options, "annotations"),
        "patch": _patch,
        "label": lambda api, options: _mark(api, options, "labels"),
        "wait": _wait,
        "logs": _logs,
        "apply": apply_files,
        "create": create_files,
    }
    return verbs[options.verb](api, options)


# --- options -------------------------------------------------------------------------------------


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="kubectl", allow_abbrev=False)
    parser.add_argument(
        "verb",
        choices=(
            *("get", "delete", "cordon", "uncordon", "drain", "annotate", "label", "version"),
            *("wait", "patch", "logs", "apply", "create"),
        ),
    )
    parser.add_argument("words", nargs="*")
    parser.add_argument("--kubeconfig", default=os.environ.get("KUBECONFIG", ""))
    parser.add_argument("-o", "--output", default="")
    parser.add_argument("-n", "--namespace", default="default")
    parser.add_argument("-l", "--selector", default="")
    parser.add_argument("--field-selector", default="")
    parser.add_argument("--for", dest="wanted", default="")
    parser.add_argument("--timeout", default="30s")
    parser.add_argument("--request-timeout", default="0")
    parser.add_argument("--grace-period", default="")
    parser.add_argument("--raw", default="")
    parser.add_argument("-p", "--patch", default="")
    parser.add_argument("--type", default="strategic")
    parser.add_argument("-f", "--filename", action="append", default=[])
    parser.add_argument("-c", "--container", default="")
    parser.add_argument("--tail", default="-1")
    for flag in BOOLEANS:
        parser.add_argument(flag, default="true" if flag == "--wait" else "false")
    parser.add_argument("-A", "--all-namespaces", action="store_true")
    spelled_out = [f"{word}=true" if word in BOOLEANS else word for word in arguments]
    return parser.parse_intermixed_args(spelled_out)


def _api(options: argparse.Namespace) -> Api:
    file = Path(options.kubeconfig or Path.home() / ".kube" / "config")
    if not file.exists():
        raise UsageError(
            "The connection to the server localhost:8080 was refused - did you specify the right "
            "host or port?"
        )
    parsed = yaml.safe_load(file.read_text())
    cluster, user = parsed["clusters"][0]["cluster"], parsed["users"][0]["user"]
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=_material(cluster, "certificate-authority"))
    with tempfile.TemporaryDirectory() as folder:
        crt, key = (Path(folder) / name for name in ("crt", "key"))
        crt.write_text(_material(user, "client-certificate"))
        key.write_text(_material(user, "client-key"))
        context.load_cert_chain(crt, key)
    limit = _seconds(options.request_timeout)
    return Api(cluster["server"], context, limit or 35)


def _material(section: dict[str, str], name: str) -> str:
    if encoded := section.get(f"{name}-data"):
        return b64decode(encoded).decode()
    return Path(section[name]).read_text()


def _seconds(text: str) -> float:
    units = {"s": 1, "m": 60, "h": 3600}
    if text and text[-1] in units:
        return float(text[:-1]) * units[text[-1]]
    return float(text or 0)


def _targets(options: argparse.Namespace, *, default: str = "") -> tuple[Kind, list[str]]:
    """Kind and names of the objects that are meant."""
    words = list(options.words)
    if default:
        words.insert(0, default)
    if not words:
        raise UsageError("Required resource not specified.")
    pairs = [word.partition("/") for word in words if "/" in word and "=" not in word]
    if pairs:
        kind = _kind(pairs[0][0]) if not default else _kind(default)
        return kind, [name for _, _, name in pairs]
    return _kind(words[0]), words[1:]


def _kind(word: str) -> Kind:
    word = SHORT.get(word.lower(), word.lower())
    for resource, kind in KINDS.items():
        plural = resource.partition(".")[0]
        if word in (resource, plural, kind.name.lower()):
            return kind
    raise UsageError(f'the server doesn\'t have a resource type "{word}"')


def _path(kind: Kind, options: argparse.Namespace, name: str = "") -> str:
    root = "apis" if "/" in kind.api_version else "api"
    parts = ["", root, kind.api_version]
    if kind.namespaced and not options.all_namespaces:
        parts += ["namespaces", options.namespace]
    parts.append(kind.resource.partition(".")[0])
    return "/".join([*parts, name] if name else parts)


def _objects(api: Api, options: argparse.Namespace, kind: Kind, names: list[str]) -> list[Object]:
    if names:
        found = []
        for name in names:
            try:
                found.append(api.get(_path(kind, options, name)))
            except Refused as refused:
                if refused.status != 404 or options.ignore_not_found != "true":
                    raise
        return found

    query = f"?labelSelector={quote(options.selector)}"
    query += f"&fieldSelector={quote(options.field_selector)}"
    listed: list[Object] = api.get(_path(kind, options) + query)["items"]
    return listed


# --- verbs ---------------------------------------------------------------------------------------


def _version(options: argparse.Namespace) -> int:
    own = Knobs().version()[1]
    told: dict[str, Any] = {"clientVersion": {"gitVersion": own}}
    if options.client != "true":
        told["serverVersion"] = _api(options).get("/version")
    if options.output in ("json", "yaml"):
        print(json.dumps(told, indent=2))
        return 0
    print(f"Client Version: {own}")
    if "serverVersion" in told:
        print(f"Server Version: {told['serverVersion']['gitVersion']}")
    return 0


def _get(api: Api, options: argparse.Namespace) -> int:
    if options.raw:
        status, text = api.ask("GET", options.raw)
        if status >= 300:
            raise Refused(options.raw, status, text)
        print(text, end="" if text.endswith("\n") else "\n")
        return 0
    kind, names = _targets(options)
    found = _objects(api, options, kind, names)
    plural = kind.resource.partition(".")[0]
    single = plural[:-1] if kind.name != "Endpoints" else plural
    form = options.output
    if form == "json":
        whole = found[0] if len(names) == 1 and found else {"kind": "List", "items": found}
        print(json.dumps(whole, indent=4))
    elif form == "yaml":
        whole = found[0] if len(names) == 1 and found else {"kind": "List", "items": found}
        print(yaml.safe_dump(whole), end="")
    elif form == "name":
        for obj in found:
            print(f"{single}/{obj['metadata']['name']}")
    elif form.startswith("jsonpath="):
        print(" ".join(follow_path(obj, form) for obj in found), end="")
    elif not found:
        print("No resources found", file=sys.stderr)
    elif kind.name == "Node":
        _print_nodes(found, options)
    elif kind.name == "Pod":
        _print_pods(found, options)
    else:
        rows = [("NAME",), *((obj["metadata"]["name"],) for obj in found)]
        _print_table(rows, options)
    return 0


def follow_path(obj: Object, form: str) -> str:
    """One path, such as `{.status.conditions[?(@.type=="Ready")].status}`."""
    path = form.removeprefix("jsonpath=").strip("'").removeprefix("{").removesuffix("}")
    found: list[Any] = [obj]
    for name, condition_key, condition_value, index in _STEP.findall(path):
        if name:
            name = name.replace("\\.", ".")
            found = [each[name] for each in found if isinstance(each, dict) and name in each]
            continue
        items = [item for each in found if isinstance(each, list) for item in each]
        if condition_key:
            found = [item for item in items if str(item.get(condition_key)) == condition_value]
        else:
            found = items if index == "*" else items[int(index) : int(index) + 1]
    return " ".join(each if isinstance(each, str) else json.dumps(each) for each in found)


def _print_nodes(nodes: Sequence[Object], options: argparse.Namespace) -> None:
    wide = options.output == "wide"
    rows: list[tuple[str, ...]] = [("NAME", "STATUS", "ROLES", "AGE", "VERSION")]
    if wide:
        rows[0] += ("INTERNAL-IP", "EXTERNAL-IP", "OS-IMAGE", "KERNEL-VERSION", "CONTAINER-RUNTIME")
    for node in nodes:
        metadata, status = node["metadata"], node.get("status", {})
        ready = condition(node, "Ready")
        state = "Ready" if ready == "True" else "NotReady"
        if node.get("spec", {}).get("unschedulable"):
            state += ",SchedulingDisabled"
        labels = metadata.get("labels") or {}
        roles = ",".join(sorted(key[len(ROLE) :] for key in labels if key.startswith(ROLE)))
        info = status.get("nodeInfo", {})
        row: tuple[str, ...] = (
            metadata["name"],
            state,
            roles or "<none>",
            _age(metadata),
            info["kubeletVersion"],
        )
        if wide:
            addresses = {each["type"]: each["address"] for each in status.get("addresses", [])}
            row += (
                addresses.get("InternalIP", "<none>"),
                addresses.get("ExternalIP", "<none>"),
                info["osImage"],
                info["kernelVersion"],
                info["containerRuntimeVersion"],
            )
        if options.show_labels == "true":
            row += (",".join(f"{key}={value}" for key, value in sorted(labels.items())),)
        rows.append(row)
    _print_table(rows, options)


def _print_pods(pods: Sequence[Object], options: argparse.Namespace) -> None:
    head = ("NAME", "READY", "STATUS", "RESTARTS", "AGE", "NODE")
    rows: list[tuple[str, ...]] = [(("NAMESPACE",) if options.all_namespaces else ()) + head]
    for pod in pods:
        metadata, status = pod["metadata"], pod.get("status", {})
        told = status.get("containerStatuses") or []
        reasons = [each["state"].get("waiting", {}).get("reason") for each in told]
        state = next(filter(None, reasons), status.get("phase", "Unknown"))
        state = {"Succeeded": "Completed", "Failed": "Error"}.get(state, state)
        if metadata.get("deletionTimestamp"):
            state = "Terminating"
        row = (
            metadata["name"],
            f"{sum(each['ready'] for each in told)}/{len(pod['spec'].get('containers') or [])}",
            state,
            str(sum(each.get("restartCount", 0) for each in told)),
            _age(metadata),
            pod["spec"].get("nodeName", "<none>"),
        )
        rows.append(((metadata["namespace"],) if options.all_namespaces else ()) + row)
    _print_table(rows, options)


def _print_table(rows: Sequence[tuple[str, ...]], options: argparse.Namespace) -> None:
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=False)]
    for row in rows[1:] if options.no_headers == "true" else rows:
        padded = (cell.ljust(width) for cell, width in zip(row, widths, strict=False))
        print("   ".join(padded).rstrip())


def _age(metadata: Object) -> str:
    made = time.strptime(str(metadata["creationTimestamp"]), "%Y-%m-%dT%H:%M:%SZ")
    seconds = int(time.time() - (time.mktime(made) - time.timezone))
    return f"{seconds}s" if seconds < 120 else f"{seconds // 60}m"


def _delete(api: Api, options: argparse.Namespace) -> int:
    if options.filename:
        return delete_files(api, options)
    kind, names = _targets(options)
    if options.all == "true" or (not names and options.selector):
        names = [obj["metadata"]["name"] for obj in _objects(api, options, kind, [])]
    word = kind.name.lower() + (
        f".{kind.resource.partition('.')[2]}" if "." in kind.resource else ""
    )
    deadline = time.monotonic() + (_seconds(options.timeout) or 30)
    for name in names:
        path = _path(kind, options, name)
        grace = {"gracePeriodSeconds": int(options.grace_period)} if options.grace_period else None
        try:
            gone = api.delete(path, grace)
        except Refused as refused:
            if refused.status == 404 and options.ignore_not_found == "true":
                continue
            raise
        print(f'{word} "{name}" deleted')
        if options.wait == "false" or gone.get("kind") == "Status":
            continue
        while api.find(path) is not None:
            if time.monotonic() > deadline:
                raise UsageError(f"timed out waiting for the condition on {word}s/{name}")
            time.sleep(0.2)
    return 0


def _schedulable(api: Api, options: argparse.Namespace, off: bool) -> int:
    kind, names = _targets(options, default="nodes")
    for node in _objects(api, options, kind, names):
        name = node["metadata"]["name"]
        word = "cordoned" if off else "uncordoned"
        if bool(node.get("spec", {}).get("unschedulable")) == off:
            print(f"node/{name} already {word}")
            continue
        patch = {"spec": {"unschedulable": True if off else None}}
        api.merge(_path(kind, options, name), patch)
        print(f"node/{name} {word}")
    return 0


def _drain(api: Api, options: argparse.Namespace) -> int:
    _schedulable(api, options, True)
    kind, names = _targets(options, default="nodes")
    for name in names:
        pods = api.get(f"/api/v1/pods?fieldSelector=spec.nodeName%3D{name}")["items"]
        chosen = [pod for pod in pods if _is_drained(pod, options, name)]
        _evict(api, chosen, time.monotonic() + (_seconds(options.timeout) or 3600))
        print(f"node/{name} drained")
    return 0 if kind else 1


def _is_drained(pod: Object, options: argparse.Namespace, node: str) -> bool:
    """Whether a drain takes a pod away.

    Raises:
        UsageError: If it has to be allowed to, and is not.
    """
    metadata = pod["metadata"]
    owners = {owner["kind"] for owner in metadata.get("ownerReferences") or []}
    if MIRROR in (metadata.get("annotations") or {}):
        return False
    is_finished = pod.get("status", {}).get("phase") in ("Succeeded", "Failed")
    obstacle = ""
    if "DaemonSet" in owners and not is_finished:
        if options.ignore_daemonsets == "true":
            return False
        obstacle = "cannot delete DaemonSet-managed Pods (use --ignore-daemonsets to ignore)"
    elif not owners and not is_finished and options.force != "true":
        obstacle = "cannot delete Pods that declare no controller (use --force to override)"
    elif options.delete_emptydir_data != "true" and any(
        "emptyDir" in volume for volume in pod["spec"].get("volumes") or []
    ):
        obstacle = "cannot delete Pods with local storage (use --delete-emptydir-data to override)"
    if obstacle:
        where = f"{metadata['namespace']}/{metadata['name']}"
        raise UsageError(f'unable to drain node "{node}" due to error: {obstacle}: {where}')
    return True


def _evict(api: Api, pods: Sequence[Object], deadline: float) -> None:
    """Evict pods, again and again where a budget is against it, and wait until they are gone."""
    left = list(pods)
    for pod in left:
        print(f"evicting pod {pod['metadata']['namespace']}/{pod['metadata']['name']}")
    while left:
        left = [pod for pod in left if not _is_evicted(api, pod)]
        if left and time.monotonic() > deadline:
            raise UsageError("error when evicting pods: global timeout reached")
        time.sleep(0.3 if left else 0)


def _is_evicted(api: Api, pod: Object) -> bool:
    metadata = pod["metadata"]
    path = f"/api/v1/namespaces/{metadata['namespace']}/pods/{metadata['name']}"
    now = api.find(path)
    if now is None or now["metadata"]["uid"] != metadata["uid"]:
        return True
    if not now["metadata"].get("deletionTimestamp"):
        try:
            api.create(f"{path}/eviction", {"metadata": {"name": metadata["name"]}})
        except Refused as refused:
            if refused.status not in (404, 429):
                raise
            if refused.status == 429:
                print(
                    f'error when evicting pods/"{metadata["name"]}" (will retry)', file=sys.stderr
                )
    return False


def _mark(api: Api, options: argparse.Namespace, field: str) -> int:
    changes: dict[str, str | None] = {}
    for word in [word for word in options.words if "=" in word or word.endswith("-")]:
        key, equals, value = word.partition("=")
        changes[key if equals else key[:-1]] = value if equals else None
        options.words.remove(word)
    kind, names = _targets(options)
    done = "annotated" if field == "annotations" else "labeled"
    for obj in _objects(api, options, kind, names):
        name, old = obj["metadata"]["name"], obj["metadata"].get(field) or {}
        for key, value in changes.items():
            if value is not None and old.get(key, value) != value and options.overwrite != "true":
                raise UsageError(
                    f"'{key}' already has a value ({old[key]}), and --overwrite is false"
                )
        api.merge(_path(kind, options, name), {"metadata": {field: changes}})
        print(f"{kind.name.lower()}/{name} {done}")
    return 0


def _patch(api: Api, options: argparse.Namespace) -> int:
    kind, names = _targets(options)
    content = {"merge": "merge-patch", "json": "json-patch"}.get(options.type)
    for name in names:
        path = _path(kind, options, name)
        patch = yaml.safe_load(options.patch)
        api.call("PATCH", path, patch, f"application/{content or 'strategic-merge-patch'}+json")
        print(f"{kind.name.lower()}/{name} patched")
    return 0


def _logs(api: Api, options: argparse.Namespace) -> int:
    """Print what a pod said, or each pod of a job."""
    kind, slash, name = options.words[0].partition("/")
    path = f"/api/v1/namespaces/{options.namespace}/pods"
    names = [name or kind]
    if slash and _kind(kind).name == "Job":
        listed = api.get(f"{path}?labelSelector=job-name%3D{name}")["items"]
        names = [pod["metadata"]["name"] for pod in listed]
    for each in names:
        query = f"?container={options.container}"
        query += f"&tailLines={options.tail}" if int(options.tail) > 0 else ""
        status, text = api.ask("GET", f"{path}/{each}/log{query}")
        if status >= 300:
            raise Refused(f"{path}/{each}/log", status, text)
        print(text, end="")
    return 0


def _wait(api: Api, options: argparse.Namespace) -> int:
    kind, names = _targets(options)
    if not names:
        names = [obj["metadata"]["name"] for obj in _objects(api, options, kind, [])]
    what, _, value = options.wanted.partition("=")
    deadline = time.monotonic() + _seconds(options.timeout)
    for name in names:
        while not _is_met(api.find(_path(kind, options, name)), what, value, name):
            if time.monotonic() > deadline:
                word = kind.resource.partition(".")[0]
                raise UsageError(f"timed out waiting for the condition on {word}/{name}")
            time.sleep(0.2)
        print(f"{kind.name.lower()}/{name} condition met")
    return 0


def _is_met(obj: Object | None, what: str, value: str, name: str) -> bool:
    if what == "delete":
        return obj is None
    if obj is None:
        raise UsageError(f'"{name}" not found')
    kind, _, wanted = value.partition("=")
    return condition(obj, kind).lower() == (wanted or "true").lower()


def _reason(error: Refused) -> str:
    try:
        told = json.loads(error.body)
        return f" ({told['reason']}): {told['message']}"
    except (ValueError, KeyError, TypeError):
        return f": {error.body}"
