"""Values that machines hold: addresses, keys, passwords, wallets; drawn from a seed.

Neighbours: `personal_data_values` has those of persons and draws on `digits` and `token` from here.
"""

import hashlib
import random

Random = random.Random

PLAIN_NAMES = [
    "anna",
    "bob",
    "carla",
    "dmitri",
    "elodie",
    "farid",
    "grace",
    "hans",
    "ines",
    "jurgen",
    "keiko",
    "liam",
    "maria",
    "nils",
    "olga",
    "priya",
    "rosa",
    "tom",
]
_ALPHANUMERIC = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"


def digits(r: Random, count: int) -> str:
    """Return `count` digits."""
    return "".join(r.choice("0123456789") for _ in range(count))


def token(r: Random, count: int, alphabet: str = _ALPHANUMERIC) -> str:
    """Return `count` characters of the alphabet."""
    return "".join(r.choice(alphabet) for _ in range(count))


def ip_address(r: Random) -> str:
    """Return a public or private IPv4 address, or an IPv6 one."""
    tail = f"{r.randrange(1, 255)}.{r.randrange(1, 255)}"
    block = token(r, 4, "0123456789abcdef")
    return r.choice(
        [
            f"{r.choice([23, 52, 81, 93, 104, 151, 185])}.{r.randrange(40, 255)}.{tail}",
            f"192.168.{tail}",
            f"10.{r.randrange(255)}.{tail}",
            f"172.16.{tail}",
            f"2a02:{r.randrange(1000, 9999)}:{block}::{r.randrange(1, 99)}",
            f"fe80::{block}:{r.randrange(10, 99)}ff:fe{r.randrange(10, 99)}:{block}",
            "2607:f8b0:4005:805:0:0:0:" + block,
        ]
    )


def mac_address(r: Random) -> str:
    """Return a hardware address with colons, hyphens or (Cisco) dots."""
    pairs = [token(r, 2, "0123456789abcdef") for _ in range(6)]
    pairs[0] = r.choice(["3c", "a4", "f0", "8c"])
    joined = "".join(pairs)
    made = r.choice([":".join(pairs), "-".join(pairs), f"{joined[:4]}.{joined[4:8]}.{joined[8:]}"])
    return made.upper() if r.random() < 0.5 else made


def url_with_credentials(r: Random) -> str:
    """Return a web address or connection string with a password or a token."""
    host = r.choice(["db.acme.io", "git.corp-mail.net", "api.shop24.de", "10.2.33.41"])
    secret = token(r, 12) + "7"
    return r.choice(
        [
            f"https://{r.choice(PLAIN_NAMES)}:{secret}@{host}/repo",
            f"postgres://{r.choice(PLAIN_NAMES)}:{secret}@{host}:5432/main",
            f"https://{host}/v1/items?token={secret}",
            f"https://{host}/x?a=1&api_key={secret}&b=2",
            f"mongodb+srv://svc:{secret}@{host}/prod",
            f"redis://:{secret}@{host}:6379/0",
        ]
    )


def api_key(r: Random) -> str:
    """Return a key in the form of ten issuers."""
    base, upper = token(r, 20) + "5aZ", token(r, 15, "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567") + "7"
    return r.choice(
        [
            f"AKIA{upper}",
            f"ghp_{token(r, 35)}4",
            f"github_pat_{token(r, 22)}_{token(r, 58)}9",
            f"sk-{token(r, 47)}3",
            f"xoxb-{digits(r, 11)}-{digits(r, 12)}-{token(r, 24)}",
            f"AIza{token(r, 34)}8",
            f"sk_live_{base}",
            f"hf_{token(r, 33)}6",
            f"glpat-{token(r, 19)}2",
            f"eyJ{token(r, 17)}.eyJ{token(r, 30)}9.{token(r, 40)}",
            f"SG.{token(r, 21)}1.{token(r, 43)}",
        ]
    )


def private_key(r: Random) -> str:
    """Return a PEM block."""
    name = r.choice(["RSA PRIVATE KEY", "PRIVATE KEY", "EC PRIVATE KEY", "OPENSSH PRIVATE KEY"])
    return "\n".join(
        [
            f"-----BEGIN {name}-----",
            *(token(r, 64) for _ in range(r.randrange(4, 9))),
            f"-----END {name}-----",
        ]
    )


def secret(r: Random) -> str:
    """Return a random password or token without a known prefix."""
    return r.choice(
        [
            token(r, 5, "abcdefgh") + r.choice("!#%&*") + token(r, 4, "QRSTUVW") + digits(r, 3),
            "Q7z" + token(r, 21),
            "f3A" + token(r, 37),
            f"{token(r, 6)}-Zr4{r.choice('!?#')}{digits(r, 2)}",
        ]
    )


def crypto_wallet(r: Random) -> str:
    """Return a Bitcoin (base58check) or Ethereum address."""
    if r.random() < 0.5:
        return "0x" + token(r, 40, "0123456789abcdefABCDEF")
    payload = r.choice([b"\x00", b"\x05"]) + r.randbytes(20)
    payload += hashlib.sha256(hashlib.sha256(payload).digest()).digest()[:4]
    number, text, alphabet = (
        int.from_bytes(payload, "big"),
        "",
        "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz",
    )
    while number:
        number, rest = divmod(number, 58)
        text = alphabet[rest] + text
    return "1" * (len(payload) - len(payload.lstrip(b"\x00"))) + text
