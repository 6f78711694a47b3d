"""Payment cards and bank accounts: long runs of digits that a checksum vouches for.

A number whose form is unmistakable (16 digits with a network's prefix and a valid Luhn digit) counts by
itself; rarer forms need a word that names them.
"""

import re
from collections.abc import Iterator

from stdnum import iban as iban_number
from stdnum import luhn

from pipeline_lib.personal_data.checksums import is_card_prefix, is_rare_card_prefix
from pipeline_lib.personal_data.context import (
    DASHES,
    NO_WORD_AFTER,
    NO_WORD_BEFORE,
    SEPARATORS,
    around,
    digits_of,
    words,
)
from pipeline_lib.personal_data.kinds import Regions, Span

_CARD = re.compile(
    rf"{NO_WORD_BEFORE}(?<![./+])(?<![0-9][-:,])(?:[0-9]{{12,19}}"
    rf"|[0-9]{{4}}([{SEPARATORS}{DASHES}.])[0-9]{{4}}\1[0-9]{{4}}\1[0-9]{{4}}(?:\1[0-9]{{3}}(?![0-9/]))?"
    rf"|[0-9]{{4}}([{SEPARATORS}{DASHES}])[0-9]{{6}}\2[0-9]{{4,5}}"
    rf"|[0-9]{{4}}([{SEPARATORS}{DASHES}])[0-9]{{4}}\3[0-9]{{4}}\3[0-9]{{1,3}}){NO_WORD_AFTER}(?![.,-][0-9])"
)
_CARD_WORDS = words(
    r"(?:credit|debit|bank)?[ -]?cards?",
    r"visa",
    r"master ?card",
    r"maestro",
    r"cc",
    r"kreditkarte",
    r"karte",
    r"carte",
    r"tarjeta",
    r"cart[ãa]o",
    r"carta",
    r"信用卡",
    r"银行卡",
    r"カード",
    r"카드",
    r"karta",
    r"kart(?:e[nt]|ı|ă)?",
    r"kort(?:nummer)?",
    r"creditcard\w*",
    r"карт\w*",
    r"unionpay",
    r"银联\w*",
)
_IBAN = re.compile(rf"(?<![A-Za-z0-9])[A-Za-z]{{2}}[0-9]{{2}}(?:[{SEPARATORS}{DASHES}]?[A-Za-z0-9]){{11,31}}")


def credit_cards(text: str, regions: Regions) -> Iterator[Span]:
    """Yield payment card numbers: a network's prefix and length, and a valid Luhn digit (ISO/IEC 7812-1)."""
    for match in _CARD.finditer(text):
        value = match.group(0)
        if is_card(value) or (is_named_card(value) and around(text, *match.span(), _CARD_WORDS, 40)):
            yield Span("credit_card", *match.span())


def is_card(value: str) -> bool:
    """Return whether the digits of a value are a payment card number."""
    digits = digits_of(value)
    return len(set(digits)) > 1 and is_card_prefix(digits) and luhn.is_valid(digits)


def is_named_card(value: str) -> bool:
    """Return whether the digits may be a card where the text calls them one: of a rare length."""
    return is_rare_card_prefix(digits_of(value)) and bool(luhn.is_valid(digits_of(value)))


def ibans(text: str, regions: Regions) -> Iterator[Span]:
    """Yield bank accounts whose length fits their country and whose remainder by 97 is 1 (ISO 13616)."""
    for match in _IBAN.finditer(text):
        start, end = match.span()
        value = text[start:end]
        for length in range(len(value), 14, -1):
            following = text[start + length : start + length + 1]
            if not following.isalnum() and value[length - 1].isalnum() and is_iban(value[:length]):
                yield Span("iban", start, start + length)
                break


def is_iban(value: str) -> bool:
    """Return whether a value is an IBAN by its country's structure and its check digits."""
    plain = re.sub(rf"[{SEPARATORS}{DASHES}]", "", value)
    return bool(iban_number.is_valid(plain, check_country=False))
