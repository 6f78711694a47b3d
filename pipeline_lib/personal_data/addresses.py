"""Street addresses, where a pattern carries: a house number beside the name of a street.

Forms of the English-speaking countries, India, German, French, Spanish, Italian, Portuguese, Polish and
Dutch, with the unit, town and postcode that follow, and of China, Japan and Korea. Towns alone, and addresses
without a number, need a recogniser (`recognise`).
"""

import re
from collections.abc import Callable, Iterator
from functools import cache

from pipeline_lib.personal_data.context import near_numbers
from pipeline_lib.personal_data.kinds import Regions, Span

_PARTICLE = (
    r"(?:(?:de|la|le|les|du|des|del|della|delle|dei|degli|do|da|das|dos|el|los|las|y|e|et)(?!\w)"
    r"|(?=[dl]['’]))"
)
_NAME = rf"(?:{_PARTICLE} )*(?:[dl]['’])?[A-ZÀ-Þ][\w'’.-]*"
ENGLISH_SORTS = (
    "Street|St|Avenue|Ave|Road|Rd|Boulevard|Blvd|Lane|Ln|Drive|Dr|Court|Ct|Place|Pl|Square|Sq"
    "|Terrace|Way|Parkway|Pkwy|Circle|Cir|Highway|Hwy|Trail|Trl|Close|Crescent|Cres|Mews"
    "|Grove|Gardens|Hill|Row|Walk|Alley|Loop|Plaza|Turnpike|Expressway|Crossing|Heights|Ridge|Pike"
    "|Esplanade|Parade|Pde|Tce|Quay|Run|Path|Bypass|Common|Point|View|Landing|Motorway|Freeway"
)
_UNIT = (
    r"(?:,? (?:Apt|Apartment|Suite|Ste|Unit|Floor|Fl|Flat|Room|Rm|#)\.?[ #]?[A-Z0-9-]{1,6}\b| "
    r"?#[0-9A-Z-]{1,6}\b)?"
)
_UNIT_BEFORE = re.compile(
    r"(?<!\w)(?:Flat|Apartment|Apt|Unit|Suite|Studio)\.? [A-Z0-9]{1,5},? $"
    r"|(?<!\w)(?:(?:H(?:ouse)?|Flat|Plot|Door|Shop)\.? ?)?No\.? ?$|(?<!\w)(?:Flat|Plot) $"
)
_TOWN = (
    r"(?:(?:Den|La|Le|Las|Los|El|São|San|St\.?) )?(?:[A-ZÀ-Þ](?:[^\W\d]|['’.-])+(?: [A-ZÀ-Þ](?:[^\W\d]"
    r"|['’.-])+){0,2})"
)
_NEXT = r"(?:,? |\n|,\n)"
"""From the street to the town: a comma, or the next line."""
_STATE = (
    r"(?:,? [A-Z]{2} [0-9]{5}(?:-[0-9]{4})?\b|,? [A-Z]{2},? [A-Z][0-9][A-Z] ?[0-9][A-Z][0-9]\b"
    r"| ?[-–,]? ?[1-9][0-9]{2} ?[0-9]{3}\b|,? [A-Z]{1,2}[0-9][0-9A-Z]? [0-9][A-Z]{2}\b|,? "
    r"(?:[A-Z][a-z]+ ){1,2}[0-9]{5}(?:-[0-9]{4})?\b|,? [A-Z]{2,3},? [0-9]{4}\b|,? [A-Z]{2}\b(?![a-z]))"
)
_POSTAL_TOWN = (
    r"(?:[A-Z]{1,2}-)?(?:[0-9]{5}-[0-9]{3}|[0-9]{2}-[0-9]{3}|[0-9]{4}-[0-9]{3}|[0-9]{3} [0-9]{2}"
    r"|[0-9]{4} ?[A-Z]{2}\b,?"
    rf"|[0-9]{{4,5}}) {_TOWN}(?: [A-Z]\b)?(?:,? \([A-Z]{{2}}\)| [A-Z]{{2}}\b)?"
)
_HOUSE = (
    r"[0-9]{1,4}(?:(?: ?[a-h]| ?[A-H](?![a-zA-Z]))\b|-[0-9IVX]{1,4}\b|/[0-9A-Z]{1,4}\b)?(?![0-9.,:][0-9])"
)
_BRAZILIAN_TOWN = (
    r"(?:,? (?:apto?|apartamento|bloco|bl|casa|sala|conj)\.? ?[0-9A-Z]{1,5}\b)*"
    rf"(?:(?:,| -) {_TOWN}(?: d[aeo]s? {_TOWN})?){{0,2}}(?: ?[-/–] ?|, ?)[A-Z]{{2}}\b"
    r"(?:,? (?:CEP:? ?)?[0-9]{5}-?[0-9]{3}\b)?"
)
"""The unit, district and town, with the two letters of the state, and the postcode."""
_DOOR = r"(?:,? (?:[0-9]{1,2} ?[ºª°](?: ?(?:[A-D]\b|dcha|izq|centro))?|m\. ?[0-9]{1,3}|lok\. ?[0-9]{1,3}))?"


_STREET_NUMBER = re.compile(
    r"[0-9](?<= [0-9])(?<=(?:aße|sse|tr\.|[wW]eg|atz|lee|amm|fer|ing|aat|aan|cht|ade|ein|eeg|gel|eef|wal|out"
    r"|ijk|vej|ien|ata|tan|gen|æde|llé|änd|väg|veg|tie|atu) [0-9])"
).search
"""What ends a street whose sort is part of its name (`Lindenstraße`, `Keizersgracht`), and a number."""
_BEFORE_POSTCODE = re.compile(rf"[0-9] ?[a-h]?{_NEXT}(?:D-)?[0-9]{{5}}").search
_ROMANCE_SORT = re.compile(
    r"[CAPRVLTE](?<!\w[CAPRVLTE])(?:alle|/|venida|vda?\.|v\.|laza|aseo|arrera|arrer|amino|onda|ia|iale|iazza"
    r"|orso|argo|icolo|ua|ravessa|raça|lameda|strada|odovia) "
).search
_POLISH_SORT = re.compile(r"[UuAaPpOo](?<!\w[UuAaPpOo])(?:[ls]\.|lica|lej[ae]|lac|siedle) ?[A-ZĄ-Ż]").search
_NUMBER_FIRST = (
    rf"[0-9](?<![\w.,$€£/-][0-9])[0-9]{{0,4}}(?:[A-Za-z]|[-/][0-9]{{1,4}}|½)?,? (?:(?:North|South|East|West"
    rf"|[NSEW]{{1,2}}\.?) )?(?:(?:St|Mt|Dr)\.? )?(?:(?:The|[A-Z][\w'’.-]*)|[0-9]{{1,3}}(?:st|nd|rd|th)) "
    rf"(?:[A-Z][\w'’-]* ){{0,3}}?(?:{ENGLISH_SORTS})\b\.?(?! (?:and|or) [A-Z][a-z]+ (?:Street"
    rf"|Avenue))(?: (?:North|South|East|West|[NSEW]{{1,2}})\b)?{_UNIT}(?:{_NEXT}{_TOWN}{_STATE})?",
    (
        rf"[0-9](?<![\w.,$€£/-][0-9])[0-9]{{0,4}}[a-z]? (?:Broadway|Piccadilly|Strand"
        r"|(?:State Route|County Road|Route|Highway)"
        r" [0-9]{1,4}|[A-Z][a-z]{2,12}(?:way|gate|field|side)(?=[.,\n])|The "
        rf"(?:Mall|Strand|Green|Avenue|Crescent|Close|Drive|Grove|Mews|Parade|Square"
        rf"|Terrace))\b{_UNIT}(?:{_NEXT}{_TOWN}{_STATE})?"
    ),
    (
        rf"[0-9](?<![\w.,/-][0-9])[0-9]{{0,3}}(?: ?(?:bis|ter|quater|[A-Da-d]))?,? "
        rf"(?i:rue|avenue|av\.|boulevard|bd|bld|place|chemin|impasse|all[ée]e|quai|cours|route|faubourg|passage|villa|sentier|square)"
        rf"(?: {_NAME}){{1,5}}(?:{_NEXT}[0-9]{{4,5}} {_TOWN})?"
    ),
)
"""Shapes that begin with a number; their first element is a set of characters, which `re` finds fast."""
_INDIAN = re.compile(
    r"(?<![\w.,$€£/-])(?:(?:(?:H(?:ouse)?|Flat|Plot|Door|Shop)\.? ?)?(?:No\.? ?)?)?(?:[A-Z]-)?[0-9]{1,4}"
    r"(?:[-/][0-9]{1,4})?[A-Z]?,? (?=[^\n]{0,80}?\b(?:Road|Rd|Street|St|Nagar|Marg|Sector|Colony|Layout|Cross"
    r"|Main|Lane|Salai|Enclave|Vihar|Block|Phase|Apartments?|Society|Bazaar|Chowk|Puram|Hills|Towers?|Garden)\b)"
    rf"(?:[A-Z0-9][\w.'’-]*,? ){{1,7}}?{_TOWN}[-–, ]{{1,3}}[1-9][0-9]{{2}} ?[0-9]{{3}}\b(?![,.][0-9])"
)
"""A number and names, one of them a street's or a quarter's, before a town with a postcode of six digits."""
_IDEOGRAPH = "(?:(?![位于在是的住到从址往和与為寄])[\u4e00-\u9fff])"
_CHINESE = re.compile(
    rf"(?:{_IDEOGRAPH}{{2,8}}[省市区县州旗])?{_IDEOGRAPH}{{1,12}}?(?:路|街|大道|道|巷|弄|胡同|里)"
    r"[0-9]{1,5}[号號弄](?![线線])(?:(?:院|之)?[0-9]{1,5}(?:号楼|栋|幢|座|单元|楼|层|室|号))*"
)
_JAPANESE = re.compile(
    r"(?:〒? ?[0-9]{3}-[0-9]{4}\s?)?"
    r"(?:東京都|北海道|(?:京都|大阪)府|[\u4e00-\u9fff]{2,3}県)[\u4e00-\u9fff\u3041-\u30ff々ヶ]{1,20}?"
    r"[0-9]{1,4}(?:丁目|[-−の]|番地?)[0-9]{1,4}(?:(?:番地?の?|[-−の])[0-9]{1,4})?号?"
)
_KOREAN = re.compile(
    r"(?:[가-힣]{2,7}(?:시|도) )?[가-힣]{1,5}(?:구|군|시) (?:[가-힣]{1,5}(?:읍|면) )?[가-힣0-9]{1,12}"
    r"(?:로|길) ?[0-9]{1,4}(?:-[0-9]{1,3})?(?![0-9])"
)
"""Chinese, Japanese and Korean addresses go from the large to the small."""
_WORD_FIRST: tuple[tuple[Callable[[str], object], str], ...] = (
    (re.compile(r"Box [0-9]").search, r"(?<!\w)P\.? ?O\.? Box [0-9]{1,6}\b"),
    (
        re.compile(r"PSC [0-9]").search,
        rf"(?<!\w)PSC [0-9]{{1,5}},? Box [0-9]{{1,5}}(?:{_NEXT}(?:APO|FPO|DPO) A[AEP] [0-9]{{5}})?",
    ),
    (
        lambda text: _STREET_NUMBER(text) or _BEFORE_POSTCODE(text),
        r"(?<![\w-])(?!Ad?dress|Anschrift)(?:[A-ZÄÖÜ][\w.]{0,25}[ -])?(?:[A-ZÄÖÜ][\w-]{0,30}(?:straße"
        r"|strasse|str\."
        r"|weg|[pP]latz|[aA]llee|gasse|damm|ufer|-Straße|-Str\.|-Ring|-Gasse|-Weg)|Straße|Strasse|Str\."
        r"|Allee|Platz"
        rf"|(?:Unter|An|Am|Auf|Im|In|Zum|Zur"
        rf"|Hinter)(?: de[nmr])?(?: [A-ZÄÖÜ][\wäöüß]{{2,20}}){{1,2}}(?= [0-9]{{1,3}} ?[a-h]?{_NEXT}"
        rf"(?:D-)?[0-9]{{5}})) {_HOUSE}(?:{_NEXT}(?:[A-Z]{{1,2}}-)?[0-9]{{4,5}} {_TOWN})?",
    ),
    (
        _POLISH_SORT,
        rf"(?<!\w)(?:[Uu]l\.|[Aa]l\.|[Pp]l\.|[Oo]s\.|[Uu]lica|[Aa]leja|[Aa]leje|[Pp]lac"
        rf"|[Oo]siedle) ?(?:[A-ZĄ-Ż][\w.-]* ){{1,4}}[0-9]{{1,4}}[a-zA-Z]?"
        rf"(?:/[0-9]{{1,4}})?\b(?:(?: m\.? ?|/)[0-9]{{1,4}}\b)?(?:{_NEXT}[0-9]{{2}}-[0-9]{{3}} {_TOWN})?",
    ),
    (
        re.compile(r"ул\.|пр\.|пер\.|улица|проспект|переулок").search,
        r"(?<!\w)(?:ул\.|пр\.|пер\.|улица|проспект|переулок) (?:[А-ЯЁ][\w-]* ?){1,3},? ?(?:д\.|дом)? ?"
        r"[0-9]{1,4}(?:[а-я]|/[0-9]{1,4})?\b(?:,? ?(?:кв\.|квартира) ?[0-9]{1,4})?",
    ),
    (
        _ROMANCE_SORT,
        rf"(?<!\w)(?:Calle|C/|Avenida|Avda?\.|Av\.|Plaza|Paseo|Carrera|Carrer|Camino|Ronda|Via|Viale|Piazza"
        rf"|Corso|Largo"
        rf"|Vicolo|Rua|Travessa|Praça|Alameda|Estrada|Rodovia)(?: {_NAME}){{1,5}}?,? (?:n[.º°]? ?|nº ?"
        rf"|N°? ?)?{_HOUSE}{_DOOR}"
        rf"(?:(?:{_NEXT}| - ){_POSTAL_TOWN}|{_BRAZILIAN_TOWN})?",
    ),
    (
        _STREET_NUMBER,
        rf"(?<![\w-])(?:(?:Nieuwezijds|Oudezijds|Lange|Korte|Nieuwe|Oude|Eerste|Tweede|[Ss]tora|Norra"
        rf"|Södra) )?[A-ZÅÄÖØÆ][\w-]{{0,30}}(?:straat|laan|gracht|kade|plein|steeg|singel|dreef|burgwal"
        rf"|voorhout|[td]ijk"
        rf"|vej|gade|veien|gata|gatan|vägen|stræde|allé|gränd|stigen|väg|veg|tie|katu) [0-9]{{1,4}}(?:[a-z]\b"
        rf"|-[0-9IVX]+)?\b(?:{_NEXT}{_POSTAL_TOWN})?",
    ),
)
"""Shapes that begin with a word, each with a quick look for what it needs, which few texts have."""
_OTHERS: tuple[tuple[Callable[[str], object], re.Pattern[str]], ...] = (
    (re.compile(r"[a-z][-–, ]{1,3}[1-9][0-9]{2} ?[0-9]{3}\b").search, _INDIAN),
    (re.compile("[0-9][号號弄]").search, _CHINESE),
    (re.compile("[都道府県]").search, _JAPANESE),
    (re.compile("[로길] ?[0-9]").search, _KOREAN),
)
"""Each with a quick look for what it needs."""
_POSTCODE = re.compile(r"(?:, |\n)(?:[0-9]{4} ?[A-Z]{2}|[A-Z]{1,2}-[0-9]{4}|[0-9]{2}-[0-9]{3})")
_TOWNED = re.compile(
    rf"(?<![\w-])(?!Adres)[A-ZÀ-Þ][\w'’-]+(?: (?:{_PARTICLE} )?[A-ZÀ-Þ][\w'’.-]*){{0,3}},? "
    r"[0-9]{1,4}(?: ?[a-h]\b|-[0-9IVX]{1,4}\b)?"
    rf"(?:, |\n)(?:[0-9]{{4}} ?[A-Z]{{2}},? {_TOWN}|[A-Z]{{1,2}}-[0-9]{{4,5}} {_TOWN}"
    rf"|[0-9]{{2}}-[0-9]{{3}} {_TOWN})"
)
"""Any name and number, before a town with a postcode that is no mere number."""
_LABELS = (
    "address",
    "adress",
    "anschrift",
    "wohn",
    "adres",
    "direcc",
    "domicilio",
    "indirizzo",
    "endereço",
    "morada",
)
_LABELLED = re.compile(
    r"(?<![\w-])(?:(?i:(?:home|street|postal|mailing|shipping|billing|delivery|residential|current|my|your"
    r"|his|her|our|their|new)"
    r"[ _-]?address|adresse|anschrift|wohnort|wohnhaft in|adres|dirección|domicilio|indirizzo|endereço"
    r"|morada|adress)"
    r"[\"'*`\])]*(?: is| ist| est| es| è| é)?[ ]?[:=|]?[ \t]*[\"'`*]*)"
    rf"((?:[A-ZÀ-Þ][\w'’.-]*|de[nrm]?|la|do|da|das|dos)(?:,? (?:[A-ZÀ-Þ][\w'’.-]*|de[nrm]?|la|do|da|das"
    rf"|dos)){{0,5}},? {_HOUSE}"
    rf"(?:{_NEXT}{_POSTAL_TOWN})?"
    rf"|[0-9]{{1,4}}[a-z]? [A-ZÀ-Þ][\w'’.-]+(?: [A-ZÀ-Þ][\w'’.-]+){{0,3}}(?:{_NEXT}{_TOWN}{_STATE})?)"
)
"""After a word for it, any name with a number is an address."""
_BEFORE, _AFTER = 160, 240
"""Characters of an address before and after one of its numbers, at most."""
_COUNTED = re.compile(r"\b(?:day|week|stage|step|chapter|part|hole|scene) $", re.IGNORECASE)
_YEAR_BEFORE = re.compile(
    r"\b(?:in|since|of|the|by|from|until|for|on|all|these|those|with|are|were|has|have) $", re.IGNORECASE
)


def street_addresses(text: str, regions: Regions) -> Iterator[Span]:
    """Yield house number and street, with the town and postcode where they follow."""
    address = _pattern(tuple(bool(may_hold(text)) for may_hold, _ in _WORD_FIRST))
    lowered = text.lower()
    labelled = any(label in lowered for label in _LABELS)
    others = [shape for may_hold, shape in _OTHERS if may_hold(text)]
    for begin, end in near_numbers(text, _BEFORE, _AFTER):
        for shape in others:
            for match in shape.finditer(text, begin, end):
                yield _span(text, *match.span())
        for match in address.finditer(text, begin, end):
            if not _is_other_number(text, match):
                unit = _UNIT_BEFORE.search(text, max(0, match.start() - 18), match.start())
                yield _span(text, unit.start() if unit else match.start(), match.end())
        for match in _TOWNED.finditer(text, begin, end) if _POSTCODE.search(text, begin, end) else ():
            yield _span(text, *match.span())
        for match in _LABELLED.finditer(text, begin, end) if labelled else ():
            yield _span(text, *match.span(1))


@cache
def _pattern(possible: tuple[bool, ...]) -> re.Pattern[str]:
    """Return a pattern of the shapes that begin with a number, and of those others that are possible."""
    numbered = "|".join(shape.removeprefix("[0-9]") for shape in _NUMBER_FIRST)
    named = [shape for (_, shape), is_possible in zip(_WORD_FIRST, possible, strict=True) if is_possible]
    return re.compile("|".join([f"[0-9](?:{numbered})", *(f"(?:{shape})" for shape in named)]))


def _span(text: str, start: int, end: int) -> Span:
    return Span("street_address", start, start + len(text[start:end].rstrip(" .,")))


def _is_other_number(text: str, match: re.Match[str]) -> bool:
    """Return whether the leading number is a year (`the 2008 Wall Street crash`) or counts (`day 4`)."""
    before = text[max(0, match.start() - 8) : match.start()]
    if _COUNTED.search(before):
        return True
    is_year = re.match(r"(?:1[5-9]|20)[0-9]{2},? ", match.group(0)) is not None
    return is_year and _YEAR_BEFORE.search(before) is not None
