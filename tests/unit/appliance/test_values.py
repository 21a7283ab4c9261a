"""What each type accepts, and what it refuses."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Network

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from appliance.secret import Secret
from appliance.values import (
    TYPES,
    AddressWithPrefix,
    HostAndPort,
    InterfaceItem,
    Placeholder,
    PortForward,
    Rejected,
)


@dataclass(frozen=True)
class Limits:
    """What an entry demands."""

    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[str, ...] = ()
    pattern: str | None = None


NONE = Limits()
BYTE = Limits(minimum=1, maximum=255)
ADDRESS = IPv4Address("10.0.0.1")
PLACEHOLDER = Placeholder("ETH0_VIP0")

GOOD: list[tuple[str, str, Limits, object]] = [
    *(("boolean", text, NONE, True) for text in ("YES", "yes", "Yes", "true", "TRUE", "on", "1")),
    *(("boolean", text, NONE, False) for text in ("NO", "no", "false", "off", "OFF", "0", " no ")),
    ("integer", "0", NONE, 0),
    ("integer", "7", BYTE, 7),
    ("integer", " 7 ", BYTE, 7),
    ("integer", "007", BYTE, 7),
    ("integer", "+7", BYTE, 7),
    ("integer", "-7", NONE, -7),
    ("integer", "255", BYTE, 255),
    ("integer", "123456789012345678", NONE, 123456789012345678),
    ("seconds", "1", NONE, 1.0),
    ("seconds", "0.5", NONE, 0.5),
    ("seconds", "30.125", NONE, 30.125),
    ("port", "1", NONE, 1),
    ("port", "65535", NONE, 65535),
    ("port", " 443 ", NONE, 443),
    ("ipv4", "10.0.0.1", NONE, ADDRESS),
    ("ipv4", " 10.0.0.1\n", NONE, ADDRESS),
    ("ipv4_with_prefix", "10.0.0.1", NONE, AddressWithPrefix(ADDRESS)),
    ("ipv4_with_prefix", "10.0.0.1/24", NONE, AddressWithPrefix(ADDRESS, 24)),
    ("ipv4_with_prefix", "10.0.0.1/0", NONE, AddressWithPrefix(ADDRESS, 0)),
    ("ipv4_with_prefix", "10.0.0.1/32", NONE, AddressWithPrefix(ADDRESS, 32)),
    ("netmask", "255.255.255.0", NONE, 24),
    ("netmask", "0.0.0.0", NONE, 0),
    ("netmask", "255.255.255.255", NONE, 32),
    ("netmask", "20", NONE, 20),
    ("ipv4_or_placeholder", "10.0.0.1", NONE, AddressWithPrefix(ADDRESS)),
    ("ipv4_or_placeholder", "<ETH0_VIP0>", NONE, PLACEHOLDER),
    ("ipv4_or_placeholder", "<ETH0_VIP0>/24", NONE, PLACEHOLDER),
    ("ipv4_or_placeholder", "<ETH10_EP2>", NONE, Placeholder("ETH10_EP2")),
    ("ipv4_or_placeholder", "<ONEAPP_VROUTER_ETH0_VIP0>", NONE, PLACEHOLDER),
    ("host", "10.0.0.1", NONE, "10.0.0.1"),
    ("host", "node-1.cluster.local", NONE, "node-1.cluster.local"),
    ("host", "node_1.", NONE, "node_1."),
    ("host", "1a", NONE, "1a"),
    ("url", "http://10.0.0.1:5030", NONE, "http://10.0.0.1:5030"),
    ("url", "https://one.example/gate/", NONE, "https://one.example/gate"),
    ("url", "http://one.example", NONE, "http://one.example"),
    ("choice", "AUTO", Limits(choices=("auto", "vrouter")), "auto"),
    ("text", "anything\nat all", NONE, "anything\nat all"),
    ("text", "abc", Limits(pattern="[a-c]+"), "abc"),
    ("secret", "s3cr3t", NONE, Secret("s3cr3t")),
    ("base64_text", "aGVsbG8K", NONE, "hello\n"),
    ("base64_text", "aGVs\nbG8K\n", NONE, "hello\n"),
    ("base64_text", "plain text, not encoded", NONE, "plain text, not encoded"),
    ("base64_text", "/wD/", NONE, "/wD/"),
    ("base64_text", "/etc/ssl/ca1", NONE, "/etc/ssl/ca1"),
    ("interface_list", "eth0", NONE, (InterfaceItem("eth0"),)),
    ("interface_list", "eth0,eth1", NONE, (InterfaceItem("eth0"), InterfaceItem("eth1"))),
    ("interface_list", " eth0 ;, eth1 ", NONE, (InterfaceItem("eth0"), InterfaceItem("eth1"))),
    ("interface_list", "!eth1", NONE, (InterfaceItem("eth1", excluded=True),)),
    ("interface_list", "eth0/10.0.0.1@53", NONE, (InterfaceItem("eth0", "10.0.0.1", 53),)),
    ("interface_list", "eth0@53", NONE, (InterfaceItem("eth0", port=53),)),
    ("interface_list", "10.0.0.1", NONE, (InterfaceItem(None, "10.0.0.1"),)),
    ("interface_list", "! , ;", NONE, ()),
    ("interface_list", "eth0/ eth1@", NONE, (InterfaceItem("eth0"), InterfaceItem("eth1"))),
    ("port_forward", "80:10.0.0.1", NONE, PortForward(None, 80, ADDRESS)),
    ("port_forward", "80:10.0.0.1:8080", NONE, PortForward(None, 80, ADDRESS, 8080)),
    ("port_forward", "80:10.0.0.1:", NONE, PortForward(None, 80, ADDRESS)),
    ("port_forward", "10.0.0.1:80:10.0.0.1:81", NONE, PortForward(ADDRESS, 80, ADDRESS, 81)),
    ("port_forward", " 10.0.0.1 : 80 : 10.0.0.1 ", NONE, PortForward(ADDRESS, 80, ADDRESS)),
    ("port_forward", "<ETH0_VIP0>:80:10.0.0.1", NONE, PortForward(PLACEHOLDER, 80, ADDRESS)),
    ("host_and_port", "ep0.eth0.vr:9345", NONE, HostAndPort("ep0.eth0.vr", 9345)),
    ("host_and_port", " 10.0.0.1 ", NONE, HostAndPort("10.0.0.1")),
    ("host_and_port", "https://api.example.org:6443/", NONE, HostAndPort("api.example.org", 6443)),
    ("host_and_port", "[2001:DB8::1]:6443", NONE, HostAndPort("2001:db8::1", 6443)),
    ("host_and_port", "[2001:db8::1]", NONE, HostAndPort("2001:db8::1")),
    (
        "host_list",
        "localhost, 10.0.0.1;2001:DB8::1",
        NONE,
        ("localhost", "10.0.0.1", "2001:db8::1"),
    ),
    ("host_list", "*.apps.example.org,,a,a", NONE, ("*.apps.example.org", "a")),
    ("host_list", " , ", NONE, ()),
    ("word_list", " a,b;c  d,a ", NONE, ("a", "b", "c", "d")),
    ("network_pair", " 10.42.0.0/16 ", NONE, (IPv4Network("10.42.0.0/16"),)),
    (
        "network_pair",
        "10.42.0.0/16, 2001:db8:42::/56",
        NONE,
        (IPv4Network("10.42.0.0/16"), IPv6Network("2001:db8:42::/56")),
    ),
    *(
        ("proxy", text, NONE, Secret(text))
        for text in (
            "http://proxy.example.org:3128",
            "https://user:p$w%22d@10.0.0.1/",
            "socks5://[2001:db8::1]:1080",
            "proxy.example.org:3128",
        )
    ),
]

ARABIC_SEVEN, FULLWIDTH_ONE, SUPERSCRIPT_TWO = "\u0667", "\uff11", "\u00b2"
BAD: list[tuple[str, str, Limits]] = [
    *(("boolean", text, NONE) for text in ("maybe", "y", "2", "YES!", "yes no", FULLWIDTH_ONE)),
    *(
        ("integer", text, BYTE)
        for text in ("0", "256", "-1", "1.0", "1e2", "0x10", "seven", "1_0", "1 0", "9" * 5000)
    ),
    *(("integer", text, BYTE) for text in (ARABIC_SEVEN, FULLWIDTH_ONE, SUPERSCRIPT_TWO, "+", "-")),
    *(("seconds", text, NONE) for text in ("-1", "1s", ".5", "1.", "inf", "nan", "1e3", "9" * 400)),
    *(("seconds", text, NONE) for text in (ARABIC_SEVEN, f"1.{ARABIC_SEVEN}")),
    ("seconds", "0.001", Limits(minimum=0.01)),
    *(("port", text, NONE) for text in ("0", "65536", "-1", "+1", "http", "80 81", "9" * 5000)),
    *(("port", text, NONE) for text in (ARABIC_SEVEN, FULLWIDTH_ONE * 3, SUPERSCRIPT_TWO)),
    *(
        ("ipv4", text, NONE)
        for text in ("10.0.0", "10.0.0.256", "10.0.0.01", "010.0.0.1", "10.0.0.1.2", "10.0.0.-1")
    ),
    *(
        ("ipv4", text, NONE)
        for text in ("::1", "localhost", "0x0a.0.0.1", "10.0.0.1/24", "167772161")
    ),
    ("ipv4", f"10.0.0.{ARABIC_SEVEN}", NONE),
    *(
        ("ipv4_with_prefix", text, NONE)
        for text in ("10.0.0.1/33", "10.0.0.1/-1", "10.0.0.1/024", "/24", "10.0.0.1/24/24")
    ),
    ("ipv4_with_prefix", f"10.0.0.1/{ARABIC_SEVEN}", NONE),
    ("ipv4_with_prefix", "10.0.0.1/255.255.255.0", NONE),
    *(
        ("netmask", text, NONE)
        for text in (
            "33",
            "-1",
            "255.0.255.0",
            "0.0.0.255",
            "255.255.255.256",
            "255.255",
            "/24",
            "x",
        )
    ),
    ("netmask", f"{ARABIC_SEVEN}", NONE),
    *(
        ("ipv4_or_placeholder", text, NONE)
        for text in ("<ETH0>", "<eth0_vip0>", "ETH0_VIP0", "<ETH0_VIP0", "<ETH0_VIP0>x", "<>", "x")
    ),
    ("ipv4_or_placeholder", f"<ETH{ARABIC_SEVEN}_VIP0>", NONE),
    *(
        ("host", text, NONE)
        for text in (
            "10.0.0.256",
            "1.2.3",
            "a b",
            "-a",
            "a..b",
            "a" * 64,
            "a." * 130,
            "ä",
            "a/b",
            "a:1",
        )
    ),
    *(
        ("url", text, NONE)
        for text in ("10.0.0.1", "ftp://x", "http://", "http:///x", "http://u:p@x", "http://x y")
    ),
    *(
        ("url", text, NONE)
        for text in ("http://[::1", "http://x:port", "http://x:99999", "http://:80")
    ),
    *(("choice", text, Limits(choices=("auto",))) for text in ("aut", "auto,auto", "manual")),
    *(("text", text, Limits(pattern="[a-c]+")) for text in ("abcd", "abc\n", "x")),
    *(("secret", text, Limits(pattern="[a-c]+")) for text in ("abcd", "abc\n", "x")),
    *(
        ("interface_list", text, NONE)
        for text in ("lo/10.0.0.1", "eth0@0", "eth0@x", "ETH0/10.0.0.1")
    ),
    *(
        ("port_forward", text, NONE)
        for text in (
            "80",
            "80:",
            "0:10.0.0.1",
            "-1:10.0.0.1",
            "80:10.0.0.1:0",
            "1:2:3:4:5",
            "a:80:b",
        )
    ),
    *(
        ("port_forward", text, NONE)
        for text in ("10.0.0.1:80", "80:10.0.0.1:80:80", ":80:10.0.0.1")
    ),
    *(
        ("host_and_port", text, NONE)
        for text in (
            *(":9345", "a:", "a:0", "a:70000", "a:rke2", "10.0.0.256:1", "a b:1", "http://a:1"),
            *("https://a:1/path", "2001:db8::1", "[10.0.0.1]:1", "[fe80::1%eth0]:1", "https://"),
        )
    ),
    *(("host_list", text, NONE) for text in ("a,-", "10.0.0.256", "a/b", "a:1", "*.", "x.*.y")),
    *(("host_list", text, NONE) for text in ("${vnf.TEMPLATE.CONTEXT.ETH0_IP}", "fe80::1%eth0")),
    *(
        ("network_pair", text, NONE)
        for text in (
            *("10.42.0.0", "10.42.0.1/16", "10.42.0.0/33", "pods", ",", "10.42.0.0/16,"),
            *("10.42.0.0/16,10.43.0.0/16", "10.42.0.0/16 2001:db8::/56"),
        )
    ),
    *(
        ("proxy", text, NONE)
        for text in (
            *('http://user:p$w"d @proxy.example.org:3128', "http://u:a/b@proxy", "ftp://proxy"),
            *("http://", "http://proxy:0", "http://proxy:99999", "http://proxy/path", "a b"),
            *("http://u:%zz@proxy", "http://[::1"),
        )
    ),
]


@pytest.mark.parametrize(("kind", "text", "limits", "value"), GOOD)
def test_a_good_text_becomes_its_value(kind: str, text: str, limits: Limits, value: object) -> None:
    assert TYPES[kind].parse(text, limits) == value


@pytest.mark.parametrize(("kind", "text", "limits"), BAD)
def test_a_bad_text_is_refused_with_what_is_accepted(kind: str, text: str, limits: Limits) -> None:
    with pytest.raises(Rejected, match="expected") as caught:
        TYPES[kind].parse(text, limits)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("kind", sorted(TYPES))
@given(text=st.text(min_size=1))
@example(text="0\x1f")
@example(text="\x1c1.5")
def test_any_text_is_accepted_or_refused_in_words(kind: str, text: str) -> None:
    try:
        TYPES[kind].parse(text, Limits(choices=("auto",)))
    except Rejected as rejected:
        assert str(rejected)


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        (BYTE, "from 1 to 255"),
        (Limits(minimum=1), "of at least 1"),
        (Limits(maximum=255), "of at most 255"),
        (NONE, "an integer$"),
    ],
)
def test_a_refused_number_tells_the_limits(limits: Limits, words: str) -> None:
    with pytest.raises(Rejected, match=f"integer.*{words}|{words}"):
        TYPES["integer"].parse("x", limits)


@pytest.mark.parametrize("number", [10**17, -(10**17)])
def test_a_huge_number_is_outside_the_limits(number: int) -> None:
    with pytest.raises(Rejected, match="from 1 to 255"):
        TYPES["integer"].parse(str(number), BYTE)


def test_a_refused_secret_is_not_part_of_what_is_said() -> None:
    with pytest.raises(Rejected) as caught:
        TYPES["secret"].parse("pl4nt3d", Limits(pattern="[a-c]+"))
    assert "pl4nt3d" not in str(caught.value)


def test_a_refused_proxy_is_not_part_of_what_is_said() -> None:
    with pytest.raises(Rejected) as caught:
        TYPES["proxy"].parse("http://user:pl4n ted@proxy.example.org", NONE)
    assert "pl4n" not in str(caught.value)


def test_a_secret_shows_itself_as_asterisks() -> None:
    secret = Secret("pl4nt3d")
    assert f"{secret} {secret!r} {[secret]}" == "*** *** [***]"
    assert secret.reveal() == "pl4nt3d"
    assert secret == Secret("pl4nt3d")
    assert secret != Secret("other")
    assert secret != "pl4nt3d"
    assert not Secret("")


@pytest.mark.parametrize(
    "text", ["eth0", "!eth1", "eth0/10.0.0.1", "eth0/10.0.0.1@53", "eth0@53", "10.0.0.1"]
)
def test_an_interface_item_is_written_as_it_was_given(text: str) -> None:
    (item,) = TYPES["interface_list"].parse(text, NONE)
    assert str(item) == text


@pytest.mark.parametrize("text", ["10.0.0.1", "10.0.0.1/24", "<ETH0_VIP0>"])
def test_an_address_is_written_as_it_was_given(text: str) -> None:
    assert str(TYPES["ipv4_or_placeholder"].parse(text, NONE)) == text
