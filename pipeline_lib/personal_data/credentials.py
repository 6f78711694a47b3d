"""Keys, tokens, private keys, passwords and wallets: what opens a door or holds money.

An *issuer's* key is known by its prefix. A *secret* is a value that is assigned to a name such as `password`
and looks random. A *stand-in* (`YOUR_API_KEY`, `xxxx`, `changeme`, `${TOKEN}`) is documentation and stays.
"""

import math
import re
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise

from stdnum import bitcoin

from pipeline_lib.personal_data.kinds import Regions, Span

_ISSUED = re.compile(
    r"(?<![A-Za-z0-9_])(?:"
    r"(?:AKIA|ASIA|AIDA|AROA|AGPA|ANPA)[0-9A-Z]{16}"
    r"|gh[pousr]_[A-Za-z0-9]{36,255}|github_pat_[A-Za-z0-9_]{50,255}"
    r"|gl(?:pat|ptt|dt|rt|cbt)-[A-Za-z0-9_-]{20,64}"
    r"|sk-[A-Za-z0-9_-]{20,250}|gsk_[A-Za-z0-9]{40,60}|xai-[A-Za-z0-9]{60,90}|r8_[A-Za-z0-9]{37,40}"
    r"|xox[abeoprs]-[A-Za-z0-9-]{10,250}|xapp-[0-9]-[A-Za-z0-9-]{20,250}"
    r"|AIza[A-Za-z0-9_-]{35}|ya29\.[A-Za-z0-9_-]{20,250}|GOCSPX-[A-Za-z0-9_-]{28}"
    r"|[rsp]k_(?:live|test)_[A-Za-z0-9]{16,250}|whsec_[A-Za-z0-9+/=]{24,64}"
    r"|eyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}"
    r"|hf_[A-Za-z0-9]{30,40}|npm_[A-Za-z0-9]{36}|pypi-[A-Za-z0-9_-]{50,250}"
    r"|SG\.[A-Za-z0-9_-]{16,32}\.[A-Za-z0-9_-]{16,64}|key-[0-9a-z]{32}|(?:AC|SK)[0-9a-f]{32}"
    r"|do[opr]_v1_[0-9a-f]{64}|dapi[0-9a-f]{32}|shp(?:at|ca|pa|ss)_[0-9a-fA-F]{32}|dop_v1_[0-9a-f]{64}"
    r"|[0-9]{8,10}:AA[A-Za-z0-9_-]{33}|sq0(?:atp|csp)-[A-Za-z0-9_-]{22,43}|lin_api_[A-Za-z0-9]{32,48}"
    r")(?![A-Za-z0-9_])"
)
_PEM = re.compile(
    r"-----BEGIN (?:[A-Z0-9]+ ){0,3}PRIVATE KEY(?: BLOCK)?-----[^<]*?-----END (?:[A-Z0-9]+ "
    r"){0,3}PRIVATE KEY(?: BLOCK)?-----"
    r"|-----BEGIN (?:[A-Z0-9]+ ){0,3}PRIVATE KEY(?: BLOCK)?-----(?:\\n|[\sA-Za-z0-9+/=:,-])+"
)
SECRET_NAMES = (
    r"pass(?:word|wd|phrase|code)?|pwd|secret|token|api[ _-]?key|access[ _-]?key|auth[ _-]?key"
    r"|private[ _-]?key|secret[ _-]?key"
    r"|encryption[ _-]?key|client[ _-]?secret|credentials?|bearer|authorization|passwort|kennwort"
    r"|mot de passe|contraseña|senha"
)
_ASSIGNED = re.compile(
    rf"(?<![a-z])(?:{SECRET_NAMES})(?![a-z])[\"'`\])]*"
    r"(?:[ \t]*(?::=|=>|==?|:)[ \t]*|[ \t]+(?:is|was|set to|ist|est|es)[ \t]*:?[ \t]+|(?<=bearer)[ "
    r"\t]+)(?:bearer[ \t]+)?"
    r"(\"[^\"\s]{6,200}\"|'[^'\s]{6,200}'|`[^`\s]{6,200}`|[^\s\"'`<>]{8,200})",
    re.IGNORECASE,
)
_STAND_IN = re.compile(
    r"^[<{$%\[(]|^(?:your|my|the|some|insert|enter|replace|change|put|add|todo|env|process|os"
    r"|config|settings|self|this|args|data|user|form|request|req|res)"
    r"(?![a-z0-9])|your[_-]|example|placeholder|changeme|dummy|redacted|sample|xxxx|\*\*\*|\.\.\.|…"
    r"|^(?:user|pass(?:word|wd)?|pwd|secret|token|key|test|admin|root)"
    r"[0-9_!-]{0,4}$|^(?:my)?_?(?:secret|password|pass|token)_?(?:password|key|here|value"
    r"|token)?[0-9]{0,4}$|12345678",
    re.IGNORECASE,
)
_WALLET = re.compile(
    r"(?<![A-Za-z0-9])(?:0x[0-9a-fA-F]{40}|bc1[02-9ac-hj-np-z]{11,71}"
    r"|[13][1-9A-HJ-NP-Za-km-z]{25,34})(?![A-Za-z0-9])"
)
_BECH32 = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"


def is_stand_in(value: str) -> bool:
    """Return whether a value only shows where a real one would go."""
    return len(set(value)) < 4 or _STAND_IN.search(value) is not None


def api_keys(text: str, regions: Regions) -> Iterator[Span]:
    """Yield keys and tokens of known issuers."""
    for match in _ISSUED.finditer(text):
        value = match.group(0)
        body = value.partition("_" if "_" in value else "-")[2] or value
        varied = len(set(body)) >= 10 and any(character.isdigit() for character in body)
        if varied and not re.search(r"EXAMPLE|xxxx|your[_-]", value):
            yield Span("api_key", *match.span())


def private_keys(text: str, regions: Regions) -> Iterator[Span]:
    """Yield PEM and PGP private keys, from the BEGIN line to the END line or to where the key breaks off."""
    for match in _PEM.finditer(text):
        lines = match.group(0).rstrip()
        if len(lines) > 120:
            yield Span("private_key", match.start(), match.start() + len(lines))


def secrets(text: str, regions: Regions) -> Iterator[Span]:
    """Yield values that are assigned to a name such as `password` and look random."""
    for match in _ASSIGNED.finditer(text):
        start, end = match.span(1)
        quoted = text[start] in "\"'`"
        value = text[start + 1 : end - 1] if quoted else text[start:end].rstrip(".,;:)!?]}")
        start += quoted
        if _is_random(value, quoted):
            yield Span("secret", start, start + len(value))


def _is_random(value: str, quoted: bool) -> bool:
    if is_stand_in(value) or (not quoted and re.search(r"[()\[\]{}]", value)):
        return False
    sorts = [_sort(character) for character in value]
    if len(value) >= 8 and len({*sorts} - {"joint"}) >= 3 and "digit" in sorts:
        return "://" not in value
    changes = sum(left != right for left, right in pairwise(sorts))
    return (
        len(value) >= 16
        and "joint" not in sorts[1:-1]
        and changes >= 3
        and "digit" in sorts
        and _entropy(value) >= 3.0
    )


def _sort(character: str) -> str:
    if character.isdigit():
        return "digit"
    if character.isalpha():
        return "upper" if character.isupper() else "lower"
    return "joint" if character in "_-./:," else "symbol"


def _entropy(value: str) -> float:
    """Return the Shannon entropy of a value's characters, in bits per character."""
    return -sum(count / len(value) * math.log2(count / len(value)) for count in Counter(value).values())


def crypto_wallets(text: str, regions: Regions) -> Iterator[Span]:
    """Yield Bitcoin addresses with a valid checksum and Ethereum addresses that are not a burn address."""
    for match in _WALLET.finditer(text):
        if is_wallet(match.group(0)):
            yield Span("crypto_wallet", *match.span())


def is_wallet(value: str) -> bool:
    """Return whether a value is a Bitcoin (base58check, bech32, bech32m) or Ethereum address."""
    if value.startswith("0x"):
        return len(set(value[2:].lower())) >= 6
    if value.startswith("bc1"):
        return _is_bech32(value)
    return bitcoin.is_valid(value)


def _is_bech32(value: str) -> bool:
    """Return whether the checksum is that of BIP 173 (version 0) or BIP 350 (later versions)."""
    checksum = 1
    for symbol in (3, 3, 0, 2, 3, *(_BECH32.index(character) for character in value[3:])):
        top, checksum = checksum >> 25, (checksum & 0x1FFFFFF) << 5 ^ symbol
        for bit, generator in enumerate((0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)):
            checksum ^= generator if top >> bit & 1 else 0
    return checksum in (1, 0x2BC830A3)
