"""Documents for the curation benchmark: generated, the same on every machine, with near-duplicates by plan.

About a quarter of the documents are **variants** of an earlier one (their base): the same, in other case and
punctuation, with a tenth of the words or fewer changed, lengthened, cut, or only begun alike. A base has one
variant at most and unrelated documents share next to no run of five words, so the Jaccard similarity of the
planted pairs, computed here with plain Python sets, is the whole truth.
"""

from __future__ import annotations

import itertools
import json
import random
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

WORDS = 95
"""Words of a document: about 600 bytes."""
_BLOCK = 1_000
_VARIANTS = 230
_CHANGES = ("copy", "style", "one", "one", 0.02, 0.05, 0.05, 0.1, "longer", "shorter", "begins", "begins")
_COMMON = "the be to of and that have with a in is it for on as are this by from at".split()
_PRIVATE = (
    "Write to {0}.{1}{2}@{1}mail.net today.",
    "Call +1 202 456 {2:04d} for more.",
    "The host is 81.2.{2}.17 now.",
    "Card 4111 1111 1111 1111 was charged.",
)
_SYLLABLES = [a + b for a in "b c d f g l m n p r s t v st tr".split() for b in "a e i o u an er in".split()]


class Document(NamedTuple):
    """A text, and the place of the document that it is a variant of."""

    text: str
    base: int | None


def documents(count: int, words: int = WORDS, seed: int = 0) -> Iterator[Document]:
    """Yield so many documents of about so many words."""
    draw = random.Random(seed)
    vocabulary = _COMMON + ["".join(draw.choices(_SYLLABLES, k=draw.choice((2, 2, 3)))) for _ in range(6_000)]
    weights = list(itertools.accumulate(1 / (rank + 8) for rank in range(len(vocabulary))))
    for start in range(0, count, _BLOCK):
        size = min(_BLOCK, count - start)
        bases = size - size * _VARIANTS // _BLOCK
        block = []
        for _ in range(bases):
            length = draw.randrange(words * 3 // 4, words * 5 // 4)
            block.append(draw.choices(vocabulary, cum_weights=weights, k=length))
        for place, chosen in enumerate(block):
            yield Document(_written(chosen, draw, private=place % 33 == 7), None)
        for place in draw.sample(range(bases), size - bases):
            change = draw.choice(_CHANGES)
            yield Document(_variant(block[place], change, draw, vocabulary), start + place)


def write(path: Path, count: int, words: int = WORDS) -> None:
    """Write documents as JSON Lines, with their place as ``id``; a file that is there stays."""
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".part")
    with unfinished.open("w", encoding="utf-8") as file:
        for place, one in enumerate(documents(count, words)):
            file.write(json.dumps({"id": str(place), "text": one.text}) + "\n")
    unfinished.replace(path)


def read(path: Path, most: int | None = None) -> list[str]:
    """Return the texts of a file of ``write``."""
    with path.open(encoding="utf-8") as file:
        return [json.loads(line)["text"] for line in itertools.islice(file, most)]


def shingles(text: str) -> set[tuple[str, ...]]:
    """Return the runs of five words of a text, without case and punctuation."""
    words = re.findall(r"[a-z0-9]+", text.lower())
    return {tuple(words[at : at + 5]) for at in range(max(len(words) - 4, 1))}


def jaccard(left: set[tuple[str, ...]], right: set[tuple[str, ...]]) -> float:
    """Return the share of all runs that both have."""
    return len(left & right) / len(left | right)


def planted(count: int) -> list[tuple[int, int, float]]:
    """Return base, variant and Jaccard similarity of every planted pair."""
    made = list(documents(count))
    return [
        (one.base, place, jaccard(shingles(made[one.base].text), shingles(one.text)))
        for place, one in enumerate(made)
        if one.base is not None
    ]


def leaks(texts: Sequence[str], test: Sequence[bool], threshold: float) -> int:
    """Return how many test texts are at least so like a text that is not in the test, by plain sets."""
    sets = [shingles(text) for text in texts]
    holders: dict[tuple[str, ...], list[int]] = {}
    for place, found in enumerate(sets):
        for gram in found if not test[place] else ():
            holders.setdefault(gram, []).append(place)
    return sum(
        any(
            jaccard(found, sets[other]) >= threshold
            for other in {other for gram in found for other in holders.get(gram, ())}
        )
        for found in itertools.compress(sets, test)
    )


def _written(words: Sequence[str], draw: random.Random, private: bool = False) -> str:
    sentences = [" ".join(words[at : at + 12]).capitalize() + "." for at in range(0, len(words), 12)]
    if private:
        told = draw.choice(_PRIVATE).format(words[0], words[1], draw.randrange(10, 250))
        sentences.insert(len(sentences) // 2, told)
    return "\n".join(" ".join(sentences[at : at + 4]) for at in range(0, len(sentences), 4))


def _variant(words: list[str], change: str | float, draw: random.Random, vocabulary: list[str]) -> str:
    if change == "style":
        return _written(words, draw).upper().replace(" ", ",  ")
    words = list(words)
    if change == "longer":
        words += draw.choices(vocabulary, k=max(2, int(len(words) * draw.uniform(0.05, 0.25))))
    elif change == "shorter":
        words = words[: -max(2, int(len(words) * draw.uniform(0.05, 0.25)))]
    elif change == "begins":
        shared = int(len(words) * draw.uniform(0.4, 0.7))
        words[shared:] = draw.choices(vocabulary, k=len(words) - shared)
    elif change != "copy":
        edits = 1 if change == "one" else max(1, int(len(words) * float(change)))
        for at in draw.sample(range(len(words)), edits):
            words[at] = draw.choice(vocabulary)
    return _written(words, draw)
