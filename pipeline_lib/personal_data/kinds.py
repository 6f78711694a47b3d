"""The words of personal data: what a kind, a span and a region are.

A *kind* names a sort of personal data (`email`, `iban`); a *span* is one place in a text that holds a value
of a kind; a *placeholder* is what stands there afterwards (`<EMAIL_1>`). `detect` finds spans, `replace` puts
placeholders or surrogates in their place.
"""

import re
from typing import Literal, NamedTuple, get_args

Kind = Literal[
    "email",
    "phone",
    "credit_card",
    "iban",
    "national_id",
    "ip_address",
    "mac_address",
    "url_with_credentials",
    "api_key",
    "private_key",
    "secret",
    "crypto_wallet",
    "street_address",
    "date_of_birth",
    "vehicle",
    "passport",
]
ALL: tuple[Kind, ...] = get_args(Kind)
"""The kinds that are looked for unless others are asked for."""

OPTIONAL = ("url",)
"""Kinds that are found only when named: a plain web address is rarely personal."""

REGIONS = (
    "US CA MX GB IE DE AT CH FR BE NL LU ES PT IT SE NO DK FI PL CZ RO GR TR IL IN SG CN JP KR AU NZ ZA "
    "BR AR CL BG HR LT IS TH"
).split()
"""ISO 3166 codes of the countries whose phone numbers and national ids are known."""

PLACEHOLDER = re.compile(r"<([A-Z][A-Z_]*)_([0-9]+)>")
"""A value that was replaced before; it is never personal data again."""

Regions = tuple[str, ...]


class Span(NamedTuple):
    """One value of a kind, at `text[start:end]` (code points)."""

    kind: str
    start: int
    end: int


def placeholder(kind: str, number: int) -> str:
    """Return the mark that stands for the `number`-th value of a kind in a conversation."""
    return f"<{kind.upper()}_{number}>"
