"""Phone numbers, payment cards and bank accounts: long runs of digits that follow a plan.

A number that a plan or a checksum vouches for counts by itself when its form is unmistakable (`+44 …`,
`(202) 555-…`, 16 digits with a valid Luhn digit); other forms need a word that names them. Fictitious North
American numbers (555-0100 to 555-0199) stay.
"""

import re
from collections.abc import Iterator

import phonenumbers
from stdnum import iban as iban_number
from stdnum import luhn

from pipeline_lib.personal_data.checksums import is_card_prefix, is_rare_card_prefix
from pipeline_lib.personal_data.context import (
    DASHES,
    NO_WORD_AFTER,
    NO_WORD_BEFORE,
    SEPARATORS,
    around,
    before,
    digits_of,
    words,
)
from pipeline_lib.personal_data.kinds import Regions, Span

_GAP = rf"[{SEPARATORS}{DASHES}./]"
_RUN = re.compile(rf"[0-9](?:(?:{_GAP}|[()]){{0,3}}[0-9]){{6,}}")
_REACH = 24
"""Characters after a run of digits that an extension, and the look at what follows, may need."""
_EXTENSION = rf"(?:,?[{SEPARATORS}]?(?:x|ext\.?|extension|#)[{SEPARATORS}.:]?[0-9]{{1,6}})?"
_FREE = NO_WORD_BEFORE + r"(?<![+.,/=$€£¥#%^*:\-(])"
_END = NO_WORD_AFTER + r"(?![.,][0-9]|[\-/–:][0-9]|%|[ ]?[*=×÷^])"
_NORTH_AMERICA = re.compile(
    rf"{NO_WORD_BEFORE}(?<![+./$€£¥#%^*\-])(?<![0-9],)(?:(?:\+"
    rf"|00)?1[{SEPARATORS}{DASHES}.]?)?(?:\(([0-9]{{3}})\)[{SEPARATORS}{DASHES}.]?"
    rf"|([0-9]{{3}})[{SEPARATORS}{DASHES}./])"
    rf"([0-9]{{3}})[{SEPARATORS}{DASHES}.]([0-9]{{4}}){_EXTENSION}{_END}",
    re.IGNORECASE,
)
_INTERNATIONAL = re.compile(
    (
        rf"{NO_WORD_BEFORE}(?<![+./=$€£¥#%^*\-])(?<![0-9],)\(?(?:\+|00{_GAP}?)\(?[1-9][0-9]{{0,2}}\)?(?:(?:{_GAP}"
        rf"|[()]){{0,3}}[0-9]){{6,13}}{_EXTENSION}{NO_WORD_AFTER}(?!%)"
    ),
    re.IGNORECASE,
)
_NATIONAL = re.compile(
    rf"{_FREE}\(?0[0-9]{{0,5}}\)?(?:{_GAP}{{0,3}}[0-9]){{6,11}}{_EXTENSION}{_END}", re.IGNORECASE
)
_NAMED = re.compile(
    rf"{_FREE}\(?[0-9]{{1,5}}\)?(?:[{SEPARATORS}{DASHES}./()]{{0,3}}[0-9]){{5,14}}{_EXTENSION}{_END}",
    re.IGNORECASE,
)
_PHONE_WORDS = words(
    r"(?:tele)?phones?",
    r"tel",
    r"mobile",
    r"cell(?:phone|ular)?",
    r"fax",
    r"whatsapp",
    r"sms",
    r"telegram",
    r"landline",
    r"hotline",
    r"helpline",
    r"call(?:ing|ed)? (?:me|us|him|her|them|back|now|at|on|toll)",
    r"dial(?:ing|led)?",
    r"(?:call|ring|text|phone)(?:ing|ed)?[ :]{1,2}$",
    r"reach(?:ed|able)?(?: \w+){0,2} (?:at|on|under|by)",
    r"(?:my|your|his|her|our|their|'s|contact|work|home|office|emergency|callback) (?:new )?number",
    r"contact(?: me| us| him| her)? (?:at|on)",
    r"toll[- ]free",
    r"voice ?mail",
    r"messag(?:e|es|ing)(?: \w+)? (?:at|on|to)",
    r"answer(?:s|ed|ing)? (?:at|on)",
    r"telefon(?:nummer)?",
    r"handy(?:nummer)?",
    r"mobil(?:e|nummer|telefon)?",
    r"rufnummer",
    r"erreichbar",
    r"t[ée]l[ée]phone",
    r"portable",
    r"appelez",
    r"joindre",
    r"tel[ée]fono",
    r"m[óo]vil",
    r"celular",
    r"ll[aá]m[ae]\w*",
    r"cellulare",
    r"chiam\w+",
    r"telefone",
    r"telem[óo]vel",
    r"ligue",
    r"telefoon",
    r"bel",
    r"puhelin",
    r"numer",
    r"電話",
    r"电话",
    r"手机",
)
_OTHER_WORDS = words(
    r"orders?",
    r"invoices?",
    r"tracking",
    r"serial",
    r"part",
    r"model",
    r"sku",
    r"isbn(?:-1[03])?",
    r"issn",
    r"doi",
    r"case",
    r"ticket",
    r"ref(?:erence)?",
    r"id",
    r"version",
    r"account",
    r"barcode",
    r"ean",
    r"upc",
    r"gtin",
    r"pmid",
    r"patent",
    r"imei",
    r"lot",
    r"batch",
    r"zip",
    r"line",
    r"lines",
    r"page",
    r"pages",
    r"bytes",
    r"rows?",
    r"seed",
    r"timestamp",
    r"score",
    r"between",
    r"years?",
    r"equals?",
    r"sum",
    r"array",
    r"sequence",
    r"license",
    r"policy",
    r"confirmation",
    r"routing",
    r"item",
    r"code",
)
_DATE = re.compile(
    r"(?:[0-9]{1,2}([./-])[0-9]{1,2}\1(?:[0-9]{2}|[0-9]{4})"
    r"|[0-9]{4}([./-])[0-9]{1,2}\2[0-9]{1,2}(?:[ T][0-9]{2})?|(?:[0-9]{1,2}/){3}[0-9]{1,2}"
    r"|(?:[0-9]{1,3}[.]){3}[0-9]{1,3}$"
    r"|(?:1[0-9]|20)[0-9]{2}[ ]?[-–/][ ]?[0-9]{2,4}|[0-9]+\.[0-9]+$)(?![./-]?[0-9])"
)
_CARD = re.compile(
    rf"{NO_WORD_BEFORE}(?<![.,/+])(?<![0-9][-:])(?:[0-9]{{12,19}}"
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
)
_IBAN = re.compile(rf"(?<![A-Za-z0-9])[A-Z]{{2}}[0-9]{{2}}(?:[{SEPARATORS}{DASHES}]?[A-Z0-9]){{11,31}}")
_NAMED_IBAN = re.compile(
    rf"(?<=iban)\W{{1,3}}([a-z]{{2}}[0-9]{{2}}(?:[{SEPARATORS}{DASHES}]?[a-z0-9]){{11,31}})", re.IGNORECASE
)
"""In small letters too, which bare would be too much like any word of letters and digits."""


def phones(text: str, regions: Regions) -> Iterator[Span]:
    """Yield phone numbers that a numbering plan allows or that the text calls so."""
    for run in _RUN.finditer(text):
        window = max(0, run.start() - 3), run.end() + _REACH
        for match in _NORTH_AMERICA.finditer(text, *window):
            if _is_north_american(text, match):
                yield Span("phone", *match.span())
        for match in _INTERNATIONAL.finditer(text, *window):
            end = _longest_possible(text, match)
            if end:
                yield Span("phone", match.start(), end)
        for match in _NATIONAL.finditer(text, *window):
            if _is_national(text, match, regions):
                yield Span("phone", *match.span())
        yield from _named_phones(text, regions, window)


def _is_north_american(text: str, match: re.Match[str]) -> bool:
    area, exchange, line = match.group(1) or match.group(2), match.group(3), match.group(4)
    if _is_fictitious(exchange + line):
        return False
    if _called_otherwise(text, match.start()) or (
        area[0] == "0" and not match.group(0).startswith(("+", "00", "1"))
    ):
        return False
    plain = match.group(0)[:7].isdigit() or (" " in match.group(0) and "-" not in match.group(0))
    if match.group(1) is None and plain and not _is_valid(area + exchange + line, "US"):
        return around(text, *match.span(), _PHONE_WORDS)
    return True


def _is_fictitious(digits: str) -> bool:
    return re.fullmatch(r"55501[0-9]{2}", digits[-7:]) is not None


def _called_otherwise(text: str, start: int) -> bool:
    return before(text, start, _OTHER_WORDS, 25) and not before(text, start, _PHONE_WORDS, 25)


def _longest_possible(text: str, match: re.Match[str]) -> int:
    """Return where the longest possible number ends, or 0: a following one may have been swallowed."""
    value = match.group(0)
    if before(text, match.start(), re.compile(r"[0-9)] ?$"), 2):
        return 0
    ends = [len(value), *(gap.start() for gap in reversed(list(re.finditer(rf"{_GAP}", value))))]
    for end in ends[:5]:
        if len(digits_of(value[:end])) >= 8 and _is_possible(value[:end], end < len(value)):
            return (
                0
                if value[:end].startswith(("+1", "001")) and _is_fictitious(digits_of(value[:end]))
                else match.start() + end
            )
    return 0


def _is_possible(value: str, shortened: bool) -> bool:
    digits = re.sub(r"\(0\)", "", re.split(r"x|ext|#", value, maxsplit=1, flags=re.IGNORECASE)[0])
    number = "+" + (digits_of(digits) if "+" in digits else digits_of(digits)[2:])
    try:
        parsed = phonenumbers.parse(number)
    except phonenumbers.NumberParseException:
        return False
    strict = shortened or "+" not in digits or "." in digits
    return phonenumbers.is_valid_number(parsed) if strict else phonenumbers.is_possible_number(parsed)


def _is_valid(number: str, region: str) -> bool:
    try:
        return phonenumbers.is_valid_number(phonenumbers.parse(number, region))
    except phonenumbers.NumberParseException:
        return False


def _is_national(text: str, match: re.Match[str], regions: Regions) -> bool:
    value = re.split(r"x|ext|#", match.group(0), maxsplit=1, flags=re.IGNORECASE)[0]
    digits = digits_of(value)
    grouped = len(re.findall(r"[0-9]+", value)) > 1
    if (
        _is_sequence(value)
        or not 9 <= len(digits) <= 12
        or digits.startswith("00")
        or _DATE.match(value.lstrip("("))
        or _called_otherwise(text, match.start())
    ):
        return False
    named = before(text, match.start(), _PHONE_WORDS)
    return (grouped or named) and any(_is_valid(digits, region) for region in regions)


def _is_sequence(value: str) -> bool:
    """Return whether single digits stand in a row, as in `0 1 1 2 3 5 8`."""
    return len(re.findall(r"(?<![0-9])[0-9](?![0-9])", value)) > 2


def _named_phones(text: str, regions: Regions, window: tuple[int, int]) -> Iterator[Span]:
    """Yield numbers of any form right after (or before) a word for phone."""
    for match in _NAMED.finditer(text, *window):
        digits = digits_of(re.split(r"x|ext|#", match.group(0), maxsplit=1, flags=re.IGNORECASE)[0])
        if (
            _is_sequence(match.group(0))
            or _DATE.match(match.group(0).lstrip("("))
            or _is_fictitious(digits)
            or not 7 <= len(digits) <= 15
            or len(set(digits)) < 3
        ):
            continue
        if _called_otherwise(text, match.start()) or not around(text, *match.span(), _PHONE_WORDS, 40, 12):
            continue
        if any(_is_dialled(digits, region) for region in regions):
            yield Span("phone", *match.span())


def _is_dialled(digits: str, region: str) -> bool:
    try:
        return phonenumbers.is_possible_number(phonenumbers.parse(digits, region))
    except phonenumbers.NumberParseException:
        return False


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
    bare = [match.span() for match in _IBAN.finditer(text)]
    named = [match.span(1) for match in _NAMED_IBAN.finditer(text)]
    for start, end in {*bare, *named}:
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
