"""E-mail, IP, MAC and web addresses, without those that documentation reserves.

Reserved are example.com and its sisters and .test, .example, .invalid, .localhost (RFC 2606, RFC 6761), the
networks of RFC 5737 and RFC 3849, loopback, and the MAC block of RFC 7042. A placeholder inside a web address
(`user:password@`, `?token=YOUR_TOKEN`) is documentation too.
"""

import ipaddress
import re
from collections.abc import Iterator
from itertools import chain

from pipeline_lib.personal_data.context import LAST_OF_THEM, NO_WORD_AFTER, around, before, words
from pipeline_lib.personal_data.credentials import is_stand_in
from pipeline_lib.personal_data.domains import TOP_LEVEL
from pipeline_lib.personal_data.kinds import Regions, Span

_LOCAL = r"[^\W_](?:[\w.+'%&~-]{0,62}[\w+-])?|_[\w.+-]{0,62}\w"
_LABEL = r"[^\W_](?:[\w-]{0,61}[^\W_])?"
_NO_ARTICLE = r"(?!(?:the|this|that|an?|any|each|every|my|your|our|their|its|some|which|all|one)\b)"
_EMAIL = re.compile(
    rf"(?<![\w.+@/%-])(?:{_LOCAL})@(?:{_LABEL}\.)+([A-Za-z]{{2,24}}|[^\W\d_]{{2,24}}|xn--[a-z0-9-]{{2,59}})"
    rf"{NO_WORD_AFTER}(?![@(]|-\w|\.\w+\()"
)
_DISGUISED = re.compile(
    (
        rf"(?<![\w.+@/-])[\w.+-]{{2,64}} ?[\[({{] ?at ?[\])}}] ?{_LABEL}(?: ?[\[({{] ?dot ?[\])}}] ?"
        rf"|\.)([a-z]{{2,24}})(?!\w)"
        rf"|(?<![\w.+@/-])[\w.+-]{{2,64}} at {_NO_ARTICLE}{_LABEL}(?: dot {_LABEL}){{0,2}} dot "
        rf"([a-z]{{2,24}})(?!\w)"
    ),
    re.IGNORECASE,
)
_AT = re.compile(r"@|[\[({] ?at ?[\])}] ?| at ", re.IGNORECASE)
_DOT = re.compile(r" ?[\[({] ?dot ?[\])}] ?| dot ", re.IGNORECASE)
_RESERVED_DOMAIN = re.compile(
    r"(?:^|[.@])(?:example\.(?:com|org|net|edu)|example\.co\.[a-z]{2}|test|example|invalid|localhost)$",
    re.IGNORECASE,
)
_IPV4 = re.compile(
    r"(?<![\w.-])(?:(?:25[0-5]|2[0-4]\d|1?\d?\d)\.){3}(?:25[0-5]|2[0-4]\d|1?\d?\d)(?!\w|\.\d|-\d)", re.ASCII
)
_IPV6 = re.compile(
    r"(?<![\w.])(?<!::)(?<!\b[0-9a-fA-F]:)(?<!\b[0-9a-fA-F]{2}:)(?<!\b[0-9a-fA-F]{3}:)(?<!\b[0-9a-fA-F]{4}:)"
    r"[0-9a-fA-F]{0,4}(?::[0-9a-fA-F]{0,4}){2,7}(?:(?<=:)(?:\d{1,3}\.){3}\d{1,3})?(?!\w|:\w|\.\w)",
    re.ASCII,
)
_MAC = re.compile(
    r"(?<![\w.-])(?<!::)(?<!\b[0-9A-Fa-f]{2}:)"
    r"[0-9A-Fa-f]{2}(?:([:-])[0-9A-Fa-f]{2})(?:\1[0-9A-Fa-f]{2}){4}(?!\w|:\w|-\w)"
    r"|(?<![\w.])[0-9A-Fa-f]{4}\.[0-9A-Fa-f]{4}\.[0-9A-Fa-f]{4}(?!\w|\.\w)",
    re.ASCII,
)
_NETWORK_WORDS = words(
    "ip",
    "ips",
    "ipv4",
    "ipaddr(?:ess)?",
    "address(?:es)?",
    "server",
    "host(?:name)?",
    "ping",
    "dns",
    "gateway",
    "subnet",
    "port",
    "router",
    "connect(?:s|ed|ing|ion)?",
    "ssh",
    "telnet",
    "login",
    "logged",
    "client",
    "remote",
    "firewall",
    "vpn",
    "proxy",
    "traffic",
)
_VERSION_WORDS = re.compile(
    (
        r"(?:\b(?:v|ver|version|release|build|firmware|section|sections|chapter|clause|article|figure"
        r"|fig|table|upgraded? to|update|mac ?os|ios|os x|windows|android|chrome|firefox|python|java"
        r"|node)\.?:? ?|§ ?|[=~<>!^]= ?|[~^] ?)$"
    ),
    re.IGNORECASE,
)
_HOST_WORDS = words("ip", "host", "server")
_PREFIX_LENGTH = re.compile(r"/([0-9]{1,2})(?![0-9])")
"""Of a network in CIDR notation (RFC 4632)."""
_IN_URL = re.compile(r"://[^\s/@]*$")
_URL = re.compile(r"(?<![\w+.-])[a-z][a-z0-9+.-]{1,20}://[^\s<>\"'`|\\^{}]+", re.IGNORECASE)
_USERINFO = re.compile(r"[a-z0-9+.-]+://([^\s/@:]*):([^\s/@]+)@([^\s/:?#]+)", re.IGNORECASE)
_QUERY_SECRET = re.compile(
    r"[?&#;](?:access_?token|auth(?:_?token)?|refresh_?token|id_?token|token|api_?key|apikey|key"
    r"|secret|client_?secret|password|passwd|pwd|sig|signature"
    r"|x-amz-signature|session(?:_?id)?|sid|code)=([^&#\s]{8,})",
    re.IGNORECASE,
)
_HOOK = re.compile(
    r"https://(?:hooks\.slack\.com/(?:services|workflows|triggers)"
    r"|(?:\w+\.)?discord(?:app)?\.com/api/webhooks"
    r"|[\w-]+\.webhook\.office\.com|outlook\.office\.com/webhook)/[\w/@-]{20}",
    re.IGNORECASE,
)
"""Who knows such an address may post."""
_WEB = re.compile(r"(?<![\w@.-])(?:(?:https?|ftp)://|www\.)[^\s<>\"'`|\\^{}]+", re.IGNORECASE)
_TRAILING = ".,;:!?)]}*"


def emails(text: str, regions: Regions) -> Iterator[Span]:
    """Yield e-mail addresses with a known top-level domain, plain or written with `[at]`."""
    found = (match for match in _EMAIL.finditer(text) if not _is_userinfo(text, match))
    disguised = _DISGUISED.finditer(text) if "at" in text else iter(())
    for match in chain(found, disguised):
        mailbox, domain = _AT.split(match.group(0), maxsplit=1)
        top = str(match.group(match.lastindex or 1)).lower()
        known = top in TOP_LEVEL or top.startswith("xn--")
        if known and not _RESERVED_DOMAIN.search(_DOT.sub(".", domain)):
            # A sentence in Chinese or Japanese runs into the address, seldom is it part of one.
            sentence = LAST_OF_THEM.match(mailbox)
            yield Span("email", match.start() + (sentence.end() if sentence else 0), match.end())


def _is_userinfo(text: str, match: re.Match[str]) -> bool:
    """Return whether what stands before the @ is a user or password of a web address or of git."""
    return match.group(0).startswith("git@") or before(text, match.start(), _IN_URL, 80)


def ip_addresses(text: str, regions: Regions) -> Iterator[Span]:
    """Yield IPv4 and IPv6 addresses, public or private, that are no version number and not reserved."""
    for match in _IPV4.finditer(text):
        if _is_host(text, match) and not _is_version(text, match):
            yield Span("ip_address", *match.span())
    if text.count(":") >= 2:
        for match in _IPV6.finditer(text):
            # A colon may follow an address as it follows a word.
            value = re.sub(r"(?<!:):$", "", match.group(0))
            if _is_ipv6(value):
                yield Span("ip_address", match.start(), match.start() + len(value))


def _is_host(text: str, match: re.Match[str]) -> bool:
    try:
        address = ipaddress.IPv4Address(match.group(0))
    except ValueError:
        return False
    if address.is_loopback or match.group(0).startswith(("0.", "255.")) or _in_documentation(address):
        return False
    mask = _PREFIX_LENGTH.match(text, match.end())
    if mask is None or int(mask.group(1)) > 31:
        return True
    return int(address) & ((1 << (32 - int(mask.group(1)))) - 1) != 0


def _in_documentation(address: ipaddress.IPv4Address) -> bool:
    return any(address in network for network in _DOCUMENTATION)


_DOCUMENTATION = tuple(map(ipaddress.IPv4Network, ("192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24")))


def _is_version(text: str, match: re.Match[str]) -> bool:
    if _VERSION_WORDS.search(text[max(0, match.start() - 14) : match.start()]):
        return not before(text, match.start(), _HOST_WORDS, 16)
    octets = [int(octet) for octet in match.group(0).split(".")]
    if max(octets) >= 32 or octets[0] == 10 or octets == [8, 8, 8, 8]:
        return False
    return not (
        around(text, match.start(), match.end(), _NETWORK_WORDS, 40) or text.startswith(":", match.end())
    )


def _is_ipv6(value: str) -> bool:
    groups = [group for group in value.split(":") if group]
    if len(groups) < 2 or not any(character.isdigit() for character in value):
        return False
    if len(groups) < 4 and not re.match(
        r"[23][0-9a-f]{3}:|f[cd][0-9a-f]{2}:|fe[89ab][0-9a-f]:|ff0[0-9a-f]:|::ffff:", value, re.IGNORECASE
    ):
        return False
    try:
        address = ipaddress.IPv6Address(value)
    except ValueError:
        return False
    return address not in ipaddress.IPv6Network("2001:db8::/32") and not address.is_loopback


def mac_addresses(text: str, regions: Regions) -> Iterator[Span]:
    """Yield hardware addresses except the documentation block 00-00-5E-00-53, all zeros and broadcast."""
    for match in _MAC.finditer(text):
        digits = re.sub(r"[^0-9a-f]", "", match.group(0).lower())
        reserved = len(set(digits)) == 1 or digits.startswith("00005e0053")
        if not reserved and not ("." in match.group(0) and digits.isdigit()):
            yield Span("mac_address", *match.span())


def _trimmed(match: re.Match[str]) -> tuple[int, int]:
    value = match.group(0).rstrip(_TRAILING)
    if match.group(0)[len(value) :].startswith(")") and "(" in value:
        value += ")"
    return match.start(), match.start() + len(value)


def urls_with_credentials(text: str, regions: Regions) -> Iterator[Span]:
    """Yield web addresses that carry `user:password@`, a token as a query parameter, or are a webhook."""
    for match in _URL.finditer(text):
        start, end = _trimmed(match)
        if _has_credentials(text[start:end]):
            yield Span("url_with_credentials", start, end)


def _has_credentials(url: str) -> bool:
    host = re.sub(r"^[^/]*//(?:[^/@]*@)?", "", url)
    if _is_reserved_host(re.split(r"[/:?#]", host, maxsplit=1)[0]):
        return False
    userinfo = _USERINFO.match(url)
    if userinfo and not is_stand_in(userinfo.group(2)):
        return True
    if _HOOK.match(url):
        return "xxxx" not in url.lower()
    return any(
        not is_stand_in(value) and any(character.isdigit() for character in value)
        for value in _QUERY_SECRET.findall(url)
    )


def _is_reserved_host(host: str) -> bool:
    return _RESERVED_DOMAIN.search(host) is not None or host.startswith(("127.", "0.0.0.0"))


def urls(text: str, regions: Regions) -> Iterator[Span]:
    """Yield web addresses of any sort outside the reserved domains (an optional kind)."""
    for match in _WEB.finditer(text):
        start, end = _trimmed(match)
        host = re.split(r"[/:?#]", re.sub(r"^\w+://", "", text[start:end]), maxsplit=1)[0]
        if "." in host and not _is_reserved_host(host):
            yield Span("url", start, end)
