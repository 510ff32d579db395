"""IP addresses of somebody: public and private hosts, not loopback, masks or examples."""

from __future__ import annotations

import re
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from localllm.privacy.finding import Finding, Kind
from localllm.privacy.labels import label, named
from localllm.privacy.plain import Plain

_V4 = re.compile(r"(?<![\w.])(?:[0-9]{1,3}\.){3}[0-9]{1,3}(?!\w|\.[0-9A-Za-z]|[-+][A-Za-z])", re.A)
_V6 = re.compile(
    r"(?<![0-9A-Za-z.])(?<![0-9A-Fa-f:]:)(?:[0-9A-Fa-f]{1,4}:){1,7}(?::?[0-9A-Fa-f]{1,4}){0,7}(?:::)?"
    r"(?![0-9A-Za-z]|:[0-9A-Za-z:])"
)
_V4_MIDDLE = re.compile(r"\.[0-9]{1,3}\.[0-9]{1,3}\.")
_V6_MIDDLE = re.compile(r":[0-9A-Fa-f]{0,4}:")
_LABEL = label(r"(?<![a-z])ip(?:v[46])?(?![a-z])|address|host|server|client|peer|アドレス|サーバ")
# right before four numbers with dots: v1.2.3.4, Chrome/120.0.0.0, pkg==1.2.3.4, section 1.2.3.4
_VERSION = re.compile(
    r"(?:[a-z]/|(?:[=<>~!]=|[<>~^])\s?|(?<![a-z])(?:version|ver|release|section|chapter|clause|rfc|firmware"
    r"|driver|oid|v|§)\.?\s{0,2}|バージョン\s?|第)[:=]?\s?\Z"
)
# resolvers that everyone knows; the masks and the documentation nets tell nothing of anyone
_KNOWN = frozenset({"8.8.8.8", "8.8.4.4", "1.1.1.1", "1.0.0.1", "9.9.9.9"})
_EXAMPLES = [ip_network(net) for net in (
    "192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24", "2001:db8::/32",
)]  # fmt: skip


def ips(plain: Plain) -> Iterator[Finding]:
    # patterns that begin with one certain character are sought ten times as fast
    for form, middle, back in ((_V4, _V4_MIDDLE, 3), (_V6, _V6_MIDDLE, 4)):
        done = 0
        for at in (m.start() for m in middle.finditer(plain.text)):
            found = form.search(plain.text, max(0, at - back), at + 64) if at >= done else None
            if found and found.start() <= at + 1:  # a label's colon may come first
                done = found.end()
                yield from _judged(plain, found)


def _judged(plain: Plain, found: re.Match[str]) -> Iterator[Finding]:
    try:
        address = ip_address(found.group())
    except ValueError:
        return
    if not _of_a_host(address):
        return
    start = found.start()
    name = named(plain, start, _LABEL, reach=30)
    if isinstance(address, IPv4Address) and not name:
        before = plain.lower[max(0, start - 16) : start]
        if name is False or (_VERSION.search(before) and not before.endswith("//")):
            return
    confidence = 0.95 if name else 0.8 if address.is_global else 0.6
    if not name and address.is_global and max(address.packed[:4]) < 32:
        confidence = 0.4  # four small numbers are more often a version
    why = f"an IPv{address.version} address of a {'public' if address.is_global else 'private'} net"
    yield Finding(Kind.IP, start, found.end(), confidence, why)


def _of_a_host(address: IPv4Address | IPv6Address) -> bool:
    """Whether it can name a machine of somebody."""
    if str(address) in _KNOWN or any(address in net for net in _EXAMPLES):
        return False
    if address.is_loopback or address.is_unspecified or address.is_multicast:
        return False
    if isinstance(address, IPv6Address):
        # 2000::/3, fc00::/7, fe80::/10: in the rest are `a::b` of C++ and Rust, and times
        return int(address) >> 125 == 1 or int(address) >> 121 == 0x7E or address.is_link_local
    return not (address.is_reserved or int(address) >> 24 == 0)
