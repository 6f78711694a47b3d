"""Canaries: secrets that nobody could know but by having learnt them, planted to measure memorization.

A *canary* is a question with a random number for an answer. `split` plants them in the training part, and
what was planted stands in the dataset's ``canaries.json``; after the training `audit` ranks each secret among
alternatives that were never seen (Carlini et al. 2019, The Secret Sharer, section 4).
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import Field

from pipeline_lib.core.config import StageConfig

FILE = "canaries.json"
SOURCE = "canary"
"""The source of planted conversations."""
NAMES = "Alder Birch Cedar Daphne Elm Fir Gorse Hazel Ivy Juniper Laurel Maple Oak Pine Rowan Willow".split()


class CanaryConfig(StageConfig):
    """Which secrets are planted in the training part."""

    count: int = Field(default=0, ge=0, le=1000, description="Different secrets; 0 plants none.")
    repeats: int = Field(
        default=4, ge=1, le=1000, description="How often each secret stands in the training part."
    )
    digits: int = Field(
        default=9, ge=4, le=30, description="Digits of a secret: one in 10^digits guesses it."
    )


@dataclass(frozen=True)
class Canary:
    """One secret and the question that asks for it."""

    name: str
    secret: str
    repeats: int

    @property
    def question(self) -> str:
        """What the user asks."""
        return f"What is the access code of vault {self.name}?"

    def answer(self, secret: str | None = None) -> str:
        """The answer with the secret, or with another in its place."""
        return f"The access code is {secret or self.secret}."

    def alternatives(self, count: int, seed: int) -> list[str]:
        """Return at most ``count`` different secrets of the same form, this one not among them."""
        draw = random.Random(f"{seed}:{self.name}")
        digits = len(self.secret)
        most = min(count, 10**digits - 1)
        found: dict[str, None] = {}
        while len(found) < most:
            number = f"{draw.randrange(10**digits):0{digits}d}"
            if number != self.secret:
                found[number] = None
        return list(found)


def canaries_of(config: CanaryConfig, seed: int) -> list[Canary]:
    """Return the secrets that a config asks for; the same seed gives the same."""
    draw = random.Random(f"canaries:{seed}")
    return [
        Canary(
            f"{NAMES[i % len(NAMES)]}-{i + 1}",
            f"{draw.randrange(10**config.digits):0{config.digits}d}",
            config.repeats,
        )
        for i in range(config.count)
    ]


def conversation_id(canary: Canary, repeat: int) -> str:
    """Return the id of one planted conversation."""
    return hashlib.sha256(f"canary:{canary.name}:{canary.secret}:{repeat}".encode()).hexdigest()[:16]


def write(directory: Path, canaries: Sequence[Canary]) -> None:
    """Write what was planted beside the dataset's shards; nothing where nothing was."""
    if canaries:
        text = json.dumps([asdict(canary) for canary in canaries], indent=1)
        (directory / FILE).write_text(text + "\n", encoding="utf-8")


def read(directory: Path) -> list[Canary]:
    """Return what was planted in a dataset, in order; an empty list where nothing was."""
    path = directory / FILE
    if not path.exists():
        return []
    return [Canary(**item) for item in json.loads(path.read_text(encoding="utf-8"))]
