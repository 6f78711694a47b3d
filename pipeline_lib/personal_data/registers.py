"""The national registers: how each country writes its identity, tax and social security numbers.

A row says the region, the form, the check (mostly `stdnum`'s) and the words that name the number. `named`
rows are ambiguous without such a word: nine digits may be anything.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

from stdnum.ar import cuit
from stdnum.at import vnr
from stdnum.au import tfn
from stdnum.be import nn
from stdnum.bg import egn
from stdnum.br import cnpj, cpf
from stdnum.ca import sin
from stdnum.ch import ssn as ahv
from stdnum.cl import rut
from stdnum.cn import ric
from stdnum.cz import rc
from stdnum.de import idnr
from stdnum.dk import cpr
from stdnum.es import dni, nie
from stdnum.fi import hetu
from stdnum.fr import nir
from stdnum.gb import nhs
from stdnum.gr import amka
from stdnum.hr import oib
from stdnum.ie import pps
from stdnum.il import idnr as teudat_zehut
from stdnum.in_ import aadhaar, pan
from stdnum.is_ import kennitala
from stdnum.it import codicefiscale
from stdnum.jp import in_ as my_number
from stdnum.kr import rrn
from stdnum.lt import asmens
from stdnum.mx import curp
from stdnum.nl import bsn
from stdnum.no import fodselsnummer
from stdnum.nz import ird
from stdnum.pl import pesel
from stdnum.pt import cc, nif
from stdnum.ro import cnp
from stdnum.se import personnummer
from stdnum.th import pin as thai
from stdnum.tr import tckimlik
from stdnum.us import itin, ssn
from stdnum.za import idnr as south_african

from pipeline_lib.personal_data.checksums import is_nino, is_nric
from pipeline_lib.personal_data.context import (
    DASHES,
    NO_SUM_BEFORE,
    NO_WORD_AFTER,
    NO_WORD_BEFORE,
    SEPARATORS,
    compact,
    digits_of,
    words,
)

Check = Callable[[str], bool]


@dataclass(frozen=True)
class Register:
    """One form of one country's number; `named` means that a word must stand near it."""

    region: str
    pattern: str
    form: re.Pattern[str]
    """The pattern where it stands by itself."""
    is_valid: Check
    names: tuple[str, ...]
    words: re.Pattern[str]
    named: bool


_GAP = rf"[{SEPARATORS}{DASHES}.]?"
_SPACE = rf"[{SEPARATORS}]"
_DASH = rf"[{DASHES}]"


def _register(region: str, form: str, check: Check, *names: str, named: bool = False) -> Register:
    names = tuple(name.replace(" ", "[ _-]") for name in names)
    return Register(region, form, _bounded(form), check, names, words(*names), named)


def _bounded(form: str) -> re.Pattern[str]:
    before, after = (
        rf"{NO_WORD_BEFORE}{NO_SUM_BEFORE}(?<![$€£#+])(?<![0-9][.,/-])(?<!://)",
        rf"{NO_WORD_AFTER}(?![.,/-][0-9])",
    )
    return re.compile(f"{before}(?:{form}){after}")


def _on(check: Check, clean: Callable[[str], str] = compact) -> Check:
    return lambda value: bool(check(clean(value)))


def _dashed(value: str) -> str:
    return re.sub(rf"[{DASHES}]", "-", value)


_GENERIC = (
    r"identi(?:ty|fication)",
    r"national id(?:entity)?",
    r"tax(?:payer)? (?:id|number|identification)",
    r"id (?:number|no|card)",
    r"social security",
)
_US = (r"ssns?", r"social", r"soc sec", r"itin", r"tin", *_GENERIC)
_GB = (r"ni", r"nino", r"national insurance", r"insurance number", *_GENERIC)

REGISTERS = (
    _register(
        "US",
        rf"[0-9]{{3}}(?P<gap>{_DASH})[0-9]{{2}}(?P=gap)[0-9]{{4}}",
        _on(lambda value: ssn.is_valid(value) or itin.is_valid(value)),
        *_US,
    ),
    _register(
        "US",
        r"[0-9]{3}(?P<gap>[ .]?)[0-9]{2}(?P=gap)[0-9]{4}",
        _on(lambda value: ssn.is_valid(value) or itin.is_valid(value)),
        *_US,
        named=True,
    ),
    _register(
        "GB", rf"[A-Z]{{2}}{_GAP}[0-9]{{2}}{_GAP}[0-9]{{2}}{_GAP}[0-9]{{2}}{_GAP}[A-D]", _on(is_nino), *_GB
    ),
    _register(
        "GB",
        r"[0-9]{3}(?P<gap>[ -]?)[0-9]{3}(?P=gap)[0-9]{4}",
        _on(nhs.is_valid),
        "nhs",
        "health service",
        named=True,
    ),
    _register(
        "FR",
        (
            rf"[12]{_GAP}[0-9]{{2}}{_GAP}(?:0[1-9]|1[0-2]|[2-9][0-9]){_GAP}(?:[0-9]{{2}}"
            rf"|2[AB]){_GAP}[0-9]{{3}}{_GAP}[0-9]{{3}}{_GAP}[0-9]{{2}}"
        ),
        _on(nir.is_valid),
        "nir",
        "insee",
    ),
    _register(
        "ES", r"(?:[0-9]{8}|[0-9]{2}(?:\.[0-9]{3}){2})[ -]?[A-HJ-NP-TV-Z]", _on(dni.is_valid), "dni", "nif"
    ),
    _register("ES", r"[XYZ][ -]?[0-9]{7}[ -]?[A-HJ-NP-TV-Z]", _on(nie.is_valid), "nie"),
    _register(
        "IT",
        r"[A-Z]{3} ?[A-Z]{3} ?[0-9LMNP-V]{2}[A-EHLMPRST][0-9LMNP-V]{2} ?[A-Z][0-9LMNP-V]{3}[A-Z]",
        _on(codicefiscale.is_valid),
        "codice fiscale",
    ),
    _register(
        "DE",
        r"[1-9][0-9](?: ?[0-9]{3}){3}",
        _on(idnr.is_valid),
        r"steuer[\W_]?(?:id(?:ent\w*)?|nummer)",
        r"steuerliche identifikations\w*",
        "idnr",
        r"tin",
        *_GENERIC,
        named=True,
    ),
    _register("BR", rf"[0-9]{{3}}\.[0-9]{{3}}\.[0-9]{{3}}{_DASH}[0-9]{{2}}", _on(cpf.is_valid), "cpf"),
    _register("BR", r"[0-9]{11}", _on(cpf.is_valid), "cpf", named=True),
    _register(
        "BR", rf"[0-9]{{2}}\.[0-9]{{3}}\.[0-9]{{3}}/[0-9]{{4}}{_DASH}[0-9]{{2}}", _on(cnpj.is_valid), "cnpj"
    ),
    _register("BR", r"[0-9]{14}", _on(cnpj.is_valid), "cnpj", named=True),
    _register(
        "SE",
        r"(?:19|20)?[0-9]{6}[-+][0-9]{4}",
        lambda value: bool(personnummer.is_valid(_dashed(value))),
        "personnummer",
    ),
    _register(
        "SE",
        r"(?:(?:19|20)[0-9]{2}|[0-9]{2})[0-9]{4}[0-9]{4}",
        lambda value: bool(personnummer.is_valid(value)),
        r"personnummer",
        r"pnr",
        r"personal (?:identity )?number",
        *_GENERIC,
        named=True,
    ),
    _register(
        "FI",
        r"(?:0[1-9]|[12][0-9]|3[01])(?:0[1-9]|1[0-2])[0-9]{2}[-+A-FU-Y][0-9]{3}[0-9A-FHJ-NPR-Y]",
        lambda value: bool(hetu.is_valid(value)),
        "hetu",
    ),
    _register(
        "DK",
        r"[0-9]{6}-?[0-9]{4}",
        _on(lambda value: cpr.is_valid(value)),
        r"cpr\w*",
        r"personnummer",
        *_GENERIC,
        named=True,
    ),
    _register(
        "NO",
        r"[0-9]{6} ?[0-9]{5}",
        _on(fodselsnummer.is_valid),
        r"f[øo]dselsnummer",
        r"personnummer",
        *_GENERIC,
        named=True,
    ),
    _register(
        "NL",
        r"[0-9]{9}|[0-9]{4}[. ][0-9]{2}[. ][0-9]{3}|[0-9]{3}[. ][0-9]{3}[. ][0-9]{3}",
        _on(bsn.is_valid),
        r"bsn",
        r"burgerservicenummer",
        r"sofi\w*",
        *_GENERIC,
        named=True,
    ),
    _register(
        "BE", r"[0-9]{2}\.[0-9]{2}\.[0-9]{2}-[0-9]{3}\.[0-9]{2}", _on(nn.is_valid), "rijksregisternummer"
    ),
    _register(
        "BE",
        r"[0-9]{11}|[0-9]{2}[. ][0-9]{2}[. ][0-9]{2}[ -][0-9]{3}[. ][0-9]{2}",
        _on(nn.is_valid),
        r"rijksregister\w*",
        r"(?:registre|num[ée]ro) national",
        r"niss",
        r"insz",
        *_GENERIC,
        named=True,
    ),
    _register(
        "PT",
        r"[1-35689][0-9]{2} ?[0-9]{3} ?[0-9]{3}",
        _on(nif.is_valid),
        r"nif",
        r"contribuinte",
        *_GENERIC,
        named=True,
    ),
    _register("PT", r"[0-9]{8} ?[0-9] ?[A-Z]{2}[0-9]", _on(cc.is_valid), "cartão de cidadão"),
    _register("CH", r"756(?P<gap>[. ]?)[0-9]{4}(?P=gap)[0-9]{4}(?P=gap)[0-9]{2}", _on(ahv.is_valid), "ahv"),
    _register(
        "AT",
        r"[1-9][0-9]{3} ?[0-9]{6}",
        _on(vnr.is_valid),
        r"sv(?:nr|-nummer)?",
        r"sozialversicherungsnummer",
        r"versicherungsnummer",
        named=True,
    ),
    _register(
        "IE",
        r"[0-9]{7}[A-W][A-IW]?",
        _on(pps.is_valid),
        r"pps\w*",
        r"personal public service",
        *_GENERIC,
        named=True,
    ),
    _register(
        "IN",
        r"[2-9][0-9]{3}(?P<gap>[ -]?)[0-9]{4}(?P=gap)[0-9]{4}",
        _on(aadhaar.is_valid),
        r"aadh?aa?r",
        r"uidai?",
        *_GENERIC,
        named=True,
    ),
    _register("IN", r"[A-Z]{3}P[A-Z][0-9]{4}[A-Z]", _on(pan.is_valid), "pan"),
    _register(
        "IN", r"[A-Z]{5}[0-9]{4}[A-Z]", _on(pan.is_valid), r"pan", r"permanent account", *_GENERIC, named=True
    ),
    _register("AU", r"[0-9]{3} ?[0-9]{3} ?[0-9]{3}", _on(tfn.is_valid), r"tfn", r"tax file", named=True),
    _register(
        "CA",
        r"[1-9][0-9]{2}(?P<gap>[ -]?)[0-9]{3}(?P=gap)[0-9]{3}",
        _on(sin.is_valid),
        r"sin",
        r"nas",
        r"(?:social insurance|assurance sociale)",
        *_GENERIC,
        named=True,
    ),
    _register("MX", r"[A-Z][AEIOUX][A-Z]{2}[0-9]{6}[HM][A-Z]{5}[0-9A-Z][0-9]", _on(curp.is_valid), "curp"),
    _register(
        "CN", r"[1-9][0-9]{5}(?:19|20)[0-9]{2}(?:0[1-9]|1[0-2])[0-9]{5}[0-9X]", _on(ric.is_valid), "身份证"
    ),
    _register("KR", r"[0-9]{6}-[1-8][0-9]{6}", _on(rrn.is_valid), "rrn"),
    _register(
        "JP",
        r"[0-9]{4}(?P<gap>[ -]?)[0-9]{4}(?P=gap)[0-9]{4}",
        _on(my_number.is_valid),
        r"my number",
        r"マイナンバー",
        r"個人番号",
        named=True,
    ),
    _register(
        "ZA",
        r"[0-9]{6} ?[0-9]{4} ?[01][0-9]{2}",
        _on(south_african.is_valid),
        r"south african id",
        r"rsa id",
        r"said",
        *_GENERIC,
        named=True,
    ),
    _register("SG", r"[STFG][0-9]{7}[A-Z]", _on(is_nric), "nric"),
    _register(
        "IL",
        r"[0-9]{9}|[0-9]{8}-[0-9]",
        _on(teudat_zehut.is_valid),
        r"teudat zehut",
        r"israeli id",
        r"ת\.?ז",
        r"תעודת זהות",
        named=True,
    ),
    _register(
        "TR",
        r"[1-9][0-9]{10}",
        _on(tckimlik.is_valid),
        r"kimlik\w*",
        r"tckn",
        r"tc",
        r"t\.?c\.?",
        r"turkish id",
        *_GENERIC,
        named=True,
    ),
    _register("CL", r"[0-9]{1,2}\.[0-9]{3}\.[0-9]{3}-[0-9Kk]", _on(rut.is_valid), "rut"),
    _register("CL", r"[0-9]{7,8}-?[0-9Kk]", _on(rut.is_valid), r"ru[nt]", r"rol [úu]nico \w+", named=True),
    _register(
        "RO", r"[1-8][0-9]{12}", _on(cnp.is_valid), r"cnp", r"cod numeric personal", *_GENERIC, named=True
    ),
    _register("GR", r"[0-9]{11}", _on(amka.is_valid), r"amka", r"αμκα", *_GENERIC, named=True),
    _register("BG", r"[0-9]{10}", _on(egn.is_valid), r"egn", r"егн", named=True),
    _register("HR", r"[0-9]{11}", _on(oib.is_valid), r"oib", r"osobni identifikacijski broj", named=True),
    _register("LT", r"[3-6][0-9]{10}", _on(asmens.is_valid), r"asmens kod\w*", r"isikukood", named=True),
    _register("IS", r"[0-9]{6}-?[0-9]{4}", _on(kennitala.is_valid), r"kennital\w", r"kt", named=True),
    _register(
        "TH",
        r"[1-8][ -]?[0-9]{4}[ -]?[0-9]{5}[ -]?[0-9]{2}[ -]?[0-9]",
        _on(thai.is_valid),
        r"บัตรประชาชน",
        r"เลขประจำตัวประชาชน",
        r"thai id",
        *_GENERIC,
        named=True,
    ),
    _register("NZ", r"[0-9]{2,3}[ -]?[0-9]{3}[ -]?[0-9]{3}", _on(ird.is_valid), r"ird", named=True),
    _register("CZ", r"[0-9]{6}/[0-9]{3,4}", lambda value: bool(rc.is_valid(value)), "rodné číslo"),
    _register("PL", r"[0-9]{11}", _on(pesel.is_valid), r"pesel", *_GENERIC, named=True),
    _register(
        "AR",
        rf"(?:20|2[3-7]|30|33)(?P<gap>{_DASH}?)[0-9]{{8}}(?P=gap)[0-9]",
        _on(cuit.is_valid),
        r"cui[tl]",
        *_GENERIC,
        named=True,
    ),
    _register(
        "AR",
        r"[0-9]{1,2}\.?[0-9]{3}\.?[0-9]{3}",
        lambda value: len(digits_of(value)) >= 7,
        r"dni",
        r"documento nacional",
        named=True,
    ),
)
"""Every known form, most common first."""


def _any_form(named: bool) -> re.Pattern[str]:
    forms = (one.pattern.replace("gap", f"gap{n}") for n, one in enumerate(REGISTERS) if one.named == named)
    return _bounded("|".join(f"(?:{form})" for form in forms))


TELLING, NAMED = _any_form(named=False), _any_form(named=True)
"""Match in a text wherever a form does that speaks for itself, or one that needs a word near it."""
NAMES = words(*dict.fromkeys(name for one in REGISTERS if one.named for name in one.names), whole=False)
"""Any of those words."""
