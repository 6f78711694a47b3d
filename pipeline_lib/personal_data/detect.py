"""Finds personal data in a text: `find` is the one entry, `suspicious` its fast forerunner on a column.

Each kind has a detector (`network`, `phones`, `numeric`, `identity`, `addresses`, `credentials`, `wallets`)
that runs only when its gate opens (`gates`). Where values overlap, the kind that knows more wins (a key
inside a web address with a token is part of that address), then the longer one.
"""

import re
from bisect import bisect
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

import pyarrow as pa

from pipeline_lib.core.errors import ConfigError
from pipeline_lib.personal_data import (
    addresses,
    credentials,
    gates,
    identity,
    network,
    numeric,
    phones,
    tables,
    wallets,
)
from pipeline_lib.personal_data.context import unescaped
from pipeline_lib.personal_data.kinds import ALL, OPTIONAL, PLACEHOLDER, REGIONS, Regions, Span
from pipeline_lib.personal_data.recognise import Recogniser

Detector = Callable[[str, Regions], Iterator[Span]]

_DETECTORS: dict[str, Detector] = {
    "private_key": credentials.private_keys,
    "url_with_credentials": network.urls_with_credentials,
    "api_key": credentials.api_keys,
    "email": network.emails,
    "crypto_wallet": wallets.crypto_wallets,
    "secret": credentials.secrets,
    "iban": numeric.ibans,
    "credit_card": numeric.credit_cards,
    "mac_address": network.mac_addresses,
    "ip_address": network.ip_addresses,
    "passport": identity.passports,
    "national_id": identity.national_ids,
    "vehicle": identity.vehicles,
    "date_of_birth": identity.births,
    "street_address": addresses.street_addresses,
    "phone": phones.phones,
    "url": network.urls,
}
_NAMED = {
    "secret": re.compile(credentials.SECRET_NAMES, re.IGNORECASE),
    "passport": re.compile(identity.PASSPORT_WORDS, re.IGNORECASE),
    "vehicle": re.compile(identity.PLATE_WORDS, re.IGNORECASE),
    "date_of_birth": re.compile(r"birth|dob|born|geb|nacim|nasc|naiss", re.IGNORECASE),
}
"""Kinds that a word has to name, with such words."""
_TELLING = re.compile("|".join(word.pattern for word in _NAMED.values()), re.IGNORECASE)
_RANK = {kind: rank for rank, kind in enumerate(_DETECTORS)}


def find(
    text: str,
    kinds: Collection[str] = ALL,
    regions: Sequence[str] = tuple(REGIONS),
    recognisers: Iterable[Recogniser] = (),
) -> list[Span]:
    """Return the personal data in a text, left to right, without overlaps; offsets are code points.

    Values that documentation reserves and placeholders are not found. Raises ConfigError for an unknown kind.
    """
    wanted = _known(kinds)
    spans = [span for recognise in recognisers for span in recognise(text)]
    opened = gates.look(wanted)(text)
    plain = unescaped(text) if opened else text
    for kind in opened:
        spans.extend(_DETECTORS[kind](plain, tuple(regions)))
    spans.extend(_in_tables(plain, opened, tuple(regions)))
    return _without_overlaps(text, spans) if spans else []


def find_without_gates(
    text: str, kinds: Collection[str] = ALL, regions: Sequence[str] = tuple(REGIONS)
) -> list[Span]:
    """Return what `find` returns, by running every detector: slow, and the measure of the gates."""
    spans = [span for kind in _known(kinds) for span in _DETECTORS[kind](unescaped(text), tuple(regions))]
    spans.extend(_in_tables(unescaped(text), _known(kinds), tuple(regions)))
    return _without_overlaps(text, spans)


def _in_tables(text: str, kinds: Collection[str], regions: Regions) -> Iterator[Span]:
    """Yield the values of tables that the heads of their columns name."""
    named = {kind: word for kind, word in _NAMED.items() if kind in kinds}
    for name, start, end in tables.cells(text, _TELLING) if named else ():
        line = f"{name}: {text[start:end]}"
        before = len(line) - (end - start)
        for kind in (kind for kind, word in named.items() if word.search(name)):
            for span in _DETECTORS[kind](line, regions):
                if span.start >= before:
                    yield Span(kind, span.start - before + start, span.end - before + start)


def suspicious(
    column: pa.Array | pa.ChunkedArray, kinds: Collection[str] = ALL
) -> pa.Array | pa.ChunkedArray:
    """Return a boolean column that is false only where `find` finds none of the kinds (recognisers apart)."""
    return gates.suspicious(column, _known(kinds))


def _known(kinds: Collection[str]) -> frozenset[str]:
    unknown = set(kinds).difference(_DETECTORS)
    if unknown:
        raise ConfigError(
            f"no personal data of kind {sorted(unknown)}; known are {', '.join((*ALL, *OPTIONAL))}."
        )
    return frozenset(kinds)


def _without_overlaps(text: str, spans: list[Span]) -> list[Span]:
    """Return the spans that survive when the kind of lower rank, then the longer value, goes first."""
    taken = [match.span() for match in PLACEHOLDER.finditer(text)]
    kept: list[Span] = []
    for span in sorted(
        spans, key=lambda span: (_RANK.get(span.kind, len(_RANK)), span.start - span.end, span.start)
    ):
        place = bisect(taken, (span.start, span.end))
        free_before = place == 0 or taken[place - 1][1] <= span.start
        free_after = place == len(taken) or span.end <= taken[place][0]
        if span.start < span.end and free_before and free_after:
            kept.append(span)
            taken.insert(place, (span.start, span.end))
    return sorted(kept, key=lambda span: span.start)
