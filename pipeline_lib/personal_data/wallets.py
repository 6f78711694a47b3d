"""Addresses of crypto currencies, known by their checksums; those without one need a word beside them.

Base58Check vouches for Bitcoin, Litecoin, Dogecoin, Dash, Zcash, Tron and Tezos and, in its own alphabet, for
XRP; BIP 173 and BIP 350 for bech32 addresses of any chain (`bc1…`, `ltc1…`, `addr1…`, `cosmos1…`); a CRC for
Stellar and TON; BLAKE2b for Polkadot. Private keys in Base58Check (WIF, `xprv…`) are found with them.
"""

import base64
import binascii
import hashlib
import re
from collections.abc import Iterator

from pipeline_lib.personal_data.context import around, words
from pipeline_lib.personal_data.kinds import Regions, Span

BASE58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_RIPPLE = str.maketrans("rpshnaf39wBUDNEGHJKLM4PQRST7VWXYZ2bcdeCg65jkm8oFqi1tuvAxyz", BASE58)
_BECH32 = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
_WALLET = re.compile(
    r"(?<![A-Za-z0-9])(?:0x[0-9a-fA-F]{40}|bitcoincash:[qp][02-9ac-hj-np-z]{41}"
    r"|[a-z]{2,16}(?:_[a-z]{2,8})?1[02-9ac-hj-np-z]{11,110}|[A-Z]{2,8}1[02-9AC-HJ-NP-Z]{30,110}"
    r"|[1-9A-HJ-NP-Za-km-z]{25,112}|G[A-Z2-7]{55}|[EU]Q[0-9A-Za-z_-]{46})(?![A-Za-z0-9])"
)
_MONERO = re.compile(r"[48][1-9A-HJ-NP-Za-km-z]{94}(?:[1-9A-HJ-NP-Za-km-z]{11})?")
_WORDS = words(
    "wallets?",
    "sol(?:ana)?",
    "spl",
    "phantom",
    "pub(?:lic)?_?key",
    "(?:send|deposit|pay|paid|donat\\w*)",
    "address",
)


def crypto_wallets(text: str, regions: Regions) -> Iterator[Span]:
    """Yield addresses with a valid checksum, Ethereum's but for burn addresses, Solana's where named."""
    for match in _WALLET.finditer(text):
        value = match.group(0)
        if is_wallet(value) or (_is_solana(value) and around(text, *match.span(), _WORDS, 40)):
            yield Span("crypto_wallet", *match.span())


def is_wallet(value: str) -> bool:
    """Return whether the form of a value alone says that it is an address of a crypto currency."""
    if value.startswith("0x"):
        return len(set(value[2:].lower())) >= 6
    if value.startswith("bitcoincash:"):
        return True
    if _is_bech32(value.lower()):
        return True
    if re.fullmatch(r"G[A-Z2-7]{55}|[EU]Q[0-9A-Za-z_-]{46}", value):
        return _is_stellar(value) if len(value) == 56 else _is_ton(value)
    if set(value) - set(BASE58):
        return False
    return (
        _is_base58check(value)
        or _is_polkadot(value)
        or (_MONERO.fullmatch(value) is not None and _is_mixed(value))
    )


def _is_mixed(value: str) -> bool:
    return any(map(str.isdigit, value)) and any(map(str.isupper, value)) and any(map(str.islower, value))


def _decoded(value: str) -> bytes:
    """Return the bytes of a base58 number, of which leading ones are zeros."""
    number = 0
    for character in value:
        number = number * 58 + BASE58.index(character)
    zeros = len(value) - len(value.lstrip("1"))
    return b"\0" * zeros + number.to_bytes((number.bit_length() + 7) // 8)


def _is_base58check(value: str) -> bool:
    return any(
        len(raw) >= 25 and hashlib.sha256(hashlib.sha256(raw[:-4]).digest()).digest()[:4] == raw[-4:]
        for raw in (_decoded(value), _decoded(value.translate(_RIPPLE)) if value[0] == "r" else b"")
    )


def _is_polkadot(value: str) -> bool:
    """Return whether a value is an SS58 address of a public key of 32 bytes."""
    if not 46 <= len(value) <= 50:
        return False
    raw = _decoded(value)
    return len(raw) in (35, 36) and hashlib.blake2b(b"SS58PRE" + raw[:-2]).digest()[:2] == raw[-2:]


def _is_solana(value: str) -> bool:
    """Return whether a value is base58 of 32 bytes, which is all that an address of Solana is."""
    if not 32 <= len(value) <= 44 or set(value) - set(BASE58) or not _is_mixed(value):
        return False
    return len(_decoded(value)) == 32


def _is_stellar(value: str) -> bool:
    raw = base64.b32decode(value)
    return binascii.crc_hqx(raw[:-2], 0) == int.from_bytes(raw[-2:], "little")


def _is_ton(value: str) -> bool:
    raw = base64.urlsafe_b64decode(value)
    return binascii.crc_hqx(raw[:-2], 0) == int.from_bytes(raw[-2:])


def _is_bech32(value: str) -> bool:
    """Return whether the checksum is that of BIP 173 (version 0) or BIP 350 (later versions)."""
    prefix, _, data = value.rpartition("1")
    if not prefix or len(data) < 11 or set(data) - set(_BECH32):
        return False
    expanded = [*(ord(letter) >> 5 for letter in prefix), 0, *(ord(letter) & 31 for letter in prefix)]
    checksum = 1
    for symbol in (*expanded, *(_BECH32.index(character) for character in data)):
        top, checksum = checksum >> 25, (checksum & 0x1FFFFFF) << 5 ^ symbol
        for bit, generator in enumerate((0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)):
            checksum ^= generator if top >> bit & 1 else 0
    return checksum in (1, 0x2BC830A3)
