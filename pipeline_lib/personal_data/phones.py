"""Phone numbers: what a numbering plan allows, or the text calls so.

A number in international or North American form counts by itself, a national one that is grouped too; other
forms need a word that names them. Fictitious North American numbers (555-0100 to 555-0199) stay.
"""

import re
from collections.abc import Iterator

import phonenumbers

from pipeline_lib.personal_data.context import (
    DASHES,
    NO_SUM_BEFORE,
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
_EXTENDED = re.compile(r"x|ext|#", re.IGNORECASE)
_FREE = NO_WORD_BEFORE + NO_SUM_BEFORE + r"(?<![+./$€£¥#%^*\-])(?<![0-9][,:])(?:(?<!\()|(?=\())"
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
        rf"{NO_WORD_BEFORE}{NO_SUM_BEFORE}(?<![+./$€£¥#%^*\-])(?<![0-9],)\(?(?:\+"
        rf"|00{_GAP}?)\(?[1-9][0-9]{{0,2}}\)?(?:(?:{_GAP}"
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
    r"t[ée]l",
    r"(?:number|numéro|nummer|número|numero) (?:to call|telefonu|de téléphone|de teléfono|di telefono)",
    r"kom[óo]rk\w*",
    r"mobiel\w*",
    r"gsm(?:-nummer)?",
    r"natel",
    r"cep(?: tel\w*)?",
    r"telefon\w*",
    r"mobil\w*",
    r"matkapuhelin",
    r"τηλ(?:έφωνο|\.)?",
    r"κινητό",
    r"טלפון",
    r"נייד",
    r"телефон\w*",
    r"моб\w*",
    r"هاتف",
    r"फ़ोन|फोन",
    r"電話",
    r"携帯",
    r"电话",
    r"手机",
    r"전화",
    r"휴대",
    r"연락처",
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
    r"solve",
    r"(?:comput|calculat|evaluat|simplif|subtract)\w*",
)
_DATE = re.compile(
    r"(?:[0-9]{1,2}([./-])[0-9]{1,2}\1(?:[0-9]{2}|[0-9]{4})"
    r"|[0-9]{4}([./-])[0-9]{1,2}\2[0-9]{1,2}(?:[ T][0-9]{2})?|(?:[0-9]{1,2}/){3}[0-9]{1,2}"
    r"|(?:(?:0|[1-9][0-9]{0,2})[.]){3}(?:0|[1-9][0-9]{0,2})$"
    r"|(?:1[0-9]|20)[0-9]{2}[ ]?[-–/][ ]?[0-9]{2,4}|(?:0|[1-9][0-9]*)\.[0-9]+$)(?![./-]?[0-9])"
)


def phones(text: str, regions: Regions) -> Iterator[Span]:
    """Yield phone numbers that a numbering plan allows or that the text calls so."""
    for run in _RUN.finditer(text):
        window = max(0, run.start() - 3), run.end() + _REACH
        for match in _NORTH_AMERICA.finditer(text, *window):
            if _is_north_american(text, match):
                yield _span(text, *match.span())
        for match in _INTERNATIONAL.finditer(text, *window):
            end = _longest_possible(text, match)
            if end:
                yield _span(text, match.start(), end)
        for match in _NATIONAL.finditer(text, *window):
            if _is_national(text, match, regions):
                yield _span(text, *match.span())
        yield from _named_phones(text, regions, window)


def without_extension(value: str) -> str:
    """Return the number that stands before an extension (`x12`, `ext. 12`, `#12`)."""
    return _EXTENDED.split(value, maxsplit=1)[0]


def _span(text: str, start: int, end: int) -> Span:
    """Return the span without an opening parenthesis that closes behind the number."""
    return Span("phone", start + (text[start] == "(" and ")" not in text[start:end]), end)


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
    if before(text, match.start(), re.compile(r"[0-9)] ?\Z"), 2):
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
    digits = without_extension(value).replace("(0)", "")
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
    value = without_extension(match.group(0))
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
        digits = digits_of(without_extension(match.group(0)))
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
            yield _span(text, *match.span())


def _is_dialled(digits: str, region: str) -> bool:
    try:
        return phonenumbers.is_possible_number(phonenumbers.parse(digits, region))
    except phonenumbers.NumberParseException:
        return False
