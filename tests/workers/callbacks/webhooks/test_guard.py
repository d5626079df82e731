"""What webhooks may be sent to: public addresses over https, and what the operator lists."""

import socket
from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.workers.callbacks.webhooks.addresses import is_public, literal
from headrace.workers.callbacks.webhooks.guard import ReceiverGuard, Refused

PRIVATE = """
    127.0.0.1 127.255.255.254 0.0.0.0 10.0.0.1 10.255.255.255 172.16.0.1 172.31.255.255 192.168.1.1
    169.254.169.254 100.64.0.1 100.127.255.255 100.100.100.200 168.63.129.16 192.0.0.192 192.0.2.1
    192.88.99.1 198.18.0.1 198.19.255.255 198.51.100.1 203.0.113.1 224.0.0.1 239.255.255.255 240.0.0.1
    255.255.255.255 2130706433 0x7f000001 0x7F.0.0.1 0177.0.0.1 017700000001 127.1 127.0.1 0 10.1 0xa9fea9fe
    2852039166 0251.0376.0251.0376 169.254.43518 127.0.0.1. 000000177.0.0.1 0x7f.1
    [::1] [::] [::ffff:127.0.0.1] [::ffff:7f00:1] [::FFFF:10.0.0.1] [::ffff:a9fe:a9fe] [::127.0.0.1]
    [::10.0.0.1] [0:0:0:0:0:ffff:7f00:1] [64:ff9b::7f00:1] [64:ff9b::10.0.0.1] [64:ff9b:1::8.8.8.8]
    [2002:7f00:1::] [2002:a00:1::1] [2002:808:808::1] [2001:0:7f00:1::] [2001::1] [2001:db8::1] [3fff::1]
    [fe80::1] [fec0::1] [fc00::1] [fd00:ec2::254] [fd12:3456::1] [ff02::1] [ff0e::1] [100::1] [5f00::1]
    [4000::1] [ffff::1]
"""
PUBLIC = """
    8.8.8.8 1.1.1.1 9.255.255.255 11.0.0.0 100.63.255.255 100.128.0.0 172.15.255.255 172.32.0.0
    169.253.255.255 192.167.255.255 223.255.255.255 134744072 0x08080808 [2606:4700::1111] [2a00:1450::1]
    [2001:4860:4860::8888] [::ffff:8.8.8.8] [64:ff9b::8.8.8.8]
"""


@pytest.mark.parametrize("host", PRIVATE.split())
def test_an_address_that_is_not_public_is_refused_however_it_is_spelt(host):
    with pytest.raises(Refused, match=r"not a public address; .*HEADRACE_WEBHOOK_ALLOW"):
        ReceiverGuard().check_url(f"https://{host}/hook")


@pytest.mark.parametrize(
    "host", [*PUBLIC.split(), "hooks.example", "hooks.example.", "a_b.example", "xn--bcher-kva.example"]
)
def test_public_addresses_and_names_pass(host):
    target = ReceiverGuard().check_url(f"https://{host}/hook?token=1#fragment")
    assert (target.secure, target.port, target.path) == (True, 443, "/hook?token=1")


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://hooks.example/", "http is only for private receivers"),
        ("http://8.8.8.8/", "http is only for private receivers"),
        ("https://hooks.example:22/", "port 22 is not one of 443"),
        ("https://hooks.example:0/", "port 0 is not one of 443"),
        ("https://hooks.example:65536/", "can't be read"),
        ("https://hooks.example:x/", "can't be read"),
        ("ftp://hooks.example/", "not an https URL"),
        ("file:///etc/passwd", "not an https URL"),
        ("gopher://127.0.0.1:6379/_FLUSHALL", "not an https URL"),
        ("unix:///run/redis.sock", "not an https URL"),
        ("//hooks.example/", "not an https URL"),
        ("hooks.example", "not an https URL"),
        ("", "percent-encoded"),
        ("https://", "not a name"),
        ("https:///hook", "not a name"),
        ("https://user:word@hooks.example/", "user or password"),
        ("https://8.8.8.8@127.0.0.1/", "user or password"),
        ("https://@hooks.example/", "user or password"),
        ("https://hooks.example\\@127.0.0.1/", "user or password"),
        ("https://hooks.example\\.evil.example/", "not a name"),
        ("https://127.0.0.1%2f.example/", "not a name"),
        ("https://%31%32%37.0.0.1/", "not a name"),
        ("https://a..b/", "not a name"),
        ("https://-a.example/", "not a name"),
        (f"https://{'a' * 64}.example/", "not a name"),
        (f"https://{'a.' * 127}example/", "not a name"),
        ("https://bücher.example/", "percent-encoded"),
        ("https://①②⑦.0.0.1/", "percent-encoded"),
        ("https://hooks.example/a b", "percent-encoded"),
        ("https://hooks.example/\r\nx: y", "percent-encoded"),
        ("\thttps://hooks.example/", "percent-encoded"),
        ("https://[fe80::1%25eth0]/", "not a valid address"),
        ("https://[2606:4700::1111%25eth0]/", "not a valid address"),
        ("https://[v1.fe80::a]/", "not a valid address"),
        ("https://[::1", "can't be read"),
        ("https://[::g]/", "not a valid address|can't be read"),
        ("https://1.2.3.4.5/", "not a valid address"),
        ("https://256.1.1.1/", "not a valid address"),
        ("https://08.8.8.8/", "not a valid address"),
        ("https://4294967296/", "not a valid address"),
        ("https://example.0x7f/", "not a valid address"),
    ],
)
def test_what_is_no_https_url_of_a_public_host_is_refused_with_its_reason(url, reason):
    with pytest.raises(Refused, match=reason):
        ReceiverGuard().check_url(url)


@pytest.mark.parametrize(
    "url", ["https://user:s3cret@hooks.example/?s3cret", "http://hooks.example/?s3cret", "s3cret://x"]
)
def test_a_refusal_shows_nothing_secret_of_the_url(url):
    with pytest.raises(Refused) as told:
        ReceiverGuard().check_url(url)
    assert "s3cret" not in str(told.value)


@pytest.mark.parametrize(
    ("entry", "passes", "refused"),
    [
        (
            "receiver.internal",
            ["http://receiver.internal:8080/", "https://RECEIVER.internal.:22/"],
            ["http://a.internal/"],
        ),
        ("Receiver:8080", ["http://receiver:8080/"], ["http://receiver/", "http://receiver:8081/"]),
        (
            "10.1.0.0/16",
            ["http://10.1.2.3:8080/", "https://0x0a010203/", "http://[::ffff:10.1.2.3]/"],
            ["http://10.2.0.1/"],
        ),
        ("127.0.0.1", ["http://127.0.0.1:9/", "http://2130706433/"], ["http://127.0.0.2/", "http://[::1]/"]),
        ("127.0.0.1:8080", ["http://127.0.0.1:8080/"], ["http://127.0.0.1:8081/"]),
        ("::1", ["http://[::1]:8080/"], ["http://[::2]/"]),
        ("[::1]:8080", ["http://[0:0::1]:8080/"], ["http://[::1]/"]),
        ("fd00::/8", ["http://[fd00::1]:8080/"], ["http://[fe80::1]/"]),
    ],
)
def test_what_is_listed_passes_and_nothing_beside_it(entry, passes, refused):
    guard = ReceiverGuard([entry])
    for url in passes:
        guard.check_url(url)
    for url in refused:
        with pytest.raises(Refused):
            guard.check_url(url)


def test_a_listed_receiver_still_has_no_user_in_its_url():
    with pytest.raises(Refused, match="user or password"):
        ReceiverGuard(["receiver"]).check_url("http://me:word@receiver/")


@pytest.mark.parametrize(
    "entry", ["", "10.1.2.3/16", "http://receiver", "receiver:port", "a b", "me@receiver", "*.internal"]
)
def test_an_entry_that_lists_nothing_is_refused_by_name(entry):
    with pytest.raises(ValueError, match="can't allow") as told:
        ReceiverGuard([entry])
    assert entry in str(told.value)


def test_other_ports_can_be_opened_for_everybody():
    guard = ReceiverGuard(ports=frozenset({443, 8443}))
    guard.check_url("https://hooks.example:8443/")
    with pytest.raises(Refused, match="port 22 is not one of 443, 8443"):
        guard.check_url("https://hooks.example:22/")


def test_with_networks_listed_a_name_waits_for_its_addresses():
    guard = ReceiverGuard(["10.1.0.0/16"])
    target = guard.check_url("http://receiver.internal:8080/")
    guard.check_addresses(False, target.host, target.port, [IPv4Address("10.1.2.3")])
    for addresses in (["10.2.0.1"], ["8.8.8.8"], ["10.1.2.3", "8.8.8.8"], []):
        with pytest.raises(Refused):
            guard.check_addresses(False, target.host, target.port, [ip_address(a) for a in addresses])


@given(st.one_of(st.text(), st.from_regex(r"https?://[^/]{0,20}/?.*"), st.from_regex(r"https://[!-~]+")))
def test_whatever_the_text_it_passes_or_is_refused(url):
    with suppress(Refused):
        ReceiverGuard(["10.0.0.0/8", "receiver"]).check_url(url)


@given(st.from_regex(r"[0-9a-fx]{0,11}(\.[0-9a-fx]{1,11}){0,3}\.?", fullmatch=True))
def test_whatever_the_system_takes_for_an_ipv4_address_is_taken_for_the_same(host):
    try:
        system = IPv4Address(socket.inet_aton(host))
    except OSError:
        return
    assert literal(host) == system


@given(st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6, network="2000::/3")))
def test_nothing_is_public_that_python_does_not_call_global_too(address):
    if is_public(address):
        assert address.is_global
        assert not address.is_multicast


@given(st.ip_addresses(v=4))
def test_an_ipv4_address_inside_an_ipv6_one_is_judged_as_itself(address):
    for prefix in ("::ffff:0:0", "64:ff9b::"):
        assert is_public(IPv6Address(int(IPv6Address(prefix)) + int(address))) == is_public(address)
    for prefix, shift in (("2002::", 80), ("::", 0), ("2001::", 64)):
        assert not is_public(IPv6Address(int(IPv6Address(prefix)) | int(address) << shift))
