"""Values that look real and belong to nobody, drawn from a seed.

Names, streets and mail boxes come from Faker. Where a range is reserved for documentation (example.org,
555-01xx, RFC 5737, RFC 3849, RFC 7042) the surrogate lies in it, so it is nobody's and is never scrubbed
again. Numbers with check digits keep their form and issuer and get new, valid digits.
"""

import hashlib
import re
import string
from collections.abc import Callable, Collection
from functools import cache
from random import Random
from typing import TYPE_CHECKING

from pipeline_lib.core.errors import ConfigError
from pipeline_lib.personal_data.checksums import is_vin
from pipeline_lib.personal_data.identity import MONTHS, register_of
from pipeline_lib.personal_data.numeric import is_card, is_iban, is_named_card
from pipeline_lib.personal_data.phones import without_extension
from pipeline_lib.personal_data.wallets import BASE58

if TYPE_CHECKING:
    from faker import Faker

_TRIES = 10_000


def surrogate(kind: str, value: str, key: str, taken: Collection[str] = ()) -> str:
    """Return a value of the same kind and form that is not among `taken`; equal keys give equal values.

    Raises ConfigError where Faker is not installed.
    """
    faker = _faker()
    make = _MAKERS.get(kind, _reshuffled)
    for attempt in range(100):
        seed = int.from_bytes(
            hashlib.blake2b(f"{key}\0{attempt}".encode("utf-8", "replace"), digest_size=8).digest()
        )
        faker.seed_instance(seed)
        made = make(value, Random(seed), faker)
        if made not in taken:
            return made
    return made


@cache
def _faker() -> "Faker":
    try:
        from faker import Faker
    except ImportError as error:
        raise ConfigError(
            "surrogates need Faker, which is not installed; pip install faker, or use placeholders."
        ) from error
    return Faker("en_US")


def _redrawn(value: str, random: Random, keep: int = 0) -> str:
    """Return the value with every letter and digit after the first `keep` drawn anew from its own sort."""
    return "".join(
        character if index < keep else _drawn(character, random) for index, character in enumerate(value)
    )


def _drawn(character: str, random: Random) -> str:
    if character in string.digits:
        return random.choice(string.digits)
    if character in string.ascii_uppercase:
        return random.choice(string.ascii_uppercase)
    return random.choice(string.ascii_lowercase) if character in string.ascii_lowercase else character


def _reshuffled(value: str, random: Random, faker: "Faker") -> str:
    return _redrawn(value, random)


def _until(valid: Callable[[str], bool], keep: int) -> Callable[[str, Random, "Faker"], str]:
    """Return a maker that redraws letters and digits, or else digits alone, until they satisfy the check."""

    def make(value: str, random: Random, faker: "Faker") -> str:
        for number in range(_TRIES):
            drawn = _redrawn(value, random, keep)
            made = drawn if number < _TRIES / 2 else _with_letters_of(value, drawn)
            if valid(made):
                return made
        return drawn

    return make


def _with_letters_of(value: str, drawn: str) -> str:
    """Return the drawn value with the letters of the old one, which may have to obey a rule of their own."""
    return "".join(new if old in string.digits else old for old, new in zip(value, drawn, strict=True))


def _national_id(value: str, random: Random, faker: "Faker") -> str:
    register = register_of(value)
    if register is None:
        return _redrawn(value, random)
    form, check = register.form, register.is_valid
    return _until(lambda made: form.fullmatch(made) is not None and check(made), keep=0)(value, random, faker)


def _email(value: str, random: Random, faker: "Faker") -> str:
    return f"{faker.user_name()}@{random.choice(('example.org', 'example.com', 'example.net'))}"


def _phone(value: str, random: Random, faker: "Faker") -> str:
    """Return a fictitious number (555-01xx) for North American forms, else one of the same area."""
    number = without_extension(value)
    places = [index for index, character in enumerate(number) if character in string.digits]
    foreign = value.lstrip("(").startswith(("+", "00")) and not value.lstrip("(").startswith(("+1", "001"))
    line = f"55501{random.randrange(100):02d}"
    new = list(_redrawn(value, random, places[min(3, len(places) - 1)] + 1))
    if not foreign and len(places) in (7, 10, 11) and number[places[0]] != "0":
        new[: len(number)] = number
        for place, digit in zip(places[-7:], line, strict=True):
            new[place] = digit
    return "".join(new)


def _ip_address(value: str, random: Random, faker: "Faker") -> str:
    if ":" in value:
        return f"2001:db8:{random.randrange(1, 1 << 16):x}::{random.randrange(1, 1 << 16):x}"
    return f"{random.choice(('192.0.2', '198.51.100', '203.0.113'))}.{random.randrange(1, 255)}"


def _mac_address(value: str, random: Random, faker: "Faker") -> str:
    digits = iter(f"00005e0053{random.randrange(256):02x}")
    made = "".join(next(digits) if character.isalnum() else character for character in value)
    return made.upper() if value.upper() == value else made


def _url(value: str, random: Random, faker: "Faker") -> str:
    return f"https://example.org/{faker.uri_path()}"


def _street_address(value: str, random: Random, faker: "Faker") -> str:
    return str(faker.street_address())


def _date_of_birth(value: str, random: Random, faker: "Faker") -> str:
    """Return another date in the same notation: years from 1940 to 2004, days and months up to 12."""

    def number(match: re.Match[str]) -> str:
        if len(match.group(0)) == 4:
            return str(random.randrange(1940, 2005))
        drawn = str(random.randrange(1, 10 if len(match.group(0)) == 1 else 13))
        return drawn.zfill(len(match.group(0)))

    def month(match: re.Match[str]) -> str:
        names = next((names for names in MONTHS if match.group(0) in names), None)
        return random.choice(names) if names else match.group(0)

    return re.sub(r"[^\W\d_]{3,}", month, re.sub(r"[0-9]+", number, value))


def _private_key(value: str, random: Random, faker: "Faker") -> str:
    return "\n".join(
        line if line.startswith("-----") else _redrawn(line, random) for line in value.split("\n")
    )


def _api_key(value: str, random: Random, faker: "Faker") -> str:
    prefix = re.match(
        r"(?:[A-Za-z0-9]{2,6}[_-])(?:(?:live|test|proj|pat|ant)[_-])?|AKIA|ASIA|AIza|eyJ|SG\.", value
    )
    return _redrawn(value, random, prefix.end() if prefix else 2)


def _crypto_wallet(value: str, random: Random, faker: "Faker") -> str:
    """Return an Ethereum address for one, else a Bitcoin one of version 0 (base58check)."""
    if value.startswith("0x"):
        return f"0x{random.getrandbits(160):040x}"
    payload = b"\0" + random.randbytes(20)
    payload += hashlib.sha256(hashlib.sha256(payload).digest()).digest()[:4]
    number, digits = int.from_bytes(payload), ""
    while number:
        number, digit = divmod(number, 58)
        digits = BASE58[digit] + digits
    return "1" * (len(payload) - len(payload.lstrip(b"\0"))) + digits


def _vehicle(value: str, random: Random, faker: "Faker") -> str:
    """Return a number of the same maker with a valid check digit, or for a plate one of the same form."""
    if len(value) != 17:
        return _redrawn(value, random)
    return _until(lambda made: not set(made) & set("IOQ") and is_vin(made), keep=3)(value, random, faker)


def _name(value: str, random: Random, faker: "Faker") -> str:
    return str(faker.name())


def _location(value: str, random: Random, faker: "Faker") -> str:
    return str(faker.city())


def _organisation(value: str, random: Random, faker: "Faker") -> str:
    return str(faker.company())


_MAKERS: dict[str, Callable[[str, Random, "Faker"], str]] = {
    "email": _email,
    "phone": _phone,
    "credit_card": _until(lambda made: is_card(made) or is_named_card(made), keep=4),
    "iban": _until(is_iban, keep=2),
    "national_id": _national_id,
    "ip_address": _ip_address,
    "mac_address": _mac_address,
    "url_with_credentials": _url,
    "url": _url,
    "api_key": _api_key,
    "private_key": _private_key,
    "crypto_wallet": _crypto_wallet,
    "street_address": _street_address,
    "date_of_birth": _date_of_birth,
    "vehicle": _vehicle,
    "person": _name,
    "location": _location,
    "organisation": _organisation,
}
