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
    INSIDE,
    NO_WORD_AFTER,
    NO_WORD_BEFORE,
    REACH,
    SEPARATORS,
    around,
    compact,
    digits_of,
    near_numbers,
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
        "januari februari maart april mei juni juli augustus september oktober november december",
        "januari februari mars april maj juni juli augusti september oktober november december",
        "januar februar mars april mai juni juli august september oktober november desember",
        "januar februar marts april maj juni juli august september oktober november december",
        "stycznia lutego marca kwietnia maja czerwca lipca sierpnia września października listopada grudnia",
        "ledna února března dubna května června července srpna září října listopadu prosince",
        "tammikuuta helmikuuta maaliskuuta huhtikuuta toukokuuta kesäkuuta heinäkuuta elokuuta syyskuuta "
        "lokakuuta marraskuuta joulukuuta",
        "ianuarie februarie martie aprilie mai iunie iulie august septembrie octombrie noiembrie decembrie",
        "Ocak Şubat Mart Nisan Mayıs Haziran Temmuz Ağustos Eylül Ekim Kasım Aralık",
        "января февраля марта апреля мая июня июля августа сентября октября ноября декабря",
        "Ιανουαρίου Φεβρουαρίου Μαρτίου Απριλίου Μαΐου Ιουνίου Ιουλίου Αυγούστου Σεπτεμβρίου Οκτωβρίου "
        "Νοεμβρίου Δεκεμβρίου",
    )
)
_MONTH = "|".join(sorted({month for names in MONTHS for month in names} | {"Sept"}, key=len, reverse=True))
_YEAR = r"(?:19|20)[0-9]{2}"
_DATE = (
    rf"{_YEAR}([./-])(?:1[0-2]|0?[1-9])\2(?:3[01]|[12][0-9]|0?[1-9])|(?:3[01]|[12][0-9]"
    rf"|0?[1-9])([./-])(?:3[01]|[12][0-9]|0?[1-9])\3(?:{_YEAR}|[0-9]{{2}})"
    r"|(?:3[01]|[12][0-9]|0?[1-9])\. (?:1[0-2]|0?[1-9])\. "
    rf"{_YEAR}"
    rf"|(?:3[01]|[12][0-9]|0?[1-9])(?:st|nd|rd|th|er|\.|º)?(?: of| de)?[ -](?:{_MONTH})\.?(?:,| "
    rf"de)?[ -]{_YEAR}"
    rf"|(?:{_MONTH})\.? (?:3[01]|[12][0-9]|0?[1-9])(?:st|nd|rd|th)?,? {_YEAR}"
    rf"|{_YEAR} ?[年년] ?[0-9]{{1,2}} ?[月월] ?[0-9]{{1,2}} ?[日일]"
)
_OTHER_DEED = (
    r"(?:died|deceased|dead|killed|released|married|joined|founded|formed|published|moved|gestorben"
    r"|verheiratet"
    r"|décédée?|mort|murió|morto|†)"
)
_BORN = re.compile(
    rf"(?<!{INSIDE})(?:born|b\. ?(?=[0-9])|d\.?o\.?b\.?|date[ _-]?of[ _-]?birth|birth[ _-]?(?:date|day)"
    r"(?! (?:party|celebration|dinner|trip|present|gift))|geboren|geb\.|geburtsdatum|geburtstag"
    r"|née? (?:le|en)|date de naissance|naci(?:ó|do|da)|fecha de nacimiento"
    r"|nat[oa] (?:il|a)|data di nascita|nascid[oa]|nasc(?:eu)?|data de nascimento"
    r"|geboortedatum|geb\.?datum|data urodzenia|urodzon[ya]|ur\. ?(?=[0-9])|född|födelsedatum|född(?:a|es)"
    r"|født|fødselsdato|fødselsdag|syntynyt|syntymäaika|datum narození|narozena?|născută?|data nașterii"
    r"|doğum tarihi|doğumlu|дата рождения|родил(?:ся|ась)|ημερομηνία γέννησης|γεννήθηκε|תאריך לידה"
    r"|출생(?:일)?|생년월일|생일|生年月日|誕生日|生まれ|出生(?:日期)?|生日(?!派对|聚会|会|快乐|蛋糕|礼物))(?![a-z])"
    rf"(?:(?!\n\n|(?<!{INSIDE}){_OTHER_DEED}(?!{INSIDE}))[^!?0-9]){{0,45}}?({_DATE}){NO_WORD_AFTER}(?![./-][0-9])",
    re.IGNORECASE,
)
PASSPORT_WORDS = (
    r"passports?|reisepass(?:nummer)?|pass[- ]?(?:nr|nummer)|passnummer|passeport|pasaporte|passaporto"
    r"|passaporte"
    r"|paspoort(?:nummer)?|paszport\w*|passnr|pasnummer|passinumero|pas(?:u|aport)?|pașaport\w*|pasaport\w*"
    r"|паспорт\w*|διαβατηρίου|דרכון|护照|護照|パスポート|旅券|여권"
)
_ACROSS = r"(?:\n[^\n0-9]{0,40}[,;|\t] ?)"
"""From the head of a table to the cell of its first row."""
_PASSPORT = re.compile(
    rf"(?<!{INSIDE})(?:{PASSPORT_WORDS})(?!{INSIDE})(?:[^.!?\n0-9]|\bn[or]?\.|(?<=[nN][rRoO])\."
    rf"|\n\n?){{0,40}}?"
    r"(?<![\w-])((?=[A-Z0-9]*[0-9][A-Z0-9]*[0-9][A-Z0-9]*[0-9][A-Z0-9]*[0-9])[A-Z0-9]{6,10}|[A-Z]{1,2} "
    r"?[0-9]{6,8}|[0-9]{2}[A-Z]{2}[0-9]{5}|[0-9]{3} [0-9]{3} [0-9]{3}|[0-9]{2} ?[0-9]{2} [0-9]{6})(?![\w]"
    r"|-[0-9])",
    re.IGNORECASE,
)
_NUMBERING = re.compile(
    rf"(?:[\W_]|</?\w{{1,6}}>|(?<!{INSIDE})(?:n|no|nr|num|id|number|numbers|numm?er(?:o|et)?|n[uú]m[eé]ro"
    rf"|numar|număr\w*|номер|номера"
    r"|serie|is|was|are|my|the|it|its|to|you|wanted|for|ist|lautet|wurde|es|est|è|é|jest|är|er|on|de|di|du"
    r"|do|del"
    rf"|code|issued|book|card|field|updated|new|番号|号码|号|號碼|번호)(?!{INSIDE})|号码?|番号|번호|{_ACROSS})*",
    re.IGNORECASE,
)
"""What may stand between the word and a bare number that is a passport's, and not a count of people."""
_SHORT_OF_DIGITS = re.compile(
    r"(?:[Pp]assports?|Reisepass(?:nummer)?|Pass-?[Nn](?:ummer|r)\.?|[Pp]aspoort(?:nummer)?)"
    r"(?:[^.!?\n0-9]|\n|\b[NnI][rRoOdD]\.){0,20}?(?<![\w-])"
    r"([CFGHJK](?=[A-Z]*[0-9])[CFGHJ-NPRTV-Z0-9]{8}|[A-NP-Z]{2}(?=[A-Z]{0,5}[0-9])[A-NP-Z0-9]{6}[0-9])(?![\w-])"
)
"""Nine characters of a German passport, without vowels, or of a Dutch one, with two digits: no words."""
_PASSPORT_AFTER = re.compile(
    r"(?<![\w-])((?=[A-Z]*[0-9])[A-Z]{0,2}[0-9]{6,9})(?= (?:is|was|as)? ?(?:my|his|her|the|their"
    r"|your)? ?passport)"
)
_MACHINE_READABLE = re.compile(
    r"(?<![A-Z0-9<])(?:P[A-Z<][A-Z<]{3}[A-Z<]{25,39}\s{1,2}[A-Z0-9<]{9}[0-9<][A-Z<]{3}[0-9]{6}[0-9][MFX<][0-9]{6}[0-9<]"
    r"[A-Z0-9<]{14}[0-9<]{1,2}"
    r"|[IAC][A-Z<][A-Z<]{3}[A-Z0-9<]{25}\s{1,2}[0-9]{6}[0-9][MFX<][0-9]{7}[A-Z<]{3}[A-Z0-9<]{11}"
    r"[0-9]\s{1,2}[A-Z<]{30})(?![A-Z0-9<])"
)
"""The lines at the foot of a passport or identity card (ICAO 9303)."""
_VIN = re.compile(r"(?<![A-Za-z0-9-])(?=[0-9]*[A-Z])[A-HJ-NPR-Z0-9]{13}[0-9]{4}(?![A-Za-z0-9-])")
_ISLAND = re.compile(rf"[0-9A-Z][0-9A-Z{SEPARATORS}{DASHES}.+/]{{6,}}")
_REGISTERED = re.compile(
    rf"[0-9]{{6}}|[0-9]{{1,4}}[{SEPARATORS}{DASHES}.][0-9]{{2,4}}[{SEPARATORS}{DASHES}.][0-9]{{2,4}}"
    rf"|[A-Z]{{5}}[0-9]{{4}}|[0-9]{{4}} [0-9]{{6}}"
    r"|[A-Z]{3} ?[0-9LMNP-V]{2}[A-EHLMPRST]|[A-Z]{4}[0-9]{6}"
)
"""What every form of a register holds somewhere; arithmetic (`20 - 13 = 7`) does not."""
PLATE_WORDS = (
    r"(?:licen[cs]e|number|registration|reg|vehicle|car)[ _-]?(?:plates?|no\.?|number|reg(?:istration)?"
    r"|tag)|plates?"
    r"|reg(?:istration)?|tag number|vrn|(?:auto|kfz-?|pkw-?)?kennzeichen|autonummer|kontrollschild"
    r"|nummernschild"
    r"|immatricul\w*|plaque(?: d'immatriculation)?|matr[ií]cula|targa(?:ta|to)?|kenteken\w*"
    r"|(?:numer|tablic[aey]|nr) rejestracyjn\w*|registreringsnummer|reg\.?(?:nummer|nr)|nummerplade"
    r"|nummerskilt"
    r"|rekister(?:inumero|itunnus)|placas?|patente|spz|poznávací značka|registrační značka|plaka(?:sı)?"
    r"|num[aă]r(?:ul)? de înmatriculare|rendszám|госномер|гос\. ?номер|номерн\w+ знак\w*|πινακίδα"
    r"|车牌号?码?|車牌|ナンバー(?:プレート)?|차량 ?번호|번호판"
)
_PLATE = re.compile(
    rf"(?<!{INSIDE})(?i:{PLATE_WORDS})(?!{INSIDE})"
    rf"(?:[^\w.!?\n]|</?\w{{1,6}}>|_|\n\n|{_ACROSS}|\b(?:number|no|nr|is|was|ist|lautet|es|est|è|é|jest|är"
    rf"|er|do|del|de|of|the|my|your"
    r"|its|a|to|you|wanted|coche|carro|auto|car|vehicle|truck|van|reads?|shows?|with|updated|for)(?!\w)|号码?|[是为為は]"
    r"|番号){0,12}"
    rf"{NO_WORD_BEFORE}(?<!-)("
    r"[A-Z]{2}[ -]?[0-9]{1,2}[ -]?[A-Z]{1,3}[ -]?[0-9]{4}|[A-Z]{2}[0-9]{2} ?[A-Z]{3}"
    r"|[A-Z][0-9]{1,3} ?[A-Z]{3}|[A-Z]{3} ?[0-9]{1,3}[A-Z]"
    r"|[A-ZÄÖÜ]{1,3}[- ][A-Z]{1,2}[- ]?[0-9]{1,4}[EH]?|[A-Z]{2}[- ]?[0-9]{3}[- ]?[A-Z]{2}"
    r"|[0-9]{4}[- ]?[B-DF-HJ-NP-TV-Z]{3}"
    r"|(?=[0-9-]*[A-Z])(?=[A-Z-]*[0-9])[0-9A-Z]{1,3}-[0-9A-Z]{2,3}-[0-9A-Z]{1,2}"
    r"|[0-9][A-Z]{3}[0-9]{3}|[A-Z]{2,3}[- ]?[0-9]{3,4}|[A-Z]{4}[- ]?[0-9]{3}"
    r"|[A-Z]{2,3} (?=[A-Z]*[0-9])[0-9A-Z]{4,5}"
    r"|[A-Z]{3} ?[0-9]{2}[0-9A-Z]"
    r"|[A-Z]{3}-?[0-9][0-9A-Z][0-9]{2}|[A-Z]{2} ?[0-9]{5,6}"
    r"|[A-Z]{1,2}-[0-9]{1,5}[A-Z]{1,3}|[0-9]{1,3}-?[A-Z]{1,3}-?[0-9]{1,4}|[0-9]{2} ?[A-Z]{1,3} ?[0-9]{2,5}"
    r"|[АВЕКМНОРСТУХ] ?[0-9]{3} ?[АВЕКМНОРСТУХ]{2} ?[0-9]{2,3}|[一-鿿][A-Z][·-]?[A-Z0-9]{5,6}"
    r"|[0-9]{2,3} ?[가-힣] ?[0-9]{4}|[一-龥]{1,4} ?[0-9]{2,3} ?[ぁ-ん] ?[0-9・-]{2,5}"
    r"|[Α-Ω]{3}[- ]?[0-9]{4})(?![\w]|-[0-9A-Z])",
)
"""A word for the plate, in any language, and a value in the form of a country that has such plates."""
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
    for begin, end in near_numbers(text, 90, 40):
        for match in _BORN.finditer(text, begin, end):
            yield Span("date_of_birth", *match.span(1))


def passports(text: str, regions: Regions) -> Iterator[Span]:
    """Yield numbers beside a word for passport, and the machine-readable lines of one."""
    for match in _MACHINE_READABLE.finditer(text) if "<" in text else ():
        yield Span("passport", *match.span())
    for match in _PASSPORT.finditer(text):
        value, named = (
            match.group(1),
            re.sub(rf"^(?:{PASSPORT_WORDS})", "", match.group(0), flags=re.IGNORECASE),
        )
        counts = digits_of(value) == compact(value) and not _NUMBERING.fullmatch(named[: -len(value)])
        if len(digits_of(value)) >= 4 and value.upper() == value and not counts:
            yield Span("passport", *match.span(1))
    for match in _PASSPORT_AFTER.finditer(text):
        yield Span("passport", *match.span(1))
    for match in _SHORT_OF_DIGITS.finditer(text):
        yield Span("passport", *match.span(1))


def vehicles(text: str, regions: Regions) -> Iterator[Span]:
    """Yield vehicle numbers with a valid check digit, or called so (ISO 3779), and plates that are named."""
    for match in _VIN.finditer(text):
        value = compact(match.group(0))
        letters = sum(character.isalpha() for character in value)
        if letters >= 2 and (is_vin(value) or around(text, *match.span(), _VIN_WORDS, 40, 20)):
            yield Span("vehicle", *match.span())
    for begin, end in near_numbers(text, 120, 30):
        for match in _PLATE.finditer(text, begin, end):
            yield Span("vehicle", *match.span(1))
