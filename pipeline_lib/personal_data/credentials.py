"""Keys, tokens, private keys and passwords: what opens a door.

An *issuer's* key is known by its prefix. A *secret* is a value that is assigned to a name such as `password`
and looks random. A *stand-in* (`YOUR_API_KEY`, `xxxx`, `changeme`, `${TOKEN}`) is documentation and stays.
"""

import math
import re
from collections import Counter
from collections.abc import Iterator
from itertools import chain, pairwise

from pipeline_lib.personal_data.context import before
from pipeline_lib.personal_data.kinds import Regions, Span

_ISSUED = re.compile(
    r"(?<![A-Za-z0-9_])(?:"
    # Clouds and hosts of code.
    r"(?:AKIA|ASIA|AIDA|AROA|AGPA|ANPA)[0-9A-Z]{16}|LTAI[A-Za-z0-9]{12,24}|AKID[A-Za-z0-9]{32}"
    r"|AIza[A-Za-z0-9_-]{35}|ya29\.[A-Za-z0-9_-]{20,512}|GOCSPX-[A-Za-z0-9_-]{28}"
    r"|AAAA[A-Za-z0-9_-]{7}:APA91b[A-Za-z0-9_-]{100,180}"
    r"|(?<=AccountKey=)[A-Za-z0-9+/]{86}==|[A-Za-z0-9_~.]{3}[0-9]Q~[A-Za-z0-9_~.-]{31,34}"
    r"|gh[pousr]_[A-Za-z0-9]{36,255}|github_pat_[A-Za-z0-9_]{50,255}"
    r"|gl(?:pat|ptt|dt|rt|rtr|cbt|ft|oas|soat|imt|agent|ffct)-[A-Za-z0-9_-]{20,300}"
    r"(?:\.[0-9a-z]{2}\.[0-9a-z]{9})?"
    r"|ATATT3[A-Za-z0-9_=-]{50,300}|AT[BC][BT]T?[A-Za-z0-9_-]{24,250}(?==|\b)|HRKU-[A-Za-z0-9_-]{36,60}"
    r"|do[opr]_v1_[0-9a-f]{64}|hv[bsr]\.[A-Za-z0-9_-]{24,300}|[A-Za-z0-9]{14}\.atlasv1\.[A-Za-z0-9_-]{60,70}"
    r"|dckr_[op]at_[A-Za-z0-9_-]{27,36}|f[mo][12]_[A-Za-z0-9+/_=-]{40,600}|sbp_[0-9a-f]{40}"
    r"|nfp_[A-Za-z0-9]{36,40}"
    r"|pscale_(?:tkn|pw|oauth|oauth_token)_[A-Za-z0-9_=-]{32,64}|pul-[0-9a-f]{40}|dapi[0-9a-f]{32}(?:-[0-9])?"
    r"|tskey-[a-z]{3,8}-[A-Za-z0-9]{10,20}-[A-Za-z0-9]{20,40}|AKCp[A-Za-z0-9]{50,80}|CLOJARS_[0-9a-z]{60}"
    r"|npm_[A-Za-z0-9]{36}|pypi-[A-Za-z0-9_-]{50,250}|rubygems_[0-9a-f]{48}|dp\.(?:pt|st|ct|sa|scim|audit)\."
    r"(?:[a-z0-9_-]{2,35}\.)?[A-Za-z0-9]{40,44}|AGE-SECRET-KEY-1[02-9AC-HJ-NP-Z]{58}"
    # Models.
    r"|sk-[A-Za-z0-9_-]{20,250}|gsk_[A-Za-z0-9]{40,60}|xai-[A-Za-z0-9]{60,90}|r8_[A-Za-z0-9]{37,40}"
    r"|hf_[A-Za-z0-9]{30,40}|pplx-[A-Za-z0-9]{40,56}|nvapi-[A-Za-z0-9_-]{60,70}|pcsk_[A-Za-z0-9_]{50,80}"
    r"|lsv2_[ps][tk]_[0-9a-f]{32}_[0-9a-f]{10}"
    # Messages and mail.
    r"|xox[abeoprs]-[A-Za-z0-9-]{10,250}|xapp-[0-9]-[A-Za-z0-9-]{20,250}|[0-9]{8,10}:AA[A-Za-z0-9_-]{33}"
    r"|[MNO][DTjz][AEIMQUYcgk][w-z0-5][A-Za-z0-9_-]{20,24}\.[A-Za-z0-9_-]{6}\.[A-Za-z0-9_-]{27,40}|(?:AC"
    r"|SK)[0-9a-f]{32}"
    r"|SG\.[A-Za-z0-9_-]{16,32}\.[A-Za-z0-9_-]{16,64}|key-[0-9a-z]{32}|[0-9a-f]{32}-us[0-9]{1,2}"
    r"|xkeysib-[0-9a-f]{64}-[A-Za-z0-9]{16}|re_[A-Za-z0-9]{8}_[A-Za-z0-9]{20,32}"
    # Money and shops.
    r"|[rsp]k_(?:live|test)_[A-Za-z0-9]{16,250}|whsec_[A-Za-z0-9+/=]{24,64}|shp(?:at|ca|pa|ss"
    r"|ua)_[0-9a-fA-F]{32}"
    r"|sq0(?:atp|csp)-[A-Za-z0-9_-]{22,43}|EAAA[A-Za-z0-9_-]{60}|rzp_(?:live|test)_[A-Za-z0-9]{14,24}"
    r"|shippo_(?:live|test)_[0-9a-f]{40}|access-(?:production|sandbox|development)-[0-9a-f-]{36}"
    # Work and watching.
    r"|lin_api_[A-Za-z0-9]{32,48}|secret_[A-Za-z0-9]{43}|ntn_[A-Za-z0-9]{40,50}|figd_[A-Za-z0-9_-]{40,44}"
    r"|pat[A-Za-z0-9]{14}\.[0-9a-f]{64}|pat-(?:na|eu)[0-9]-[0-9a-f-]{36}|PMAK-[0-9a-f]{24}-[0-9a-f]{34}"
    r"|CFPAT-[A-Za-z0-9_-]{40,46}|glsa_[A-Za-z0-9]{32}_[0-9a-fA-F]{8}|glc_eyJ[A-Za-z0-9+/=_-]{40,400}"
    r"|NR(?:AK|JS|RA)-[A-Za-z0-9-]{19,42}|sntry[su]_[A-Za-z0-9+/=_-]{40,300}|dt0[a-z][0-9]{2}\.[A-Z0-9]{24}\."
    r"[A-Z0-9]{64}|sq[aup]_[0-9a-f]{40}|[sp]k\.eyJ[A-Za-z0-9_-]{20,200}\.[A-Za-z0-9_-]{20,40}"
    r"|EAA[A-Za-z0-9]{80,300}"
    r"|eyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}"
    r")(?![A-Za-z0-9_])"
)
_AZURE = re.compile(r"(?<![A-Za-z0-9+/])[A-Za-z0-9+/]{86}==")
_AZURE_NAMES = re.compile(r"azure|account_?key|storage", re.IGNORECASE)
_PEM = re.compile(
    r"-----BEGIN (?:[A-Z0-9]+ ){0,3}PRIVATE KEY(?: BLOCK)?-----[^<]*?-----END (?:[A-Z0-9]+ "
    r"){0,3}PRIVATE KEY(?: BLOCK)?-----"
    r"|-----BEGIN (?:[A-Z0-9]+ ){0,3}PRIVATE KEY(?: BLOCK)?-----(?:\\n|[\sA-Za-z0-9+/=:,-])+"
)
SECRET_NAMES = (
    r"pass(?:word|wd|phrase|code)?|pwd|secret|token|api[ _-]?key|access[ _-]?key|auth[ _-]?key"
    r"|private[ _-]?key|secret[ _-]?key"
    r"|encryption[ _-]?key|client[ _-]?secret|credentials?|bearer|authorization|passwort|kennwort"
    r"|mot de passe|contraseña|senha|parola|wachtwoord|lösenord|adgangskode|salasana|hasło|heslo|пароль"
    r"|密[码碼]|口令|パスワード|暗証番号|비밀번호"
)
_WESTERN = r"\s\"'`<>\u3000-\u30ff\u3400-\u9fff\uac00-\ud7a3\uff00-\uffef"
"""What a bare value does not hold: white space, quotes, and and what is written without spaces."""
_ASSIGNED = re.compile(
    rf"(?:(?<![a-z])|(?-i:(?=[A-Z])))(?:{SECRET_NAMES})(?![a-z])[\"'`\])*]*"
    r"(?:[ \t]*(?::=|=>|==?|[:：|])[ \t]*\**[ \t]*|[ \t]+[-–—][ \t]+|\t+|(?:</?[a-z0-9]{1,12}>){1,3}|>"
    r"|[ \t]+(?:is|was|set to|ist|est|es)[ \t]*:?[ \t]+|(?<=bearer)[ "
    r"\t]+)(?:bearer[ \t]+)?"
    rf"(\"[^\"\s]{{6,200}}\"|'[^'\s]{{6,200}}'|`[^`\s]{{6,200}}`|(?-i:[^{_WESTERN}]){{8,200}})",
    re.IGNORECASE,
)
_FLAG = re.compile(
    rf"(?<![\w-])--?(?:[a-z]+[_-])*?(?:{SECRET_NAMES})(?![a-z])[ \t]+"
    r"(\"[^\"\s]{6,200}\"|'[^'\s]{6,200}'|[^\s\"'`<>-][^\s\"'`<>]{7,200})",
    re.IGNORECASE,
)
"""An option of a command line, which a space parts from its value."""
_STAND_IN = re.compile(
    r"^[<{\[(]|^[$%][a-z_{(]|^(?:your|my|the|some|insert|enter|replace|change|put|add|todo|env|process|os"
    r"|config|settings|self|this|args|data|user|form|request|req|res)"
    r"(?![a-z0-9])|your[_-]|example|placeholder|changeme|dummy|redacted|sample|xxxx|\*\*\*|\.\.\.|…"
    r"|^(?:user|pass(?:word|wd)?|pwd|secret|token|key|test|admin|root)"
    r"[0-9_!-]{0,4}$|^(?:my)?_?(?:secret|password|pass|token)_?(?:password|key|here|value"
    r"|token)?[0-9]{0,4}$|12345678",
    re.IGNORECASE,
)


def is_stand_in(value: str) -> bool:
    """Return whether a value only shows where a real one would go."""
    return len(set(value)) < 4 or _STAND_IN.search(value) is not None


def api_keys(text: str, regions: Regions) -> Iterator[Span]:
    """Yield keys and tokens of known issuers."""
    for match in _ISSUED.finditer(text):
        value = match.group(0)
        if _is_varied(value) and not re.search(r"EXAMPLE|xxxx|your[_-]", value):
            yield Span("api_key", *match.span())
    for match in _AZURE.finditer(text) if "==" in text else ():
        if before(text, match.start(), _AZURE_NAMES, 40):
            yield Span("api_key", *match.span())


def _is_varied(value: str) -> bool:
    """Return whether what follows the issuer's prefix is no word; tokens of Hugging Face may lack digits."""
    body = value[3:]
    drawn = any(map(str.isdigit, body)) or (
        value.startswith("hf_") and not (body.islower() or body.isupper())
    )
    return drawn and len(set(body)) >= 10


def private_keys(text: str, regions: Regions) -> Iterator[Span]:
    """Yield PEM and PGP private keys, from the BEGIN line to the END line or to where the key breaks off."""
    for match in _PEM.finditer(text):
        lines = match.group(0).rstrip()
        if len(lines) > 120:
            yield Span("private_key", match.start(), match.start() + len(lines))


def secrets(text: str, regions: Regions) -> Iterator[Span]:
    """Yield values that are assigned to a name such as `password` and look random."""
    for match in chain(_ASSIGNED.finditer(text), _FLAG.finditer(text) if "-" in text else ()):
        start, end = match.span(1)
        quoted = text[start] in "\"'`"
        value = text[start + 1 : end - 1] if quoted else text[start:end].rstrip(".,;:)!?]}")
        start += quoted
        if _is_random(value, quoted):
            yield Span("secret", start, start + len(value))


def _is_random(value: str, quoted: bool) -> bool:
    if is_stand_in(value) or (not quoted and re.search(r"[()\[\]{}]", value)):
        return False
    sorts = [_sort(character) for character in value]
    if len(value) >= 8 and len({*sorts} - {"joint"}) >= 3 and "digit" in sorts:
        return "://" not in value
    changes = sum(left != right for left, right in pairwise(sorts))
    return (
        len(value) >= 16
        and "joint" not in sorts[1:-1]
        and changes >= 3
        and "digit" in sorts
        and _entropy(value) >= 3.0
    )


def _sort(character: str) -> str:
    if character.isdigit():
        return "digit"
    if character.isalpha():
        return "upper" if character.isupper() else "lower"
    return "joint" if character in "_-./:," else "symbol"


def _entropy(value: str) -> float:
    """Return the Shannon entropy of a value's characters, in bits per character."""
    return -sum(count / len(value) * math.log2(count / len(value)) for count in Counter(value).values())
