"""What an authority gives a person or a car: national ids, passports, vehicle numbers, births, addresses.

Each national id is one row of a table: region, form, check, and whether the form alone is enough or a word
must name it. A date counts as one of birth only after a word that says so, and only from 1900 on, since the
dead of history are no longer private.
"""

import re
from collections.abc import Iterator

from pipeline_lib.personal_data.checksums import is_vin
from pipeline_lib.personal_data.context import (
    AHEAD,
    DASHES,
    NO_WORD_AFTER,
    REACH,
    SEPARATORS,
    around,
    compact,
    digits_of,
    words,
)
from pipeline_lib.personal_data.kinds import Regions, Span
from pipeline_lib.personal_data.registers import NAMED, NAMES, REGISTERS, TELLING, Register

MONTHS = tuple(
    names.split()
    for names in (
        "January February March April May June July August September October November December",
        "Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec",
        "Januar Februar März April Mai Juni Juli August September Oktober November Dezember",
        "janvier février mars avril mai juin juillet août septembre octobre novembre décembre",
        "enero febrero marzo abril mayo junio julio agosto septiembre octubre noviembre diciembre",
        "gennaio febbraio marzo aprile maggio giugno luglio agosto settembre ottobre novembre dicembre",
        "janeiro fevereiro março abril maio junho julho agosto setembro outubro novembro dezembro",
    )
)
_MONTH = "|".join(sorted({month for names in MONTHS for month in names} | {"Sept"}, key=len, reverse=True))
_YEAR = r"(?:19|20)[0-9]{2}"
_DATE = (
    rf"{_YEAR}([./-])(?:1[0-2]|0?[1-9])\2(?:3[01]|[12][0-9]|0?[1-9])|(?:3[01]|[12][0-9]"
    rf"|0?[1-9])([./-])(?:3[01]|[12][0-9]|0?[1-9])\3(?:{_YEAR}|[0-9]{{2}})"
    rf"|(?:3[01]|[12][0-9]|0?[1-9])(?:st|nd|rd|th|er|\.|º)?(?: of| de)?[ -](?:{_MONTH})\.?(?:,| "
    rf"de)?[ -]{_YEAR}"
    rf"|(?:{_MONTH})\.? (?:3[01]|[12][0-9]|0?[1-9])(?:st|nd|rd|th)?,? {_YEAR}|{_YEAR} ?年 "
    rf"?[0-9]{{1,2}} ?月 ?[0-9]{{1,2}} ?日"
)
_BORN = re.compile(
    r"(?<![^\W_])(?:born|b\. ?(?=[0-9])|d\.?o\.?b\.?|date[ _-]?of[ _-]?birth|birth[ _-]?date"
    r"|birthday(?! (?:party|celebration|dinner|trip|present|gift))|geboren|geb\."
    r"|geburtsdatum|geburtstag|née? (?:le|en)|date de naissance|naci(?:ó|do|da)|fecha de nacimiento"
    r"|nat[oa] (?:il|a)|data di nascita|nascid[oa]|nasc(?:eu)?|data de nascimento"
    rf"|geboortedatum|출생|生年月日|出生(?:日期)?)(?![a-z])[^!?\n0-9]{{0,45}}?({_DATE}){NO_WORD_AFTER}(?![./-][0-9])",
    re.IGNORECASE,
)
_PASSPORT = re.compile(
    r"(?<!\w)(?:passports?|reisepass(?:nummer)?|passeport|pasaporte|passaporto|passaporte"
    r"|paspoort)(?!\w)(?:[^.!?\n0-9]|\bno\.|\bnr\.){0,40}?(?<![\w-])"
    r"((?=[A-Z0-9]*[0-9][A-Z0-9]*[0-9][A-Z0-9]*[0-9][A-Z0-9]*[0-9])[A-Z0-9]{6,10}|[A-Z]{1,2} "
    r"?[0-9]{6,8}|[0-9]{2}[A-Z]{2}[0-9]{5}|[0-9]{3} [0-9]{3} [0-9]{3})(?![\w]|-[0-9])",
    re.IGNORECASE,
)
_NUMBERED = re.compile(
    r"num|\bno\b|nr|n[°º]|№|#|:|=|\bis\b|\bist\b|\bes\b|\best\b|\bè\b|\bé\b", re.IGNORECASE
)
"""What makes a bare number behind the word a passport's, and not a count of people."""
_GERMAN_PASSPORT = re.compile(
    r"(?:passports?|Reisepass(?:nummer)?|Passnummer)[^.!?\n0-9]{0,20}?(?<![\w-])"
    r"([CFGHJK](?=[A-Z]*[0-9])[CFGHJ-NPRTV-Z0-9]{8})(?![\w-])"
)
"""Nine characters without vowels, so that they make no word."""
_PASSPORT_AFTER = re.compile(
    r"(?<![\w-])((?=[A-Z]*[0-9])[A-Z]{0,2}[0-9]{6,9})(?= (?:is|was|as)? ?(?:my|his|her|the|their"
    r"|your)? ?passport)"
)
_VIN = re.compile(r"(?<![A-Za-z0-9-])(?=[0-9]*[A-Z])[A-HJ-NPR-Z0-9]{13}[0-9]{4}(?![A-Za-z0-9-])")
_ISLAND = re.compile(rf"[0-9A-Z][0-9A-Z{SEPARATORS}{DASHES}.+/]{{6,}}")
_REGISTERED = re.compile(
    rf"[0-9]{{6}}|[0-9]{{1,4}}[{SEPARATORS}{DASHES}.][0-9]{{2,4}}[{SEPARATORS}{DASHES}.][0-9]{{2,4}}"
    rf"|[A-Z]{{5}}[0-9]{{4}}|[0-9]{{4}} [0-9]{{6}}"
    r"|[A-Z]{3} ?[0-9LMNP-V]{2}[A-EHLMPRST]|[A-Z]{4}[0-9]{6}"
)
"""What every form of a register holds somewhere; arithmetic (`20 - 13 = 7`) does not."""
_VIN_WORDS = words(
    "vin", "vehicle", "chassis", "car", "truck", "fahrgestellnummer", "fin", "châssis", "bastidor", "telaio"
)


def national_ids(text: str, regions: Regions) -> Iterator[Span]:
    """Yield national identity, tax and social security numbers of the regions."""
    for island in _ISLAND.finditer(text):
        start, end = island.start(), island.end() + 3
        if _REGISTERED.search(text, start, island.end()) and _may_hold(text, start, end):
            for register in REGISTERS:
                if register.region in regions:
                    yield from _registered(text, register, start, end)


def _may_hold(text: str, start: int, end: int) -> bool:
    """Say in three searches what every register's own search would, for most numbers are nobody's."""
    if TELLING.search(text, start, end):
        return True
    near = max(0, start - REACH), end + AHEAD
    return bool(NAMED.search(text, start, end)) and bool(NAMES.search(text, *near))


def _registered(text: str, register: Register, start: int, end: int) -> Iterator[Span]:
    for match in register.form.finditer(text, start, end):
        if register.is_valid(match.group(0)) and not (
            register.named and not around(text, *match.span(), register.words)
        ):
            yield Span("national_id", *match.span())


def register_of(value: str) -> Register | None:
    """Return the first register whose form and check digits a value has."""
    matching = (
        register for register in REGISTERS if register.form.fullmatch(value) and register.is_valid(value)
    )
    return next(matching, None)


def births(text: str, regions: Regions) -> Iterator[Span]:
    """Yield full dates, from 1900 on, that the text calls somebody's birth."""
    for match in _BORN.finditer(text):
        yield Span("date_of_birth", *match.span(1))


def passports(text: str, regions: Regions) -> Iterator[Span]:
    """Yield numbers beside a word for passport."""
    for pattern in (_PASSPORT, _PASSPORT_AFTER):
        for match in pattern.finditer(text):
            value, named = match.group(1), text[match.start() : match.start(1)]
            counts = value.isdigit() and len(named) > 12 and not _NUMBERED.search(named)
            if len(digits_of(value)) >= 4 and value.upper() == value and not counts:
                yield Span("passport", *match.span(1))
    for match in _GERMAN_PASSPORT.finditer(text):
        if len(digits_of(match.group(1))) >= 2:
            yield Span("passport", *match.span(1))


def vehicles(text: str, regions: Regions) -> Iterator[Span]:
    """Yield vehicle identification numbers with a valid check digit, or called so (ISO 3779)."""
    for match in _VIN.finditer(text):
        value = compact(match.group(0))
        letters = sum(character.isalpha() for character in value)
        if letters >= 2 and (is_vin(value) or around(text, *match.span(), _VIN_WORDS, 40, 20)):
            yield Span("vehicle", *match.span())
