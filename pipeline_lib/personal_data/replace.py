"""Puts placeholders or surrogates in the place of personal data, consistently within a conversation.

The same value, written alike or differently (`JOHN@x.org`, `john@x.org`; `+1 202 …`, `(202) …`), becomes
the same placeholder in every message of a conversation. Numbering starts anew with each conversation, so
that nothing links two of them.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from pipeline_lib.personal_data.context import compact, digits_of
from pipeline_lib.personal_data.detect import find
from pipeline_lib.personal_data.kinds import ALL, PLACEHOLDER, REGIONS, Span, placeholder
from pipeline_lib.personal_data.masking import mask
from pipeline_lib.personal_data.phones import without_extension
from pipeline_lib.personal_data.recognise import Recogniser
from pipeline_lib.personal_data.surrogates import surrogate

Mode = Literal["placeholder", "surrogate"]

_SPELLED_FREELY = (
    "credit_card",
    "iban",
    "national_id",
    "mac_address",
    "vehicle",
    "passport",
    "date_of_birth",
)


@dataclass(frozen=True)
class Replacer:
    """What to look for and how to replace it; holds no value between two conversations."""

    kinds: Sequence[str] = ALL
    regions: Sequence[str] = tuple(REGIONS)
    recognisers: Sequence[Recogniser] = ()
    seed: int = 0

    def replace(
        self, texts: Sequence[str], mode: Mode = "placeholder", conversation: str = ""
    ) -> tuple[list[str], Counter[str]]:
        """Return the texts of one conversation without personal data, and the count of each kind.

        `conversation` (its id) and the seed steer surrogates; without Faker installed these raise
        ConfigError.
        """
        return self.replace_found(texts, self.find(texts), mode, conversation)

    def find(self, texts: Sequence[str]) -> list[list[Span]]:
        """Return what is to be replaced in each text."""
        return [find(text, self.kinds, self.regions, self.recognisers) for text in texts]

    def replace_found(
        self, texts: Sequence[str], found: Sequence[list[Span]], mode: Mode, conversation: str
    ) -> tuple[list[str], Counter[str]]:
        """Return the same, where what is to be replaced is known."""
        counts = Counter(span.kind for spans in found for span in spans)
        if not counts:
            return list(texts), counts
        stand_ins = _StandIns(mode, f"{self.seed}\0{conversation}", _numbers_in_use(texts))
        return [
            _substituted(text, spans, stand_ins) for text, spans in zip(texts, found, strict=True)
        ], counts


def examples(texts: Sequence[str], found: Sequence[list[Span]]) -> list[tuple[str, str]]:
    """Return kind and masked form of every value found in the texts, for a report anyone may read."""
    return [
        (span.kind, mask(span.kind, text[span.start : span.end]))
        for text, spans in zip(texts, found, strict=True)
        for span in spans
    ]


@dataclass
class _StandIns:
    """The replacements given so far in one conversation, by kind and normalised value."""

    mode: Mode
    key: str
    numbers: Counter[str]
    given: dict[tuple[str, str], str] = field(default_factory=dict)

    def of(self, kind: str, value: str) -> str:
        identity = (kind, normalised(kind, value))
        if identity not in self.given:
            self.given[identity] = self._next(kind, value)
        return self.given[identity]

    def _next(self, kind: str, value: str) -> str:
        if self.mode == "surrogate":
            taken = {value, *self.given.values()}
            return surrogate(kind, value, f"{self.key}\0{normalised(kind, value)}", taken)
        self.numbers[kind.upper()] += 1
        return placeholder(kind, self.numbers[kind.upper()])


def _numbers_in_use(texts: Sequence[str]) -> Counter[str]:
    """Return the highest number of each label among placeholders that stand in the texts already."""
    highest: Counter[str] = Counter()
    for text in texts:
        for label, number in PLACEHOLDER.findall(text):
            highest[label] = max(highest[label], int(number))
    return highest


def _substituted(text: str, spans: list[Span], stand_ins: _StandIns) -> str:
    parts, last = [], 0
    for span in spans:
        parts += [text[last : span.start], stand_ins.of(span.kind, text[span.start : span.end])]
        last = span.end
    return "".join([*parts, text[last:]])


def normalised(kind: str, value: str) -> str:
    """Return the form in which two spellings of one value are equal."""
    if kind == "email":
        dotted = re.sub(r"\s*[\[({]\s*dot\s*[\])}]\s*|\sdot\s", ".", value.lower())
        return re.sub(r"\s*[\[({]\s*at\s*[\])}]\s*|\sat\s", "@", dotted)
    if kind == "phone":
        number = digits_of(without_extension(value.replace("(0)", "")))
        return number.removeprefix("00").removeprefix("1") if len(number) > 10 else number
    if kind in _SPELLED_FREELY:
        return compact(value)
    if kind in ("ip_address", "person", "location", "organisation"):
        return value.lower()
    return " ".join(value.replace(",", " ").casefold().split()) if kind == "street_address" else value
