"""The cheap look before the close one: what sorts of personal data can a text hold at all.

Most texts hold none, so the detectors' patterns are not run on them. A *gate* is a small pattern that
matches wherever a detector could find something; RE2 (`google-re2`, when installed) looks for all gates in
one pass over the text, else the standard `re` looks for each. `suspicious` does the same for an Arrow
column at once. A gate may open in vain, but must never stay shut where its detector would find something.
"""

import re
from collections.abc import Callable
from functools import cache, reduce

import pyarrow as pa
import pyarrow.compute as pc

from pipeline_lib.personal_data.context import DASHES, SEPARATORS
from pipeline_lib.personal_data.credentials import SECRET_NAMES

_JOINTS = rf"[{SEPARATORS}()./{DASHES}]"
_GAP = rf"[{SEPARATORS}{DASHES}.]"

Matcher = Callable[[str], list[int] | None]
"""Tells the places of the gates that open for a text."""

_TOGETHER = 4
"""Gates in one Arrow pattern: with more, RE2's automaton outgrows the memory that Arrow gives it."""

_NONE: frozenset[str] = frozenset()
_STREETS = (
    "Street|St|Ave|Avenue|Road|Rd|Boulevard|Blvd|Lane|Ln|Drive|Dr|Court|Ct|Place|Pl|Square|Sq"
    "|Terrace|Way|Parkway|Pkwy|Circle|Cir|Highway|Hwy|Trail|Trl|Close|Cres|Crescent|Mews"
    "|Grove|Gardens|Hill|Row|Walk|Alley|Loop|Plaza|Turnpike|Expressway|Crossing|Heights|Ridge|Pike"
    "|Esplanade|Parade|Quay|Run|Path|Bypass|Common|Point|View|Landing"
)

GATES = {
    "at": r"[0-9A-Za-z_\x{80}-\x{10FFFF}%+'~&.-]@[0-9A-Za-z\x{80}-\x{10FFFF}]|[\[({] ?[aA][tT] ?[\])}]"
    r"| [aA][tT] [0-9A-Za-z.-]+ [dD][oO][tT] ",
    "digits": rf"[0-9](?:{_JOINTS}*[0-9]){{6}}",
    "letters_digits": (
        rf"[A-Z]{{2}}{_GAP}?[0-9]{{2}}{_GAP}?[0-9A-Z]{{2}}{_GAP}?[0-9A-Z]{{2}}"
        r"|[A-Z]{2}[0-9LMNP-V]{2}[A-EHLMPRST][0-9LMNP-V]{2}"
        r"|[A-Z]{3} [0-9LMNP-V]{2}[A-EHLMPRST]|[A-Z]{5}[0-9]{4}[A-Z]|[XYZ][ -][0-9]{7}|[0-9][A-Z][0-9]{3}"
        r"|[iI][bB][aA][nN][^0-9A-Za-z]"
    ),
    "colons": (
        r"[0-9a-fA-F]:[0-9a-fA-F]{1,4}:[0-9a-fA-F:]|[0-9a-fA-F]{4}::?[0-9a-fA-F]|::[fF]{4}:"
        r"|[0-9a-fA-F]{2}-[0-9a-fA-F]{2}-[0-9a-fA-F]{2}-|[0-9a-fA-F]{4}\.[0-9a-fA-F]{4}\.[0-9a-fA-F]{4}"
    ),
    "dots": r"[0-9]\.[0-9]{1,3}\.[0-9]{1,3}\.[0-9]",
    "web": r"://[^\s]*(?:@|=)",
    "key": (
        r"A[KSIRGN][IDOP]A[0-9A-Z]{4}|gh[pousr]_|github_pat_|gl(?:pat|ptt|dt|rt|cbt)-|(?:\b"
        r"|\\[nrt])(?:gsk_|sk-|xai-|r8_|hf_|npm_|lin_api_|[rsp]k_live_|[rsp]k_test_)|whsec_"
        r"|xox[abeoprs]-|xapp-|AIza|ya29\.|GOCSPX-"
        r"|eyJ[0-9A-Za-z_-]{8}|pypi-|SG\.|key-[0-9a-z]|(?:AC|SK)[0-9a-f]{8}|do[opr]_v1_|dapi[0-9a-f]"
        r"|shp(?:at|ca|pa|ss)_|:AA[0-9A-Za-z_-]|sq0[ac][ts]p-"
    ),
    "pem": r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY",
    "secret": (
        rf"(?i:{SECRET_NAMES})[\"'`\])]*(?i:[ \t]*[:=]|[ \t]+(?:is|was|set to|ist|est|es)[ \t:]|[ "
        rf"\t]+[^\s\"'`<>]{{8}})"
    ),
    "wallet": r"0x[0-9a-fA-F]{40}|bc1[02-9ac-hj-np-z]{11}|[13][1-9A-HJ-NP-Za-km-z]{25}",
    "vehicle": r"[A-HJ-NPR-Z0-9]{13}[0-9]{4}",
    "street": (
        r"\b(?:[Uu]l|[Aa]l|[Pp]l|[Oo]s)\. ?[A-ZĄ-Ż][^\n\t0-9]{0,60} [0-9]|(?:ул|пр|пер)\. |"
        r"(?:улица|проспект|переулок) |"
        rf"[^\s] (?:{_STREETS})\b|[0-9] (?:Broadway|Piccadilly|Strand|The )|Box [0-9]"
        r"|(?:[Ss]tra(?:ß|ss)e|[Ss]tr\.|weg|[Pp]latz|[Aa]llee|gasse|damm|ufer|straat|laan|gracht|kade"
        r"|plein|steeg|singel|vej|gade|veien|gata|vägen|gatan) [0-9]"
        r"|[0-9](?: ?(?:bis|ter|quater|[A-D]))?,? (?i:rue|avenue|av\.|boulevard|bd|place|chemin|impasse"
        r"|all[ée]e|quai|cours|route|faubourg|square) "
        r"|(?:Calle|C/|Avenida|Avda?\.|Plaza|Paseo|Carrera|Ronda|Via|Viale|Piazza|Corso|Largo|Vicolo"
        r"|Rua|Travessa|Praça|Alameda) [^\n\t0-9]*[0-9]"
    ),
    "birth": (
        r"(?i:born|b\. ?[0-9]|d\.?o\.?b|birth|geb\.|geboren|geburt|née? (?:le|en)|naissance|naci(?:ó"
        r"|do|da)|nacimiento|nat[oa] (?:il|a)|nascita|nascid[oa]|nasc|nascimento|geboorte|출생|生年月日"
        r"|出生)[^!?\n0-9]*[0-9]"
    ),
    "passport": r"(?i:pass(?:e?port|aporte|aporto)|reisepass|pasaporte|paspoort)",
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

    return possible


def _re2_matcher(gates: tuple[str, ...]) -> Matcher | None:
    try:
        import re2
    except ImportError:
        return None
    options = re2.Options()
    options.max_mem = 256 << 20
    gate_set = re2.Set.SearchSet(options)
    for gate in gates:
        gate_set.Add(GATES[gate])
    gate_set.Compile()
    matcher: Matcher = gate_set.Match
    return matcher


def _re_matcher(gates: tuple[str, ...]) -> Matcher:
    patterns = [re.compile(_for_re(GATES[gate]), re.ASCII) for gate in gates]
    return lambda text: [index for index, pattern in enumerate(patterns) if pattern.search(text)]


def suspicious(column: pa.Array | pa.ChunkedArray, kinds: frozenset[str]) -> pa.Array | pa.ChunkedArray:
    """Return a boolean column: false where a text can hold none of the kinds, and for null."""
    gates = gates_of(kinds)
    groups = (gates[start : start + _TOGETHER] for start in range(0, len(gates), _TOGETHER))
    patterns = ("|".join(f"(?:{GATES[gate]})" for gate in group) for group in groups)
    masks = [pc.fill_null(pc.match_substring_regex(column, pattern), False) for pattern in patterns]
    return reduce(pc.or_, masks)
