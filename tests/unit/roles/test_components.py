"""Components: which are on, what is written for them, and what is refused."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from appliance import paths
from appliance.actions import EnsureFolder, RemoveFile, WriteFile
from appliance.context import Context
from appliance.decision import Decided, decide
from appliance.errors import ParameterProblems, ServiceDefinitionError
from appliance.render import to_yaml
from appliance.service import Service, load_services
from appliance.values import parse_address_ranges
from roles.common.components import (
    MANIFESTS,
    build_manifests,
    components_on,
    join_ranges,
    plan_components,
)
from roles.common.supplies import Supplies
from tests.contexts import SERVICES
from tests.manifests.__main__ import OWN, main
from tests.manifests.judge import judge, load_schemas
from tests.manifests.rendered import combinations, documents
from tests.unit.roles.cluster import Cloud, Machine
from tests.unit.roles.nodes import NODE

K8S = "ONEAPP_K8S_"
POOLS = "one-metallb-config.yaml"
SETTINGS = "rke2-cilium-config.yaml"
CLEANER = "one-cleaner.yaml"
LEAVING = "one-leaving.yaml"


def decided(services: Mapping[str, Service] = SERVICES, /, **changes: str) -> Decided:
    """Decide on a master; keys without a known prefix are of Kubernetes."""
    named = {
        key if key.startswith(("ONEAPP_", "ETH")) else f"{K8S}{key}": text
        for key, text in changes.items()
    }
    return decide("master", Context({**NODE, **named}, "test"), services)


def files(**changes: str) -> dict[str, str]:
    """Return the files of a master, by name."""
    made = build_manifests(decided(**changes).params, SERVICES)
    return {file.name: file.text for file in made}


def parsed(text: str) -> list[Any]:
    """Return the documents of a file."""
    return list(yaml.safe_load_all(text))


def values_of(text: str) -> Any:
    """Return the values in the last document of a file."""
    return yaml.safe_load(parsed(text)[-1]["spec"]["valuesContent"])


def problems(**changes: str) -> list[str]:
    """Return what is wrong."""
    with pytest.raises(ParameterProblems) as caught:
        decided(**changes)
    return [str(problem) for problem in caught.value.problems]


# ---- which are on


def test_a_current_template_without_switches_gets_network_plug_in_and_cleaner_alone() -> None:
    assert set(files()) == {SETTINGS, CLEANER, LEAVING}


def test_with_all_off_a_cluster_is_bare_and_nodes_may_still_leave() -> None:
    none = {"CNI_PLUGIN": "none", "CLEANER_ENABLED": "NO"}
    assert set(files(**none)) == {LEAVING}
    actions = plan_components(decided(**none).params, SERVICES)
    written = {action.path.name for action in actions if isinstance(action, WriteFile)}
    assert written == {LEAVING}


def test_nodes_may_delete_nodes_and_nothing_else() -> None:
    role, binding = (parsed(files()[LEAVING])[number] for number in (0, 1))
    assert role["rules"] == [{"apiGroups": [""], "resources": ["nodes"], "verbs": ["delete"]}]
    assert binding["roleRef"]["name"] == role["metadata"]["name"] == "oneke-leaving"
    assert [subject["name"] for subject in binding["subjects"]] == ["system:nodes"]


@pytest.mark.parametrize("key", ["LOADBALANCER_RANGE", "LOADBALANCER_CONFIG"])
def test_a_template_of_the_older_generation_gets_what_was_always_there(key: str) -> None:
    on = components_on(decided(**{key: ""}).params, SERVICES)
    assert on == ("canal", "cleaner", "leaving", "longhorn", "metallb", "snapshots", "traefik")


def test_an_older_range_with_a_number_implies_metallb_alone() -> None:
    on = components_on(decided(LOADBALANCER_RANGE0="198.51.100.40").params, SERVICES)
    assert on == ("cilium", "cleaner", "leaving", "metallb", "snapshots")


def test_a_switch_wins_over_what_an_older_range_implies() -> None:
    changes = {"LOADBALANCER_RANGE": "198.51.100.40", "METALLB_ENABLED": "NO"}
    assert "metallb" not in components_on(decided(**changes).params, SERVICES)


def test_services_without_a_class_are_served_in_the_older_generation_alone() -> None:
    older = values_of(files(LOADBALANCER_RANGE="198.51.100.40")["one-metallb.yaml"])
    current = values_of(files(METALLB_ENABLED="YES")["one-metallb.yaml"])
    assert "loadBalancerClass" not in older
    assert current["loadBalancerClass"] == "metallb"


# ---- what is written


def test_files_are_for_root_alone_and_rke2_finds_its_folder_closed() -> None:
    actions = plan_components(decided(TRAEFIK_ENABLED="YES").params, SERVICES)
    assert [a for a in actions if isinstance(a, EnsureFolder)] == [
        EnsureFolder(MANIFESTS.parent, 0o700),
        EnsureFolder(MANIFESTS, 0o700),
    ]
    written = [action for action in actions if isinstance(action, WriteFile)]
    assert {str(action.path) for action in written} == {
        str(MANIFESTS / name) for name in (SETTINGS, CLEANER, LEAVING, "one-traefik.yaml")
    }
    assert {action.mode for action in written} == {0o600}


def test_every_master_writes_the_same() -> None:
    joining = {
        "VMID": "368",
        "ETH0_IP": "172.20.0.102",
        "ONEAPP_VROUTER_ETH0_VIP0": "",
        f"{K8S}ADDRESS": "172.20.0.101",
        f"{K8S}TOKEN": "K10abc::server:secret",
    }
    founder = {**NODE, "ONEAPP_VROUTER_ETH0_VIP0": ""}
    made = [
        build_manifests(decide("master", Context(values, "test"), SERVICES).params, SERVICES)
        for values in (founder, {**founder, **joining})
    ]
    assert made[0] == made[1]
    (settings,) = [file.text for file in made[0] if file.name == SETTINGS]
    assert values_of(settings)["k8sServiceHost"] == "127.0.0.1"


def test_a_master_has_its_manifests_before_rke2_starts_for_the_first_time() -> None:
    master = Machine(Cloud(), "master", 101, ONEAPP_K8S_LONGHORN_ENABLED="YES")
    seen: list[bool] = []
    serve = master._serve

    def starting() -> None:
        seen.append(str(MANIFESTS / SETTINGS) in map(str, master.files.texts()))
        master.while_starting = None
        serve()

    master.while_starting = starting
    master.run()
    assert seen == [True]
    assert master.files.folders[MANIFESTS] == 0o700
    assert master.run().changes == 0


def test_what_is_turned_off_loses_its_file_and_a_person_is_told_that_it_stays() -> None:
    master = Machine(Cloud(), "master", 101, ONEAPP_K8S_TRAEFIK_ENABLED="YES")
    master.run()
    other = MANIFESTS / "one-longhorn.yaml"
    master.files.put(other, "kind: HelmChart  # somebody else's\n")
    actions = plan_components(decided().params, SERVICES)
    changes = [action.check(master.system, frozenset()) for action in actions]
    (change,) = [change for change in changes if change and "remove" in change.summary]
    assert change.paths == (MANIFESTS / "one-traefik.yaml",)
    assert "stays in the cluster" in change.summary


def test_own_kinds_are_in_files_apart_from_the_chart_that_brings_them() -> None:
    everything = {"METALLB_ENABLED": "YES", "METALLB_RANGE": "198.51.100.40", "BGP": "YES"}
    for text in files(**everything).values():
        kinds = {document["kind"] for document in parsed(text)}
        assert "HelmChart" not in kinds or kinds <= {"HelmChart", "Namespace"}


def test_longhorn_keeps_its_data_where_the_disk_is_mounted() -> None:
    made = files(LONGHORN_ENABLED="YES", ONEAPP_STORAGE_MOUNTPOINT="/srv/longhorn")
    settings = values_of(made["one-longhorn.yaml"])["defaultSettings"]
    assert settings["defaultDataPath"] == "/srv/longhorn"
    (storage_class,) = parsed(made["one-longhorn-storageclass.yaml"])
    assert storage_class["metadata"]["name"] == "longhorn-retain"
    assert storage_class["reclaimPolicy"] == "Retain"


def test_cilium_leaves_room_for_multus() -> None:
    alone = values_of(files()[SETTINGS])
    assert alone["k8sServiceHost"] == "10.2.11.86"
    assert alone["k8sServicePort"] == "6443"
    assert "cni" not in alone
    both = values_of(files(MULTUS_ENABLED="YES")[SETTINGS])
    assert both["cni"] == {"exclusive": False}


@pytest.mark.parametrize(
    ("changes", "by_cilium"),
    [
        ({}, True),
        ({"METALLB_ENABLED": "YES"}, True),
        ({"METALLB_ENABLED": "YES", "METALLB_CLASS": "edge"}, True),
        ({"METALLB_ENABLED": "YES", "METALLB_CLASS": ""}, True),
        ({"LOADBALANCER_RANGE": "198.51.100.40"}, False),
    ],
)
def test_services_without_a_class_are_served_by_one_of_cilium_and_metallb(
    changes: Mapping[str, str], by_cilium: bool
) -> None:
    """MetalLB serves them where it has no class; Cilium where it is not told to serve none."""
    bgp = {"CILIUM_BGP_ENABLED": "YES", "CILIUM_RANGE": "203.0.113.0/28"}
    made = files(CNI_PLUGIN="cilium", **bgp, **changes)
    metallb = made.get("one-metallb.yaml")
    by_metallb = metallb is not None and "loadBalancerClass" not in values_of(metallb)
    default = values_of(made[SETTINGS]).get("defaultLBServiceIPAM", "lbipam")
    assert default == ("lbipam" if by_cilium else "none")
    assert by_metallb is not by_cilium


def test_a_pool_of_cilium_is_a_list_of_networks_and_ranges() -> None:
    made = files(
        CILIUM_BGP_ENABLED="YES", CILIUM_RANGE1="2001:db8::/120", CILIUM_RANGE0="203.0.113.9"
    )
    (pool,) = parsed(made["one-cilium-pools.yaml"])
    assert pool["apiVersion"] == "cilium.io/v2"
    assert pool["spec"]["blocks"] == [
        {"start": "203.0.113.9", "stop": "203.0.113.9"},
        {"cidr": "2001:db8::/120"},
    ]


# ---- addresses


def test_ranges_come_by_name_with_overlaps_joined() -> None:
    made = files(
        METALLB_ENABLED="YES",
        METALLB_RANGE_B="198.51.100.50-198.51.100.70",
        METALLB_RANGE_A="198.51.100.40-198.51.100.60, 2001:db8::5",
        METALLB_RANGE_C="198.51.100.64/29; 2001:db8::5",
    )
    assert parsed(made[POOLS])[0]["spec"]["addresses"] == [
        "198.51.100.40-198.51.100.71",
        "2001:db8::5-2001:db8::5",
    ]


def test_a_range_that_holds_others_stays_as_it_was_written() -> None:
    given = parse_address_ranges(
        "198.51.100.0/24, 198.51.100.7, 198.51.100.9", SERVICES["metallb"].entries[1]
    )
    assert [str(one) for one in join_ranges(given)] == ["198.51.100.0/24"]


@pytest.mark.parametrize(
    "text",
    [
        "198.51.100.40-",
        "-198.51.100.40",
        "198.51.100.40-198.51.100.50-198.51.100.60",
        "198.51.100.32/27-198.51.100.60/27",
        "198.51.100.60-198.51.100.40",
        "198.51.100.40-2001:db8::1",
        "198.51.100.33/27",
        "198.51.100.0/24/25",
        "198.51.100.0/255.255.255.0",
        "fe80::1%eth0",
        ",",
        "10.77.9",
    ],
)
def test_a_malformed_range_is_refused(text: str) -> None:
    (problem,) = problems(METALLB_ENABLED="YES", METALLB_RANGE=text)
    assert "expected" in problem


@pytest.mark.parametrize(
    ("text", "owner"),
    [
        ("10.2.11.80-10.2.11.90", "ONEAPP_VROUTER_ETH0_VIP0=10.2.11.86"),
        ("172.20.0.0/24", "ONEAPP_VROUTER_ETH1_VIP0=172.20.0.86"),
        ("10.42.7.1", "ONEAPP_K8S_CLUSTER_CIDR=10.42.0.0/16"),
        ("10.43.255.255-10.44.0.9", "ONEAPP_K8S_SERVICE_CIDR=10.43.0.0/16"),
    ],
)
@pytest.mark.parametrize("of", ["METALLB", "CILIUM"])
def test_a_range_of_addresses_that_are_in_use_is_refused(of: str, text: str, owner: str) -> None:
    switches = {"METALLB_ENABLED": "YES", "CILIUM_BGP_ENABLED": "YES"}
    (problem,) = problems(**switches, **{f"{of}_RANGE0": text})
    assert problem.startswith(f"{K8S}{of}_RANGE0=")
    assert f"overlaps {owner}" in problem


def test_ipv6_ranges_are_held_against_ipv6_networks() -> None:
    networks = {"CLUSTER_CIDR": "10.42.0.0/16,fd42::/56", "SERVICE_CIDR": "10.43.0.0/16,fd43::/112"}
    (problem,) = problems(METALLB_ENABLED="YES", METALLB_RANGE="fd43::5", **networks)
    assert "ONEAPP_K8S_SERVICE_CIDR=fd43::/112" in problem
    assert POOLS in files(METALLB_ENABLED="YES", METALLB_RANGE="fd44::/112", **networks)


# ---- the user's own text

POOL = """\
apiVersion: metallb.io/v1beta1
kind: IPAddressPool
metadata: {name: edge, namespace: metallb-system}
spec: {addresses: [203.0.113.0/28]}
"""


@pytest.mark.parametrize("text", [POOL, base64.b64encode(POOL.encode()).decode()])
def test_own_resources_replace_those_made_from_ranges(text: str) -> None:
    changes = {"METALLB_ENABLED": "YES", "METALLB_RANGE": "198.51.100.40", "METALLB_CONFIG": text}
    made = files(**changes)[POOLS]
    assert parsed(made) == [yaml.safe_load(POOL)]
    assert made.endswith(POOL)
    actions = plan_components(decided(**changes).params, SERVICES)
    (own,) = [a for a in actions if isinstance(a, WriteFile) and a.path.name == POOLS]
    assert own.is_secret


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("address-pools:\n- name: default\n  protocol: layer2\n", "does not read since 0.13"),
        ("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: config}\n", "metallb.io/v1beta1"),
        ("kind: IPAddressPool", "one has no apiVersion"),
        ("apiVersion: v1\nkind: Secret\n", "one of kind Secret has no name"),
        ("a: [", "this is no YAML"),
        ("when: 2024-99-99", "this is no YAML"),
        ("[1, 2]", "each a mapping"),
        ("---\n---\n", "there is none"),
    ],
)
def test_own_text_that_the_cluster_would_not_take_is_refused(text: str, said: str) -> None:
    (problem,) = problems(METALLB_ENABLED="YES", METALLB_CONFIG=text)
    assert problem.startswith(f"{K8S}METALLB_CONFIG: ")
    assert said in problem


def pool(*addresses: str, name: str = "edge") -> dict[str, Any]:
    """Return a pool of addresses as a user writes it."""
    metadata = {"name": name, "namespace": "metallb-system"}
    spec = {"addresses": list(addresses)}
    return {
        "apiVersion": "metallb.io/v1beta1",
        "kind": "IPAddressPool",
        "metadata": metadata,
        "spec": spec,
    }


def own(*pools: Mapping[str, Any]) -> dict[str, str]:
    """Turn MetalLB on with a user's own resources."""
    return {"METALLB_ENABLED": "YES", "METALLB_CONFIG": yaml.safe_dump_all(pools)}


@pytest.mark.parametrize(
    ("text", "shown", "owner"),
    [
        ("10.2.11.80-10.2.11.90", "10.2.11.80-10.2.11.90", "ONEAPP_VROUTER_ETH0_VIP0=10.2.11.86"),
        ("10.2.11.86/32", "10.2.11.86/32", "ONEAPP_VROUTER_ETH0_VIP0=10.2.11.86"),
        ("172.20.0.9/24", "172.20.0.0/24", "ONEAPP_VROUTER_ETH1_VIP0=172.20.0.86"),
        ("10.42.7.0/30", "10.42.7.0/30", "ONEAPP_K8S_CLUSTER_CIDR=10.42.0.0/16"),
        ("10.43.1.1 - 10.43.1.9", "10.43.1.1-10.43.1.9", "ONEAPP_K8S_SERVICE_CIDR=10.43.0.0/16"),
    ],
)
def test_own_resources_with_addresses_that_are_in_use_are_refused(
    text: str, shown: str, owner: str
) -> None:
    free = pool("203.0.113.0/28", name="free")
    listed = {"apiVersion": "v1", "kind": "List", "items": [free, pool("203.0.113.64/28", text)]}
    for given in ((free, pool("203.0.113.64/28", text)), (listed,)):
        (problem,) = problems(**own(*given))
        assert problem.startswith(f"{K8S}METALLB_CONFIG: IPAddressPool edge: {shown} ")
        assert f"overlaps {owner}" in problem


def test_own_ipv6_addresses_are_held_against_ipv6_networks() -> None:
    networks = {"CLUSTER_CIDR": "10.42.0.0/16,fd42::/56", "SERVICE_CIDR": "10.43.0.0/16,fd43::/112"}
    (problem,) = problems(**own(pool("fd43::4/126")), **networks)
    assert "ONEAPP_K8S_SERVICE_CIDR=fd43::/112" in problem


@pytest.mark.parametrize("text", ["10.77.0.9-10.77.0.1", "10.77.0.0/33", "edge", "", 7, None])
def test_own_addresses_that_are_none_are_refused(text: Any) -> None:
    (problem,) = problems(**own(pool(text)))
    assert problem.startswith(f"{K8S}METALLB_CONFIG: IPAddressPool edge: spec.addresses: ")


@pytest.mark.parametrize(
    "changes", [{"kind": "Other", "spec": {"addresses": ["10.42.0.1/32"]}}, {"spec": {}}]
)
def test_what_lists_no_addresses_is_not_looked_at(changes: dict[str, Any]) -> None:
    assert POOLS in files(**own({**pool(), **changes}))


def test_own_settings_of_the_plug_in_replace_those_of_whichever_is_chosen() -> None:
    own = "apiVersion: helm.cattle.io/v1\nkind: HelmChartConfig\nmetadata: {name: rke2-canal}\n"
    assert files(CNI_PLUGIN="canal", CNI_CONFIG=own)["rke2-canal-config.yaml"].endswith(own)
    assert files(CNI_PLUGIN="none", CNI_CONFIG=own)["one-own-cni.yaml"].endswith(own)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"METALLB_RANGE": "198.51.100.40"}, "ONEAPP_K8S_METALLB_ENABLED is not YES"),
        ({"CILIUM_RANGE": "203.0.113.0/28"}, "ONEAPP_K8S_CILIUM_BGP_ENABLED is not on"),
        (
            {"CNI_PLUGIN": "canal", "CILIUM_RANGE": "203.0.113.0/28"},
            "ONEAPP_K8S_CNI_PLUGIN is not cilium",
        ),
        ({"METALLB_ENABLED": "YES"}, "metallb has nothing to work with"),
        (
            {"METALLB_ENABLED": "YES", "METALLB_RANGE7": "198.51.100.40", "METALLB_CONFIG": POOL},
            "ONEAPP_K8S_METALLB_RANGE7 has no effect: ONEAPP_K8S_METALLB_CONFIG is given",
        ),
    ],
)
def test_what_has_no_effect_is_said(changes: Mapping[str, str], said: str) -> None:
    assert any(said in warning for warning in decided(**changes).warnings)


def test_ranges_and_own_text_by_themselves_have_their_effect() -> None:
    for given in ({"METALLB_RANGE": "198.51.100.40"}, {"METALLB_CONFIG": POOL}):
        warnings = decided(METALLB_ENABLED="YES", **given).warnings
        assert not [one for one in warnings if "METALLB" in one]


@pytest.mark.parametrize(
    "value",
    [
        'a"b: c #d\n---\n{{ x }}',
        "yes",
        "0x10",
        "\x7f\u2028\U0001f600\t",
        "'",
        "",
        7,
        True,
        None,
        ["a", {"b": "c\nd"}],
    ],
)
def test_a_value_in_yaml_means_itself_wherever_it_stands(value: object) -> None:
    text = to_yaml(value)
    assert "\n" not in text
    block = f"a:\n  inner: |\n    key: {text}\n  list:\n    - {text}\nb: {{c: {text}, d: 1}}\n"
    made = yaml.safe_load(block)
    assert yaml.safe_load(made["a"]["inner"]) == {"key": value}
    assert made["a"]["list"] == [value]
    assert made["b"] == {"c": value, "d": 1}


# ---- a component is added by adding a folder

HELLO = {
    "service.yaml": """\
summary: Says hello.
roles: [master]
component:
  switch: enabled
  chart: {name: hello, repo: https://charts.example.org, version: chart_version}
  manifests:
    - {file: hello.yaml, template: hello.yaml.j2}
    - {file: hello-words.yaml, template: words.yaml.j2, when: [words], replaced_by: config}
""",
    "parameters.yaml": """\
parameters:
  - {name: ONEAPP_K8S_HELLO_ENABLED, field: enabled, type: boolean, default: 'NO',
     description: On., example: 'YES'}
  - {name: ONEAPP_K8S_HELLO_WORDS, field: words, type: text,
     description: What to say., example: hi}
  - {name: ONEAPP_K8S_HELLO_CONFIG, field: config, type: base64_text,
     description: Own text., example: hi}
  - {name: ONEAPP_K8S_HELLO_CHART_VERSION, field: chart_version, type: text, default: 1.0.0,
     description: Its version., example: 1.0.0}
""",
    "templates/hello.yaml.j2": """\
# {{ header }}
apiVersion: helm.cattle.io/v1
kind: HelmChart
metadata: {name: hello, namespace: kube-system}
spec:
  chart: {{ chart.chart | to_yaml }}
  repo: {{ chart.repo | to_yaml }}
  version: {{ chart.version | to_yaml }}
  valuesContent: |
    api: {{ cluster.api_host | to_yaml }}
""",
    "templates/words.yaml.j2": """\
# {{ header }}
apiVersion: v1
kind: ConfigMap
metadata: {name: words, namespace: kube-system}
data:
  words: {{ own.words | to_yaml }}
""",
}


def dropped_in(folder: Path, **changes: str) -> dict[str, Service]:
    """Read the drop-ins with one more, which an administrator put into a folder."""
    for name, text in {**HELLO, **changes}.items():
        file = folder / "hello" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    return load_services((folder, paths.packaged_services()))


def test_a_component_is_added_by_adding_a_folder(tmp_path: Path) -> None:
    services = dropped_in(tmp_path)
    words = 'a "quoted": # word'
    chosen = {"HELLO_ENABLED": "YES", "HELLO_WORDS": words, "HELLO_CHART_VERSION": "2.3.4"}
    actions = plan_components(decided(services, **chosen).params, services)
    written = {a.path.name: a.text for a in actions if isinstance(a, WriteFile)}
    assert set(written) == {SETTINGS, CLEANER, LEAVING, "hello.yaml", "hello-words.yaml"}
    (chart,) = parsed(written["hello.yaml"])
    assert chart["spec"]["version"] == "2.3.4"
    assert yaml.safe_load(chart["spec"]["valuesContent"]) == {"api": "10.2.11.86"}
    assert parsed(written["hello-words.yaml"])[0]["data"] == {"words": words}


def test_an_added_component_that_is_off_is_planned_away(tmp_path: Path) -> None:
    services = dropped_in(tmp_path)
    found = decided(services, HELLO_WORDS="hi")
    actions = plan_components(found.params, services)
    gone = {action.path.name for action in actions if isinstance(action, RemoveFile)}
    assert {"hello.yaml", "hello-words.yaml"} <= gone
    assert any("ONEAPP_K8S_HELLO_WORDS has no effect" in one for one in found.warnings)


def test_an_added_component_is_seen_by_the_whole_agent(tmp_path: Path) -> None:
    dropped_in(tmp_path)
    folders = (tmp_path, paths.packaged_services())
    master = Machine(Cloud(), "master", 101, ONEAPP_K8S_HELLO_ENABLED="YES")
    master.run(service_folders=folders)
    assert "https://charts.example.org" in master.files.text(MANIFESTS / "hello.yaml")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("switch: enabled", "switch: other.enabled", "other.enabled"),
        ("switch: enabled", "switch: 7", "expected a field"),
        ("switch: enabled", "switch: enabled\n  equals: [a]", "equals must be a text"),
        ("switch: enabled", "equals: cilium", "equals needs a switch"),
        ("switch: enabled", "switch: enabled\n  colour: red", "colour not understood"),
        ("switch: enabled", "switch: enabled\n  needs: [a]", "needs must be a mapping"),
        ("switch: enabled", "switch: enabled\n  refused: [{because: x}]", "either kind or key"),
        ("switch: enabled", "switch: enabled\n  addresses: [{kind: A}]", "at must be a text"),
        ("file: hello.yaml", "file: one-traefik.yaml", "written by"),
        ("file: hello.yaml", "file: rke2-hello.yaml", "rke2-"),
        ("file: hello.yaml", "file: Hello_1.yaml", "lower case"),
        (", template: hello.yaml.j2", "", "neither template nor replaced_by"),
        ("when: [words]", "when: [nothing]", "hello.nothing"),
        ("{name: hello, repo", "{repo", "name must be a text"),
    ],
)
def test_a_component_that_is_described_wrongly_is_refused_with_its_place(
    tmp_path: Path, old: str, new: str, said: str
) -> None:
    described = HELLO["service.yaml"].replace(old, new, 1)
    with pytest.raises(ServiceDefinitionError, match="hello") as caught:
        dropped_in(tmp_path, **{"service.yaml": described})
    assert said in str(caught.value)


IMAGES = "images: [{release: hello, reference: 'quay.io/example/hello:{version}'}]\n"
EVERYWHERE = HELLO["service.yaml"].replace("[master]", "[master, worker, storage]")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "worker, storage too.* roles: \\[master, worker, storage\\] in the service.yaml of"),
        ({"image.yaml": f"{IMAGES}nodes: [open-master, worker]\n"}, "nodes of worker too"),
        (
            {
                "service.yaml": EVERYWHERE,
                "parameters.yaml": HELLO["parameters.yaml"].replace(
                    "description: On.", "roles: [master], description: On."
                ),
            },
            "in the parameters.yaml of hello at ONEAPP_K8S_HELLO_ENABLED",
        ),
    ],
)
def test_images_for_nodes_that_do_not_read_the_switch_are_refused(
    tmp_path: Path, changes: Mapping[str, str], said: str
) -> None:
    with pytest.raises(ServiceDefinitionError, match=said) as caught:
        dropped_in(tmp_path, **{"image.yaml": IMAGES, **changes})
    assert str(caught.value).startswith("hello: image.yaml: ")


@pytest.mark.parametrize(
    ("changes", "needed_while_on"),
    [
        ({"image.yaml": IMAGES, "service.yaml": EVERYWHERE}, True),
        ({"image.yaml": IMAGES, "service.yaml": EVERYWHERE.replace("roles:", "# ")}, True),
        ({"image.yaml": f"{IMAGES}nodes: [master]\n"}, False),
        ({"image.yaml": "needs: {programs: [hello]}\n"}, False),
    ],
)
def test_images_of_an_added_component_keep_no_worker_from_joining(
    tmp_path: Path, changes: Mapping[str, str], needed_while_on: bool
) -> None:
    services = dropped_in(tmp_path, **changes)
    for switch, is_needed in (("NO", False), ("YES", needed_while_on)):
        context = Context({**NODE, f"{K8S}HELLO_ENABLED": switch}, "test")
        needed = Supplies(decide("worker", context, services).params, services, "worker").needed
        assert ("hello" in needed) is is_needed, switch


def test_a_component_without_a_switch_is_always_on(tmp_path: Path) -> None:
    described = HELLO["service.yaml"].replace("  switch: enabled\n", "", 1)
    services = dropped_in(tmp_path, **{"service.yaml": described})
    assert "hello" in components_on(decided(services).params, services)


def test_an_administrators_template_wins_over_the_packaged_one(tmp_path: Path) -> None:
    template = tmp_path / "canal" / "templates" / "rke2-canal-config.yaml.j2"
    template.parent.mkdir(parents=True)
    template.write_text("# {{ header }}\nkind: Own\n", encoding="utf-8")
    services = load_services((tmp_path, paths.packaged_services()))
    made = build_manifests(decided(services, CNI_PLUGIN="canal").params, services)
    texts = {file.name: file.text for file in made}
    assert texts["rke2-canal-config.yaml"].endswith("\nkind: Own\n")


def test_no_drop_in_takes_the_name_under_which_components_are_read(tmp_path: Path) -> None:
    folder = tmp_path / "components"
    folder.mkdir()
    (folder / "service.yaml").write_text("summary: Own.\n", encoding="utf-8")
    with pytest.raises(ServiceDefinitionError, match="no drop-in may be called components"):
        load_services((tmp_path,))


def test_only_a_switch_can_be_implied(tmp_path: Path) -> None:
    text = HELLO["parameters.yaml"].replace("type: text,", "type: text, implied_by: [OTHER],", 1)
    with pytest.raises(ServiceDefinitionError, match="implied_by is for switches"):
        dropped_in(tmp_path, **{"parameters.yaml": text})


# ---- by the project's own schemas


def test_every_combination_of_switches_fits_the_schemas() -> None:
    figures = judge(documents(combinations()), load_schemas(OWN))
    assert figures.failed == []
    assert not figures.without_values_schema
    assert figures.by_kind.total() > 1000


def test_the_command_fails_on_a_kind_without_schema(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("helm.cattle.io.yaml", "cilium.io.yaml"):
        (tmp_path / name).write_text((OWN / name).read_text(encoding="utf-8"), encoding="utf-8")
    assert main(["--crds", str(tmp_path)]) == 1
    assert "metallb.io/v1beta1 IPAddressPool: no schema" in capsys.readouterr().out
