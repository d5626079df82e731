"""Which IP addresses are public: unicast, and reachable from everywhere on the internet.

The list is written out from IANA's special-purpose registries, because `is_global` of `ipaddress` differs
between versions of Python and includes multicast. An IPv6 address that stands for an IPv4 address is judged
as the latter; tunnels that could hide one (6to4, Teredo) are refused.
"""

import re
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

Address = IPv4Address | IPv6Address

_CLOSED_V4 = tuple(
    map(
        IPv4Network,
        (
            "0.0.0.0/8",  # this network
            "10.0.0.0/8",
            "100.64.0.0/10",  # carrier-grade NAT; metadata of some clouds
            "127.0.0.0/8",
            "168.63.129.16/32",  # the agent endpoint inside every Azure machine
            "169.254.0.0/16",  # link-local; metadata of most clouds
            "172.16.0.0/12",
            "192.0.0.0/24",  # protocol assignments; metadata of some clouds
            "192.0.2.0/24",  # documentation
            "192.88.99.0/24",  # 6to4 relays
            "192.168.0.0/16",
            "198.18.0.0/15",  # benchmarks
            "198.51.100.0/24",  # documentation
            "203.0.113.0/24",  # documentation
            "224.0.0.0/3",  # multicast, reserved, broadcast
        ),
    )
)
_OPEN_V6 = IPv6Network("2000::/3")
"""All unicast addresses allocated so far; loopback, link-local, private and multicast are outside."""

_CLOSED_V6 = tuple(
    map(
        IPv6Network,
        (
            "2001::/23",  # protocol assignments, Teredo among them
            "2001:db8::/32",  # documentation
            "2002::/16",  # 6to4
            "3fff::/20",  # documentation
        ),
    )
)
_NAT64 = IPv6Network("64:ff9b::/96")
_NUMBER = re.compile(r"0[xX][0-9a-fA-F]*|[0-9]+")


def is_public(address: Address) -> bool:
    """Whether the address is globally routable unicast."""
    address = plain(address)
    if isinstance(address, IPv4Address):
        return not any(address in network for network in _CLOSED_V4)
    if address in _NAT64:
        # Its last 32 bits are an IPv4 address: 64:ff9b::7f00:1 leads to 127.0.0.1.
        return is_public(IPv4Address(int(address) & 0xFFFF_FFFF))
    return address in _OPEN_V6 and not any(address in network for network in _CLOSED_V6)


def plain(address: Address) -> Address:
    """The address itself or, if it is IPv4-mapped, the IPv4 address that it stands for."""
    return (address.ipv4_mapped or address) if isinstance(address, IPv6Address) else address


def literal(host: str) -> Address | None:
    """The address that a URL's host (without brackets) spells, as resolvers accept it; None for a name.

    Raises:
        ValueError: it looks like an address but isn't one.
    """
    if ":" in host:
        if "%" in host:
            raise ValueError("an address with a zone")
        return plain(ip_address(host))
    *_, last = host.rstrip(".").split(".")
    return _ipv4(host.rstrip(".")) if _NUMBER.fullmatch(last) else None


def _ipv4(host: str) -> IPv4Address:
    """An address as `inet_aton` reads it: up to four numbers in any base, the last one filling the rest."""
    parts = host.split(".")
    if len(parts) > 4 or not all(_NUMBER.fullmatch(part) for part in parts):
        raise ValueError("not an address")
    # 127.1, 0x7f000001, 0177.0.0.1 and 2130706433 are all 127.0.0.1 to a resolver, and must be to this.
    *heads, last = (_number(part) for part in parts)
    if any(head > 255 for head in heads) or last >= 256 ** (4 - len(heads)):
        raise ValueError("not an address")
    return IPv4Address(int.from_bytes(bytes(heads), "big") << 8 * (4 - len(heads)) | last)


def _number(part: str) -> int:
    if part[:2].lower() == "0x":
        return int(part[2:] or "0", 16)
    return int(part, 8 if part.startswith("0") else 10)
