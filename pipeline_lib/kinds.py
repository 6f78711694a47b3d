"""The kinds of artifacts: what a stage's directory holds, and how to find things in it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from pipeline_lib.core.artifact import Artifact

HISTORY = "history.jsonl"
"""The journal of a training, by its name in the directory it works in and in the logs it leaves."""


def brings_code(model: str | Path) -> bool:
    """Return whether a model's directory holds modelling code, which is there only where it was trusted."""
    return any(Path(model).glob("*.py"))


@dataclass(frozen=True)
class Dataset(Artifact):
    """Conversations as Parquet shards: kept and dropped, or the splits."""

    def shards(self, part: str = "kept") -> list[Path]:
        """Return the shards of one part (kept, dropped, train, validation, test) in order."""
        return sorted(self.path.glob(f"{part}-*.parquet"))

    def count(self, part: str = "kept") -> int:
        """Return the number of conversations in one part, read from the Parquet footers."""
        import pyarrow.parquet as pq

        return sum(pq.read_metadata(shard).num_rows for shard in self.shards(part))


@dataclass(frozen=True)
class Profile(Artifact):
    """``profile.html``, ``profile.md`` and ``profile.json``: the data before and after curation."""


@dataclass(frozen=True)
class Likeness(Artifact):
    """Pairs of conversations that mean nearly the same: `pairs.parquet`, places in a Dataset and cosine."""


@dataclass(frozen=True)
class Tokens(Artifact):
    """Token ids with their loss masks for train and validation, and the tokenizer that made them."""

    def shards(self, part: str) -> list[Path]:
        """Return the shards of one part (train, validation) in order; ``dropped`` has ids and reasons."""
        return sorted(self.path.glob(f"{part}-*.parquet"))

    @property
    def tokenizer(self) -> Path:
        """The directory of the tokenizer with its chat template."""
        return self.path / "tokenizer"


@dataclass(frozen=True)
class Trained(Artifact):
    """What training leaves: an Adapter or a Model, by what the directory holds."""

    beside: ClassVar[tuple[str, ...]] = ("logs/*",)

    @property
    def history(self) -> Path:
        """The training's journal: what each step came to, a JSON object a line; a bundled model has none."""
        return self.path / "logs" / HISTORY

    @classmethod
    def kind_of(cls, path: Path) -> type[Artifact]:
        """Return Adapter where ``path`` holds PEFT weights, else Model."""
        return Adapter if (path / "adapter_config.json").exists() else Model


@dataclass(frozen=True)
class Model(Trained):
    """A directory that ``AutoModelForCausalLM`` and ``AutoTokenizer`` load as it is."""


@dataclass(frozen=True)
class Adapter(Trained):
    """A directory that ``PeftModel.from_pretrained`` loads, with the tokenizer it was trained with."""


@dataclass(frozen=True)
class Evaluation(Artifact):
    """Scores with their intervals, and the answers they were computed from."""

    beside: ClassVar[tuple[str, ...]] = ("logs/*",)

    def scores(self) -> dict[str, Any]:
        """Return the score table as it stands in ``scores.json``."""
        return _read_json(self.file("scores.json"))


@dataclass(frozen=True)
class Audit(Artifact):
    """What a model gives away of its training data, and how much of the test it may have seen."""

    def read(self) -> dict[str, Any]:
        """Return ``audit.json``: memorized, extracted, canaries, leaks, contamination."""
        return _read_json(self.file("audit.json"))


@dataclass(frozen=True)
class Ratings(Artifact):
    """A blind sheet of answers for people to rate, and what their ratings came to."""

    def read(self) -> dict[str, Any] | None:
        """Return ``ratings.json``: raters, alpha, models, pairs; None where no ratings were given yet."""
        path = self.path / "ratings.json"
        return _read_json(path) if path.exists() else None


@dataclass(frozen=True)
class Verdict(Artifact):
    """The gate's answer: open or closed, with the figure and the threshold of every rule."""

    def read(self) -> dict[str, Any]:
        """Return ``verdict.json``: ``{"open": bool, "rules": [...]}``."""
        return _read_json(self.file("verdict.json"))


@dataclass(frozen=True)
class Report(Artifact):
    """``report.html`` and ``report.md``: what a person reads about a run."""


@dataclass(frozen=True)
class Registration(Artifact):
    """A version in the model registry, with its aliases at the time, card and MLflow run."""

    CARD: ClassVar[str] = "model_card.md"

    def read(self) -> dict[str, Any]:
        """Return ``registration.json``: name, version, aliases, run id, tracking address."""
        return _read_json(self.file("registration.json"))


def _read_json(path: Path) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return value
