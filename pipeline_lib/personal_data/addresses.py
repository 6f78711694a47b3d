"""Street addresses, where a pattern carries: a house number beside the name of a street.

Forms of the English-speaking countries, German, French, Spanish, Italian, Portuguese and Dutch, with the
unit, town and postcode that follow. Towns alone, and addresses without a number, need a recogniser
(`recognise`).
"""

import re
from collections.abc import Iterator

from pipeline_lib.personal_data.kinds import Regions, Span

_PARTICLE = r"(?:(?:de|la|le|les|du|des|del|della|dei|do|da|dos|el|los|las|y|e|et)(?!\w)|(?=[dl]['’]))"
_NAME = rf"(?:{_PARTICLE} )*(?:[dl]['’])?[A-ZÀ-Þ][\w'’.-]*"
_ENGLISH_SORTS = (
    "Street|St|Avenue|Ave|Road|Rd|Boulevard|Blvd|Lane|Ln|Drive|Dr|Court|Ct|Place|Pl|Square|Sq"
    "|Terrace|Way|Parkway|Pkwy|Circle|Cir|Highway|Hwy|Trail|Trl|Close|Crescent|Cres|Mews"
    "|Grove|Gardens|Hill|Row|Walk|Alley|Loop|Plaza|Turnpike|Expressway|Crossing|Heights|Ridge|Pike"
    "|Esplanade|Parade|Quay|Run|Path|Bypass|Common|Point|View|Landing"
)
_UNIT = (
    r"(?:,? (?:Apt|Apartment|Suite|Ste|Unit|Floor|Fl|Flat|Room|Rm|#)\.?[ #]?[A-Z0-9-]{1,6}\b| "
    r"?#[0-9A-Z-]{1,6}\b)?"
)
_TOWN = r"(?:[A-ZÀ-Þ](?:[^\W\d]|['’.-])+(?: [A-ZÀ-Þ](?:[^\W\d]|['’.-])+){0,2})"
_STATE = (
    r"(?:,? [A-Z]{2} [0-9]{5}(?:-[0-9]{4})?\b|,? [A-Z]{1,2}[0-9][0-9A-Z]? [0-9][A-Z]{2}\b|,? "
    r"(?:[A-Z][a-z]+ ){1,2}[0-9]{5}(?:-[0-9]{4})?\b|,? [A-Z]{2,3},? [0-9]{4}\b|,? [A-Z]{2}\b(?![a-z]))"
)
_SHAPES = (
    rf"(?<![\w.,$€£/-])[0-9]{{1,5}}(?:[A-Za-z]|[-/][0-9]{{1,4}}|½)?,? (?:(?:North|South|East|West"
    rf"|[NSEW]{{1,2}}\.?) )?(?:(?:St|Mt|Dr)\.? )?(?:[A-Z][\w'’.-]*|[0-9]{{1,3}}(?:st|nd|rd|th)) "
    rf"(?:[A-Z][\w'’-]* ){{0,3}}?(?:{_ENGLISH_SORTS})\b\.?(?! (?:and|or) [A-Z][a-z]+ (?:Street"
    rf"|Avenue))(?: (?:North|South|East|West|[NSEW]{{1,2}})\b)?{_UNIT}(?:,? {_TOWN}{_STATE})?",
    (
        rf"(?<![\w.,$€£/-])[0-9]{{1,5}} (?:Broadway|Piccadilly|Strand|The (?:Mall|Strand|Green"
        rf"|Avenue))\b{_UNIT}(?:, {_TOWN}{_STATE})?"
    ),
    r"(?<!\w)P\.? ?O\.? Box [0-9]{1,6}\b",
    (
        r"(?<![\w-])(?:[A-ZÄÖÜ][\w.]{0,25}[ -])?(?:[A-ZÄÖÜ][\w-]{0,30}(?:straße|strasse|str\."
        r"|weg|platz|allee|gasse|damm|ufer)|Straße|Strasse|Str\.|Allee|Platz) [0-9]{1,4} ?[a-h]?\b"
        rf"(?:,? (?:D-)?[0-9]{{4,5}} {_TOWN})?"
    ),
    (
        rf"(?<![\w.,/-])[0-9]{{1,4}}(?: ?(?:bis|ter|quater|[A-D]))?,? (?i:rue|avenue|av\.|boulevard|bd"
        rf"|place|chemin|impasse|all[ée]e|quai|cours|route|faubourg)(?: {_NAME}){{1,5}}(?:,? [0-9]{{5}} "
        rf"{_TOWN})?"
    ),
    rf"(?<!\w)(?:[Uu]l|[Aa]l|[Pp]l|[Oo]s)\. ?(?:[A-ZĄ-Ż][\w.-]* ){{1,4}}[0-9]{{1,4}}[a-zA-Z]?"
    rf"(?:/[0-9]{{1,4}})?\b(?:(?: m\.? ?|/)[0-9]{{1,4}}\b)?(?:,? [0-9]{{2}}-[0-9]{{3}} {_TOWN})?",
    (
        r"(?<!\w)(?:ул\.|пр\.|пер\.|улица|проспект|переулок) (?:[А-ЯЁ][\w-]* ?){1,3},? ?(?:д\.|дом)? ?"
        r"[0-9]{1,4}(?:[а-я]|/[0-9]{1,4})?\b(?:,? ?(?:кв\.|квартира) ?[0-9]{1,4})?"
    ),
    rf"(?<!\w)(?:Calle|C/|Avenida|Avda?\.|Plaza|Paseo|Carrera|Ronda|Via|Viale|Piazza|Corso|Largo"
    rf"|Vicolo|Rua|Travessa|Praça|Alameda)(?: {_NAME}){{1,5}}?,? (?:n[.º°]? "
    rf"?)?[0-9]{{1,4}}(?![0-9.,][0-9])\b"
    rf"(?:,? (?:[0-9]{{5}}|[0-9]{{4}}-[0-9]{{3}}) {_TOWN})?",
    (
        rf"(?<![\w-])[A-ZÅÄÖØÆ][\w-]{{0,30}}(?:straat|laan|gracht|kade|plein|steeg|singel"
        rf"|vej|gade|veien|gata|vägen|gatan) [0-9]{{1,4}}(?:[a-z]"
        rf"|-[0-9]+)?\b(?:,? [0-9]{{4}} ?[A-Z]{{2}}\b(?: {_TOWN})?)?"
    ),
)
_ADDRESS = re.compile("|".join(f"(?:{shape})" for shape in _SHAPES))
_NUMBER = re.compile("[0-9]+")
_BEFORE, _AFTER = 160, 240
"""Characters of an address before and after one of its numbers, at most."""
_COUNTED = re.compile(r"\b(?:day|week|stage|step|chapter|part|hole|scene) $", re.IGNORECASE)
_YEAR_BEFORE = re.compile(
    r"\b(?:in|since|of|the|by|from|until|for|on|all|these|those|with|are|were|has|have) $", re.IGNORECASE
)


def street_addresses(text: str, regions: Regions) -> Iterator[Span]:
    """Yield house number and street, with the town and postcode where they follow."""
    for begin, end in _around_numbers(text):
        for match in _ADDRESS.finditer(text, begin, end):
            if not _is_other_number(text, match):
                yield Span("street_address", match.start(), match.start() + len(match.group(0).rstrip(" .,")))


def _around_numbers(text: str) -> Iterator[tuple[int, int]]:
    """Yield the stretches of a text in which an address may stand: none is without a number."""
    begin, end = 0, -1
    for number in _NUMBER.finditer(text):
        if number.start() - _BEFORE > end:
            if end >= 0:
                yield begin, end
            begin = max(0, number.start() - _BEFORE)
        end = number.end() + _AFTER
    if end >= 0:
        yield begin, end


def _is_other_number(text: str, match: re.Match[str]) -> bool:
    """Return whether the leading number is a year (`the 2008 Wall Street crash`) or counts (`day 4`)."""
    before = text[max(0, match.start() - 8) : match.start()]
    if _COUNTED.search(before):
        return True
    is_year = re.match(r"(?:1[5-9]|20)[0-9]{2},? ", match.group(0)) is not None
    return is_year and _YEAR_BEFORE.search(before) is not None
