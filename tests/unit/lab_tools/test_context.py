"""Contexts of lab VMs are of the form that OpenNebula writes."""

from __future__ import annotations

import shlex

import pytest

from tests.lab.basics import LabError
from tests.lab.context import (
    PRIVATE,
    PUBLIC,
    context_text,
    mac_of,
    nic_context,
    override,
    vnf_context,
)


def test_values_are_single_quoted_and_read_back_by_a_shell() -> None:
    values = {"B": "it's\ntwo lines", "A": '"$HOME" `id` \\'}
    text = context_text(values)
    assert text.splitlines()[1].startswith("A=")
    assert shlex.split(text, comments=True) == [f"{key}={values[key]}" for key in sorted(values)]


def test_a_key_that_is_no_variable_name_is_refused() -> None:
    with pytest.raises(LabError, match="ETH0-IP"):
        context_text({"ETH0-IP": "x"})


def test_the_mac_comes_from_the_address() -> None:
    assert mac_of("172.20.0.121") == "02:00:ac:14:00:79"


def test_a_nic_has_every_key_mostly_empty() -> None:
    values = nic_context(1, PRIVATE, "172.20.0.121")
    assert len(values) == 22
    assert values["ETH1_IP"] == "172.20.0.121"
    assert values["ETH1_MASK"] == "255.255.255.0"
    assert values["ETH1_GATEWAY"] == ""
    assert nic_context(0, PUBLIC, "")["ETH0_IP"] == ""


def test_a_gateways_context_can_be_changed_key_by_key() -> None:
    values = vnf_context(1, 4)
    assert values["ETH0_IP"] == "10.2.11.201"
    assert values["ONEAPP_VNF_HAPROXY_LB1_PORT"] == "6443"
    changed = override(values, {"ONEAPP_VNF_NAT4_ENABLED": None, "ETH0_MTU": 1400})
    assert "ONEAPP_VNF_NAT4_ENABLED" not in changed
    assert changed["ETH0_MTU"] == "1400"
    assert len(changed) == len(values) - 1
