"""What is refused or doubted in a node's parameters for RKE2."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.context import Context
from appliance.errors import Problem
from appliance.values import Rejected
from roles.common.rke2check import check_rke2
from roles.common.rke2extra import parse_extra_config
from roles.common.rke2keys import LISTED_KEYS, known_keys, near_key, parse_help
from roles.common.rke2params import pinned_token
from tests.unit.roles.nodes import NODE, params_of, parse_node

EXTRA = "ONEAPP_RKE2_EXTRA_CONFIG"


def problems(**changes: str | None) -> list[Problem]:
    return check_rke2(params_of("master", **changes))[0]


def warnings(**changes: str | None) -> list[str]:
    return check_rke2(params_of("master", **changes))[1]


def test_a_usual_node_has_neither_problems_nor_warnings() -> None:
    assert check_rke2(params_of()) == ([], [])


@pytest.mark.parametrize(
    ("changes", "key", "words"),
    [
        ({"ONEAPP_K8S_NODE_NIC": "eth5"}, "ONEAPP_K8S_NODE_NIC", "has eth0"),
        (
            {"ONEAPP_K8S_SERVICE_CIDR": "10.42.128.0/20"},
            "ONEAPP_K8S_SERVICE_CIDR",
            "overlaps ONEAPP_K8S_CLUSTER_CIDR=10.42.0.0/16",
        ),
        (
            {"ONEAPP_K8S_CLUSTER_CIDR": "10.42.0.0/16,2001:db8::/56"},
            "ONEAPP_K8S_SERVICE_CIDR",
            "the same kinds of addresses",
        ),
        (
            {
                "ONEAPP_K8S_CLUSTER_CIDR": "2001:db8::/56",
                "ONEAPP_K8S_SERVICE_CIDR": "2001:db8::/112",
            },
            "ONEAPP_K8S_SERVICE_CIDR",
            "overlaps",
        ),
        ({"ONEAPP_RKE2_NODE_LABELS": "rack"}, "ONEAPP_RKE2_NODE_LABELS", "expected a label"),
        ({"ONEAPP_RKE2_NODE_LABELS": "-a=b"}, "ONEAPP_RKE2_NODE_LABELS", "expected a label"),
        (
            {"ONEAPP_RKE2_NODE_LABELS": "node-role.kubernetes.io/worker=true"},
            "ONEAPP_RKE2_NODE_LABELS",
            "would not start",
        ),
        (
            {"ONEAPP_RKE2_NODE_LABELS": "oneke.opennebula.io/vm-id=1"},
            "ONEAPP_RKE2_NODE_LABELS",
            "the agent's own",
        ),
        (
            {"ONEAPP_RKE2_NODE_LABELS": "oneke.opennebula.io/service-id=1"},
            "ONEAPP_RKE2_NODE_LABELS",
            "the agent's own",
        ),
        ({"ONEAPP_RKE2_NODE_TAINTS": "a=b"}, "ONEAPP_RKE2_NODE_TAINTS", "expected a taint"),
        ({"ONEAPP_RKE2_NODE_TAINTS": "a=b:No"}, "ONEAPP_RKE2_NODE_TAINTS", "expected a taint"),
        ({"ONEAPP_K8S_HASH": "ab" * 32}, "ONEAPP_K8S_TOKEN", "missing"),
        (
            {"ONEAPP_K8S_TOKEN": "secret", "ONEAPP_VROUTER_ETH0_VIP0": None},
            "ONEAPP_K8S_ADDRESS",
            "does not tell where to join",
        ),
        ({EXTRA: "- a\n- b\n"}, EXTRA, "key: value"),
        ({EXTRA: "just words"}, EXTRA, "key: value"),
        ({EXTRA: "a: [b\n"}, EXTRA, "expected YAML; line 2"),
        ({EXTRA: "kubelet-arg: {a: b}\n"}, EXTRA, "kubelet-arg: expected"),
        ({EXTRA: "kubelet-arg: [[a]]\n"}, EXTRA, "kubelet-arg: expected"),
        ({EXTRA: "node-lable: a=b\n"}, EXTRA, "did you mean node-label?"),
        ({EXTRA: "tls_san: [a]\n"}, EXTRA, "did you mean tls-san?"),
        ({EXTRA: "--kubelet-arg: a\n"}, EXTRA, "did you mean kubelet-arg?"),
        ({EXTRA: "kubelet-args+: [a]\n"}, EXTRA, "did you mean kubelet-arg?"),
        ({EXTRA: "node-label: rack\n"}, EXTRA, "node-label: rack: expected a label"),
        ({EXTRA: "node-label+: [kubernetes.io/x=y]\n"}, EXTRA, "would not start"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(
    changes: dict[str, str | None], key: str, words: str
) -> None:
    (problem,) = problems(**changes)
    assert problem.key == key
    assert words in problem.accepted


@pytest.mark.parametrize(
    "key",
    [
        *("server", "token", "token-file", "agent-token", "agent-token-file", "node-name"),
        *("node-ip", "with-node-id", "cluster-reset", "cluster-reset-restore-path", "data-dir"),
        *("disable-etcd", "datastore-endpoint", "write-kubeconfig", "token+"),
    ],
)
def test_what_the_agent_owns_is_not_to_be_set(key: str) -> None:
    (problem,) = problems(**{EXTRA: f"{key}: pl4nted\n"})
    assert "not to be set here" in problem.accepted
    assert "pl4nted" not in str(problem)


def test_an_unknown_key_is_warned_about() -> None:
    assert problems(**{EXTRA: "flannel-backend: vxlan\n"}) == []
    (warning,) = warnings(**{EXTRA: "flannel-backend: vxlan\n"})
    assert "flannel-backend is not known to RKE2" in warning


def test_every_wrong_key_is_told_at_once() -> None:
    found = problems(**{EXTRA: "server: a\nnode-lable: b\ntoken: c\n"})
    assert len(found) == 3


def test_own_configuration_may_come_in_base64() -> None:
    text = base64.b64encode(b"node-lable: a=b\n").decode()
    assert len(problems(**{EXTRA: text})) == 1


def test_a_key_that_the_installed_rke2_knows_is_no_misspelt_one() -> None:
    changes = {EXTRA: "kubelet-args: [a]\n"}
    known = known_keys(server_help=HELP + "   --kubelet-args value  (agent) new\n")
    assert check_rke2(params_of("master", **changes), known) == ([], [])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"ONEAPP_K8S_NO_PROXY": "10.0.0.0/8"}, "no proxy is given"),
        (
            {"ONEAPP_K8S_CLUSTER_CIDR": "172.20.0.0/16"},
            "ONEAPP_K8S_CLUSTER_CIDR=172.20.0.0/16 overlaps 172.20.0.0/24, the network of eth0",
        ),
    ],
)
def test_what_is_doubtful_is_warned_about(changes: dict[str, str | None], words: str) -> None:
    (warning,) = warnings(**changes)
    assert words in warning
    assert problems(**changes) == []


def test_a_guessed_mask_is_no_ground_for_a_warning() -> None:
    assert warnings(ETH0_IP="10.77.1.61", ETH0_MASK=None, ETH0_NETWORK=None) == []


@pytest.mark.parametrize(
    "label",
    [
        *("a=b", "example.org/rack=r7", "zone=", "A_b.c-d=E", "node.kubernetes.io/x=y"),
        *(
            "topology.kubernetes.io/zone=z1",
            "kubernetes.io/os=linux",
            "x.kubelet.kubernetes.io/a=b",
        ),
    ],
)
def test_a_label_that_a_node_may_give_itself_is_accepted(label: str) -> None:
    assert problems(ONEAPP_RKE2_NODE_LABELS=label) == []


@pytest.mark.parametrize("taint", ["a=b:NoSchedule", "a:NoExecute", "x.y/a=b:PreferNoSchedule"])
def test_a_taint_is_accepted(taint: str) -> None:
    assert problems(ONEAPP_RKE2_NODE_TAINTS=taint) == []


@given(st.text())
def test_any_text_is_read_or_refused_in_words(text: str) -> None:
    try:
        extra = parse_extra_config(text)
    except Rejected as rejected:
        assert str(rejected)
    else:
        assert all(isinstance(key, str) for key in extra)


@pytest.mark.parametrize("name", ["ONEAPP_K8S_HTTP_PROXY", "ONEAPP_K8S_HTTPS_PROXY"])
def test_a_proxy_that_go_would_ignore_is_refused_and_its_password_not_shown(name: str) -> None:
    context = Context({**NODE, name: 'http://user:pl4n"ted @proxy.example.org:3128'}, "test")
    (problem,) = parse_node(context)[1]
    assert str(problem).startswith(f"{name}=***: expected a URL")
    assert "pl4n" not in str(problem)


def test_a_proxys_password_is_not_part_of_how_parameters_print() -> None:
    params = params_of(ONEAPP_K8S_HTTP_PROXY="http://user:pl4nted@proxy.example.org:3128")
    assert "pl4nted" not in repr(params)


# --- the keys that RKE2 knows ---------------------------------------------------------------------

HELP = """\
NAME:
   rke2 server - Run management server

USAGE:
   rke2 server [OPTIONS]

OPTIONS:
   --config FILE, -c FILE                     (config) Load configuration from FILE \
(default: "/etc/rancher/rke2/config.yaml") [$RKE2_CONFIG_FILE]
   --debug                                    (logging) Turn on debug logs [$RKE2_DEBUG]
   --tls-san value [ --tls-san value ]        (listener) Add additional hostnames
   --token value, -t value                    (cluster) Secret, see --token-file [$RKE2_TOKEN]
   -x value, --extra-thing value              (made up)
   --container-runtime-endpoint value         (agent/runtime) Use another; when used \
with --docker this sets the docker socket path
   --help, -h                                 show help
"""


def test_options_are_read_from_the_help_text_and_not_from_descriptions() -> None:
    assert parse_help(HELP) == {
        "config",
        "debug",
        "tls-san",
        "token",
        "extra-thing",
        "container-runtime-endpoint",
    }


@pytest.mark.parametrize("text", ["", "No help topic for 'server'\n", "rke2: command not found"])
def test_without_a_help_text_the_list_is_taken(text: str) -> None:
    assert known_keys(text, text) == LISTED_KEYS


def test_agents_understand_less_than_servers() -> None:
    assert LISTED_KEYS.agent < LISTED_KEYS.server
    assert {"tls-san", "cni", "cluster-cidr", "disable", "agent-token"} <= (
        LISTED_KEYS.server - LISTED_KEYS.agent
    )


@pytest.mark.parametrize("key", sorted(LISTED_KEYS.server))
def test_a_known_key_that_is_misspelt_is_recognised(key: str) -> None:
    if len(key) > 5:
        assert near_key(key[:3] + key[4:], LISTED_KEYS.every) is not None
    assert near_key(key.replace("-", "_").upper(), LISTED_KEYS.every) == key


@pytest.mark.parametrize("key", ["flannel-backend", "vpn-auth", "rootless", "x", "cluster-init"])
def test_a_key_like_none_is_no_misspelt_one(key: str) -> None:
    assert near_key(key, LISTED_KEYS.every) is None


# --- tokens by hand -------------------------------------------------------------------------------

HASH = "AB" * 32


@pytest.mark.parametrize(
    ("token", "ca_hash", "expected"),
    [
        (None, None, None),
        ("s3cr3t", None, "s3cr3t"),
        ("s3cr3t", HASH, f"K10{HASH.lower()}::node:s3cr3t"),
        ("s3cr3t", f"sha256:{HASH}", f"K10{HASH.lower()}::node:s3cr3t"),
        ("abcdef.0123456789abcdef", HASH, f"K10{HASH.lower()}::abcdef.0123456789abcdef"),
        ("K10feed::server:feed", HASH, "K10feed::server:feed"),
    ],
)
def test_a_token_by_hand_is_pinned_to_the_ca(
    token: str | None, ca_hash: str | None, expected: str | None
) -> None:
    params = params_of(ONEAPP_K8S_TOKEN=token, ONEAPP_K8S_HASH=ca_hash)
    found = pinned_token(params.rke2, "node")
    assert (found.reveal() if found else None) == expected
