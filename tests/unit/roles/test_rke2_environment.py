"""The environment of RKE2's units."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roles.common.endpoints import build_node
from roles.common.rke2environment import build_environment, quote, render_environment
from tests.unit.roles.nodes import params_of

PROXY = "http://proxy.example.org:3128"


def environment(**changes: str | None) -> dict[str, str]:
    params = params_of("worker", **changes)
    return dict(build_environment(params, build_node(params)))


def exceptions(**changes: str | None) -> list[str]:
    return environment(ONEAPP_K8S_HTTP_PROXY=PROXY, **changes)["NO_PROXY"].split(",")


def test_without_a_proxy_there_is_nothing_to_set() -> None:
    assert environment(ONEAPP_K8S_NO_PROXY="10.0.0.0/8") == {}
    assert render_environment({}) == ""


def test_each_proxy_is_set_as_it_was_given() -> None:
    found = environment(
        ONEAPP_K8S_HTTP_PROXY=PROXY, ONEAPP_K8S_HTTPS_PROXY="http://u:p$w@10.9.9.9:1"
    )
    assert found["HTTP_PROXY"] == PROXY
    assert found["HTTPS_PROXY"] == "http://u:p$w@10.9.9.9:1"


def test_the_cluster_and_what_it_rests_on_is_reached_directly() -> None:
    assert exceptions() == [
        "127.0.0.0/8",
        "localhost",
        "10.2.11.86",
        "10.42.0.0/16",
        "10.43.0.0/16",
        ".svc",
        ".cluster.local",
        "172.20.0.0/24",
        "172.20.0.86",
        "203.0.113.40",
    ]


@pytest.mark.parametrize(
    ("changes", "item"),
    [
        ({"ONEAPP_RKE2_SUPERVISOR_EP": "sup.example.org:9345"}, "sup.example.org"),
        ({"ONEAPP_K8S_CONTROL_PLANE_EP": "[2001:db8::1]:6443"}, "2001:db8::1"),
        ({"ONEAPP_VNF_HAPROXY_LB2_IP": "10.2.11.99"}, "10.2.11.99"),
        ({"ONEAPP_K8S_CLUSTER_CIDR": "10.142.0.0/16"}, "10.142.0.0/16"),
        ({"ONEAPP_K8S_SERVICE_CIDR": "10.143.0.0/16"}, "10.143.0.0/16"),
        ({"ETH1_IP": "192.0.2.7", "ETH1_MASK": "255.255.255.128"}, "192.0.2.0/25"),
        ({"ONEGATE_ENDPOINT": "https://gate.example.org/x"}, "gate.example.org"),
        ({"ONEAPP_RKE2_EXTRA_CONFIG": "cluster-domain: k8s.example\n"}, ".k8s.example"),
    ],
)
def test_whatever_the_cluster_is_reached_by_is_an_exception(
    changes: dict[str, str | None], item: str
) -> None:
    assert item in exceptions(**changes)


def test_a_users_list_is_added_to() -> None:
    own = exceptions()
    assert exceptions(ONEAPP_K8S_NO_PROXY="10.0.0.0/8, .example.org localhost") == [
        *own,
        "10.0.0.0/8",
        ".example.org",
    ]


# --- quoting --------------------------------------------------------------------------------------

ODD = ["a b", 'a"b', "a'b", "a$HOME", "a\\b", "a`id`", "#x", "%h", "a=b", "a\\", "é", "${A}"]


def read_back(line: str) -> str:
    """Read a quoted value as systemd does (src/basic/env-file.c, parse_env_file_internal)."""
    inside = re.fullmatch(r'"(.*)"', line, re.DOTALL)
    assert inside
    assert not re.search(r'(?<!\\)(?:\\\\)*"', inside[1])
    return re.sub(r'\\(["\\`$])', r"\1", inside[1])


@pytest.mark.parametrize("value", ODD)
def test_a_quoted_value_reads_back_as_it_was(value: str) -> None:
    assert read_back(quote(value)) == value


@given(st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"])))
def test_any_printable_value_reads_back_as_it_was(value: str) -> None:
    assert read_back(quote(value)) == value


def test_the_file_says_who_wrote_it() -> None:
    text = render_environment({"HTTP_PROXY": "http://u:p$w@x", "NO_PROXY": "a,b"})
    assert text.splitlines()[0].startswith("# Written by oneke-agent")
    assert text.splitlines()[1:] == ['HTTP_PROXY="http://u:p\\$w@x"', 'NO_PROXY="a,b"']
