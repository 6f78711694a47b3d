"""The cheap look before the close one: what sorts of personal data can a text hold at all.

Most texts hold none, so the detectors' patterns are not run on them. A *gate* is a small pattern that matches
wherever a detector could find something; RE2 (`google-re2`, when installed) looks for several gates in one
pass over the text, else the standard `re` looks for each. `suspicious` does the same for an Arrow column at
once. A gate may open in vain, but must never stay shut where its detector would find something.
"""

import re
from collections.abc import Callable
from functools import cache, lru_cache

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline_lib.personal_data.addresses import ENGLISH_SORTS
from pipeline_lib.personal_data.context import DASHES, SEPARATORS
from pipeline_lib.personal_data.credentials import SECRET_NAMES

_JOINTS = rf"[{SEPARATORS}()./{DASHES}]"
_GAP = rf"[{SEPARATORS}{DASHES}.]"

Matcher = Callable[[str], list[int] | None]
"""Tells the places of the gates that open for a text."""

_TOGETHER = (
    {"at", "colons", "web", "pem", "www"},
    {"key"},
    {"secret"},
    {"wallet"},
    {"digits", "letters_digits", "dots", "passport"},
    {"street"},
    {"vehicle", "birth"},
)
"""Gates that are looked for in one pass: of others together, RE2's automaton has too many states."""

_NUMBERED = frozenset({"digits", "letters_digits", "dots", "passport", "street", "vehicle", "birth"})
"""Gates that never open for a text without a digit, as many are."""

_NONE: frozenset[str] = frozenset()

_SHORT = 100
"""Characters of a text up to which what was seen of it is remembered."""

GATES = {
    "at": r"[0-9A-Za-z_\x{80}-\x{10FFFF}%+'~&.-]@[0-9A-Za-z\x{80}-\x{10FFFF}]|[\[({] ?[aA][tT] ?[\])}]"
    r"| [aA][tT] [0-9A-Za-z.-]+ [dD][oO][tT] ",
    "digits": rf"[0-9](?:{_JOINTS}*[0-9]){{6}}",
    "letters_digits": (
        rf"[A-Z]{{2}}{_GAP}?[0-9]{{2}}{_GAP}?[0-9A-Z]{{2}}{_GAP}?[0-9A-Z]{{2}}"
        r"|[A-Z]{2}[0-9LMNP-V]{2}[A-EHLMPRST][0-9LMNP-V]{2}"
        r"|[A-Z]{3} [0-9LMNP-V]{2}[A-EHLMPRST]|[A-Z]{5}[0-9]{4}[A-Z]|[XYZ][ -][0-9]{7}|[0-9][A-Z][0-9]{3}"
        r"|\b[a-z]{2}[0-9]{2}[0-9a-z]{11}"
    ),
    "colons": (
        r"[0-9a-fA-F]:[0-9a-fA-F]{1,4}:[0-9a-fA-F:]|[0-9a-fA-F]{4}::?[0-9a-fA-F]|::[fF]{4}:"
        r"|[0-9a-fA-F]{2}-[0-9a-fA-F]{2}-[0-9a-fA-F]{2}-|[0-9a-fA-F]{4}\.[0-9a-fA-F]{4}\.[0-9a-fA-F]{4}"
    ),
    "dots": r"[0-9]\.[0-9]{1,3}\.[0-9]{1,3}\.[0-9]",
    "web": r"://[^\s]*(?:@|=)|://hooks\.slack\.com|/api/webhooks/|\.office\.com/",
    "key": (
        r"A[KSIRGN][IDOP]A[0-9A-Z]{4}|LTAI[0-9A-Za-z]{8}|AKID[0-9A-Za-z]{8}|gh[pousr]_|github_pat_"
        r"|gl(?:pat|ptt|dt|rt|rtr|cbt|ft|oas|soat|imt|agent|ffct)-|(?:\b"
        r"|\\[nrt])(?:gsk_|sk-|xai-|r8_|hf_|npm_|lin_api_|[rsp]k_live_|[rsp]k_test_|re_[0-9A-Za-z]{4})|whsec_"
        r"|xox[abeoprs]-|xapp-|AIza|ya29\.|GOCSPX-|:APA91b|AccountKey=|[0-9]Q~|ATATT3|AT[BC][BT]|HRKU-"
        r"|hv[bsr]\."
        r"|\.atlasv1\.|dckr_[op]at_|f[mo][12]_|sbp_|nfp_|pscale_|pul-[0-9a-f]{4}|tskey-|AKCp|CLOJARS_"
        r"|rubygems_"
        r"|dp\.(?:pt|st|ct|sa|scim|audit)\.|AGE-SECRET-|pplx-|nvapi-|pcsk_|lsv2_"
        r"|[MNO][DTjz][AEIMQUYcgk][w-z0-5][MNO][DTjz]"
        r"|[0-9a-f]-us[0-9]|xkeysib-|EAAA|EAA[0-9A-Za-z]{4}|rzp_|shippo_|access-(?:production|sandbox"
        r"|development)-"
        r"|secret_[0-9A-Za-z]{8}|ntn_[0-9]|figd_|pat[0-9A-Za-z]{14}|pat-(?:na|eu)|PMAK-|CFPAT-|glsa_|glc_"
        r"|NR(?:AK|JS|RA)-"
        r"|sntry[su]_|dt0[a-z][0-9]{2}\.|sq[aup]_|[sp]k\.eyJ|[0-9A-Za-z+/]==(?:[^=]|$)"
        r"|eyJ[0-9A-Za-z_-]{8}|pypi-|SG\.|key-[0-9a-z]|(?:AC|SK)[0-9a-f]{8}|do[opr]_v1_|dapi[0-9a-f]"
        r"|shp(?:at|ca|pa|ss|ua)_|:AA[0-9A-Za-z_-]|sq0[ac][ts]p-"
    ),
    "pem": r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY",
    "secret": (
        rf"(?i:{SECRET_NAMES})(?:[\"`]?[,;)\n]|[\"'`\])*]*(?i:[ \t]*[:=：|]|[\t<>]|[ \t]+[-–—] "
        r"|[ \t]+(?:is|was|set to|ist|est|es)[ \t:]|[ \t]+[^\s\"'`<>]{8}))"
    ),
    "wallet": r"0x[0-9a-fA-F]{40}|[0-9a-z]1[02-9ac-hj-np-z]{11}|[A-Z]1[02-9AC-HJ-NP-Z]{30}"
    r"|[1-9A-HJ-NP-Za-km-z]{25}|bitcoincash:|G[A-Z2-7]{55}|[EU]Q[0-9A-Za-z_-]{46}",
    "vehicle": r"[A-HJ-NPR-Z0-9]{13}[0-9]{4}"
    r"|(?:(?i:plate|reg[ ._:=-]|reg(?:istr|nummer|nr)|tag number|vrn|kennzeichen|autonummer"
    r"|kontrollschild|nummern?schild|immatricul|plaque|matr[ií]cula|targa|kenteken|rejestracyjn|nummerplade"
    r"|nummerskilt"
    r"|placa|patente|spz|rekister|nmatriculare|(?:vehicle|car)[ _-]?n)"
    r"|značka|plaka|rendszám|омер|πινακίδα|车牌|車牌|ナンバー|차량|번호판)[^0-9]*[0-9]",
    "street": (
        r"\b(?:[Uu]l|[Aa]l|[Pp]l|[Oo]s)\. ?[A-ZĄ-Ż][^\n\t0-9]{0,60} [0-9]|(?:ул|пр|пер)\. |"
        r"(?:улица|проспект|переулок) |(?:[Uu]lica|[Aa]lej[ae]|[Pp]lac|[Oo]siedle) [A-ZĄ-Ż]|PSC [0-9]|"
        rf"[^\s] (?:{ENGLISH_SORTS})\b|[0-9][a-z]? (?:Broadway|Piccadilly|Strand|The |State Route|County Road"
        rf"|Route|Highway)|Box [0-9]"
        r"|[0-9][a-z]? [A-Z][a-z]+(?:way|gate|field|side)"
        r"|(?:[Ss]tra(?:ß|ss)e|[Ss]tr\.|[wW]eg|[Pp]latz|[Aa]llee|[gG]asse|-Ring|damm|ufer|straat|laan"
        r"|gracht|kade|[td]ijk"
        r"|plein|steeg|singel|dreef|burgwal|voorhout|vej|gade|veien|gata|väg|veg|vägen|gatan|stræde|allé"
        r"|gränd|stigen"
        r"|tie|katu) [0-9]"
        r"|[0-9](?: ?(?:bis|ter|quater|[A-Da-d]))?,? (?i:rue|avenue|av\.|boulevard|bd|bld|place|chemin"
        r"|impasse"
        r"|all[ée]e|quai|cours|route|faubourg|square|passage|villa|sentier) "
        r"|(?:Calle|C/|Avenida|Avda?\.|Av\.|Plaza|Paseo|Carrera|Carrer|Camino|Ronda|Via|Viale|Piazza|Corso"
        r"|Largo|Vicolo"
        r"|Rua|Travessa|Praça|Alameda|Estrada|Rodovia) [^\n\t0-9]*[0-9]"
        r"|[路街道巷弄同里][0-9]{1,5}[号號弄]|(?:都|北海道|府|県)[^\n0-9]{1,24}[0-9]|[로길] ?[0-9]"
        r"|[a-z][-–, ]{1,3}[1-9][0-9]{2} ?[0-9]{3}\b"
        r"|[0-9a-hIVX](?:, |\n)(?:[0-9]{4} ?[A-Z]{2}|[A-Z]{1,2}-[0-9]{4}|[0-9]{5}|[0-9]{2}-[0-9]{3})"
        r"|(?i:address|adresse|anschrift|wohnort|wohnhaft|adres|dirección|domicilio|indirizzo|endereço"
        r"|morada)[^\n0-9]*[0-9]"
    ),
    "birth": (
        r"(?i:born|b\. ?[0-9]|d\.?o\.?b|birth|geb\.|geboren|geburt|née? (?:le|en)|naissance|naci(?:ó"
        r"|do|da)|nacimiento|nat[oa] (?:il|a)|nascita|nascid[oa]|nasc|nascimento|geboorte|urodz|ur\.|född"
        r"|födelse"
        r"|født|fødsel|synty|naroz|născut|nașter|doğum|рожд|родил|γέννησ|γεννήθ|לידה|출생|생년월일|생일|生年月日"
        r"|誕生日|生まれ|出生|生日)[^!?0-9]*[0-9]"
    ),
    "passport": (
        r"(?i:pass(?:e?port|aporte|aporto)|pasaport|pașaport|paspoort|paszport|reisepass|pass-?n|passin"
        r"|pasnu|pas[u ]"
        r"|паспорт|διαβατηρίου|דרכון|护照|護照|パスポート|旅券|여권)[^0-9]*[0-9]|<<[A-Z<]*\s{1,2}[A-Z0-9<]{9}"
        r"|[A-Z0-9<]{25}\s{1,2}[0-9]{7}[MFX<]"
    ),
    "www": r"://|www\.",
}
"""Gate patterns in the syntax that RE2 and `re` share, save `\\x{…}`, which is rewritten for `re`."""

KINDS_BY_GATE = {
    "at": ("email",),
    "digits": ("phone", "credit_card", "iban", "national_id"),
    "letters_digits": ("iban", "national_id"),
    "colons": ("ip_address", "mac_address"),
    "dots": ("ip_address",),
    "web": ("url_with_credentials",),
    "key": ("api_key",),
    "pem": ("private_key",),
    "secret": ("secret",),
    "wallet": ("crypto_wallet",),
    "vehicle": ("vehicle",),
    "street": ("street_address",),
    "birth": ("date_of_birth",),
    "passport": ("passport",),
    "www": ("url",),
}
"""The kinds that may lie behind each gate."""


def gates_of(kinds: frozenset[str]) -> tuple[str, ...]:
    """Return the gates that guard any of the kinds."""
    return tuple(gate for gate, guarded in KINDS_BY_GATE.items() if kinds.intersection(guarded))


def _for_re(pattern: str) -> str:
    return re.sub(r"\\x\{([0-9A-F]+)\}", lambda match: f"\\U{int(match.group(1), 16):08x}", pattern)


@cache
def look(kinds: frozenset[str]) -> Callable[[str], frozenset[str]]:
    """Return a function that tells which of the kinds a text may hold."""
    gates = gates_of(kinds)
    behind = [frozenset(KINDS_BY_GATE[gate]) & kinds for gate in gates]
    matching = _re2_matcher(gates) or _re_matcher(gates)

    def possible(text: str) -> frozenset[str]:
        opened = matching(text)
        return frozenset().union(*(behind[index] for index in opened)) if opened else _NONE

    # The keys of JSON and many of its values come again and again.
    again = lru_cache(maxsize=4_096)(possible)
    return lambda text: (again if len(text) <= _SHORT else possible)(text)


def _re2_matcher(gates: tuple[str, ...]) -> Matcher | None:
    try:
        import re2
    except ImportError:
        return None
    options = re2.Options()
    options.max_mem = 256 << 20
    sets = []
    for group in _groups(gates):
        gate_set = re2.Set.SearchSet(options)
        for gate in group:
            gate_set.Add(GATES[gate])
        gate_set.Compile()
        sets.append((gate_set.Match, [gates.index(gate) for gate in group]))

    def opened(text: str) -> list[int]:
        encoded = text.encode()
        return [places[index] for match, places in sets for index in match(encoded) or ()]

    return opened


def _groups(gates: tuple[str, ...]) -> list[list[str]]:
    """Return the gates that are looked for together."""
    groups = ([gate for gate in gates if gate in group] for group in _TOGETHER)
    return [group for group in groups if group]


def _re_matcher(gates: tuple[str, ...]) -> Matcher:
    patterns = [re.compile(_for_re(GATES[gate]), re.ASCII) for gate in gates]
    return lambda text: [index for index, pattern in enumerate(patterns) if pattern.search(text)]


def suspicious(column: pa.Array | pa.ChunkedArray, kinds: frozenset[str]) -> pa.Array | pa.ChunkedArray:
    """Return a boolean column: false where a text can hold none of the kinds, and for null."""
    groups = _groups(gates_of(kinds))
    mask = np.zeros(len(column), dtype=bool)
    for group in groups:
        if not _NUMBERED.issuperset(group):
            mask |= _opened(column, group)
    if any(_NUMBERED.issuperset(group) for group in groups):
        places = np.flatnonzero(_matches(column, "[0-9]"))
        numbered = column.take(pa.array(places))
        for group in groups:
            if _NUMBERED.issuperset(group):
                mask[places] |= _opened(numbered, group)
    return pa.array(mask)


def _opened(column: pa.Array | pa.ChunkedArray, group: list[str]) -> np.ndarray:
    return _matches(column, "|".join(f"(?:{GATES[gate]})" for gate in group))


def _matches(column: pa.Array | pa.ChunkedArray, pattern: str) -> np.ndarray:
    return np.asarray(pc.fill_null(pc.match_substring_regex(column, pattern), False))
