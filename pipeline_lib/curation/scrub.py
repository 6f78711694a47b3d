"""Scrub: personal data out of every message, replaced consistently within a conversation."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from pipeline_lib.core.config import StageConfig
from pipeline_lib.core.output import Output
from pipeline_lib.core.stage import stage
from pipeline_lib.curation.json_texts import texts_in, with_texts
from pipeline_lib.kinds import Dataset
from pipeline_lib.personal_data.kinds import ALL, Kind
from pipeline_lib.settings import file_digests

if TYPE_CHECKING:
    import pyarrow as pa

    from pipeline_lib.curation.blocks import Outcome
    from pipeline_lib.personal_data.recognise import Recogniser

EXAMPLES_PER_KIND = 5
LISTS = ("messages", "chosen", "rejected")
FIELDS = ("content", "tool_calls", "reasoning", "name")
JSON_FIELDS = frozenset({"tool_calls", "tools", "metadata"})
PLAIN = ("tools", "metadata")
_PLACE = r'"file": ?"(?P<file>[^"\\]*)", ?"(?:line|row)": ?[0-9]{1,10}'
"""A conversation's place in its file, which is looked at apart: both parts are full of numbers."""


class ScrubConfig(StageConfig):
    """Which personal data are looked for and what becomes of them."""

    kinds: tuple[Kind, ...] = Field(default=ALL, description="Kinds of personal data that are looked for.")
    action: Literal["placeholder", "surrogate", "drop"] = Field(
        default="placeholder",
        description="Put `<EMAIL_1>` in its place, put an invented value in its place (needs Faker), or "
        "drop the conversation.",
    )
    names: Literal["none", "presidio", "gliner"] = Field(
        default="none",
        description="Find names of persons, places and organisations by a model too: one of spaCy through "
        "presidio-analyzer, or one of GLiNER; the package must be installed.",
    )
    names_model: str | None = Field(
        default=None,
        description="Which model: a directory, an installed spaCy package (none takes Presidio's own for "
        "English), or a hub id of a GLiNER model.",
    )
    names_revision: str | None = Field(
        default=None, pattern="^[0-9a-f]{40}$", description="Commit of a GLiNER model from the hub."
    )
    names_language: str = Field(
        default="en", pattern="^[a-z]{2}$", description="Language of Presidio's model (ISO 639-1)."
    )
    names_threshold: float = Field(
        default=0.5, ge=0, le=1, description="Least score of the names' model that counts."
    )
    seed: int = Field(default=42, ge=0, description="Seed of the invented values.")

    @model_validator(mode="after")
    def _names_a_model(self) -> ScrubConfig:
        if self.names == "gliner" and self.names_model is None:
            raise ValueError("names: gliner needs names_model, a directory or a hub id")
        if self.names == "gliner" and not (self.names_revision or self._directory()):
            raise ValueError(
                f"names_model {self.names_model} is no directory: pin a hub id by names_revision, its commit"
            )
        return self

    def _directory(self) -> Path | None:
        """The directory of the names' model, where it is one."""
        directory = Path(self.names_model).expanduser() if self.names_model else None
        return directory if directory and directory.is_dir() else None

    def names_digest(self) -> dict[str, str]:
        """Return the digest of the names' model where it is a directory; a commit stands in the config."""
        directory = self._directory() if self.names != "none" else None
        if directory is None:
            return {}
        files = sorted(path for path in directory.rglob("*") if path.is_file())
        return {"names": file_digests().of_all(files, directory)}


@stage(produces=Dataset, version=5, outside=ScrubConfig.names_digest)
def scrub(out: Output, config: ScrubConfig, conversations: Dataset) -> None:
    """No personal data of the configured kinds in any message; each is counted, none is written down."""
    from pipeline_lib.curation.blocks import sift

    found = _Findings()
    for counts in sift(out, conversations, partial(_scrubbed, config)):
        found.take_in(_Findings(**counts))
    out.stats["found"] = dict(sorted(found.values.items()))
    out.stats["conversations_touched"] = found.conversations
    (out.path / "examples.json").write_text(
        json.dumps(found.examples, indent=1, sort_keys=True), encoding="utf-8"
    )


@dataclass
class _Findings:
    """What was found so far: counts by kind, and a few masked examples."""

    values: dict[str, int] = field(default_factory=dict)
    conversations: int = 0
    examples: dict[str, list[str]] = field(default_factory=dict)

    def take_in(self, other: _Findings) -> None:
        self.conversations += other.conversations
        for kind, count in other.values.items():
            self.values[kind] = self.values.get(kind, 0) + count
        for kind, shown in other.examples.items():
            held = self.examples.setdefault(kind, [])
            held += [masked for masked in shown if masked not in held][: EXAMPLES_PER_KIND - len(held)]

    def add(self, counts: Counter[str], examples: list[tuple[str, str]]) -> None:
        shown = {
            kind: list(dict.fromkeys(masked for k, masked in examples if k == kind)) for kind, _ in examples
        }
        self.take_in(_Findings(dict(counts), 1, shown))


def _scrubbed(config: ScrubConfig, batch: pa.RecordBatch) -> Outcome:
    import pyarrow as pa

    from pipeline_lib import records
    from pipeline_lib.curation.blocks import Outcome
    from pipeline_lib.personal_data.replace import Replacer, examples

    replacer = Replacer(kinds=config.kinds, recognisers=_recognisers(config), seed=config.seed)
    found = _Findings()
    verdicts: list[tuple[str, str] | None] = [None] * batch.num_rows
    # No pattern tells where a name may be: then every conversation is looked at.
    places = list(range(batch.num_rows)) if replacer.recognisers else _suspects(batch, config)
    rows = batch.take(pa.array(places, pa.int64())).to_pylist()
    touched = {}
    for place, row in zip(places, rows, strict=True):
        texts = _texts(row)
        spans = replacer.find(texts)
        clean, counts = replacer.replace_found(
            texts, spans, "surrogate" if config.action == "surrogate" else "placeholder", row["id"]
        )
        if counts:
            found.add(counts, examples(texts, spans))
            # A dropped conversation is written down too, so its personal data go in every case.
            _put(row, clean)
            touched[place] = row
            if config.action == "drop":
                verdicts[place] = (
                    "personal_data",
                    ", ".join(f"{kind} {count}" for kind, count in sorted(counts.items())),
                )
    changed = records.from_rows(list(touched.values()))
    return Outcome(records.replaced(batch, list(touched), changed), verdicts, asdict(found))


@lru_cache(maxsize=1)
def _recognisers(config: ScrubConfig) -> tuple[Recogniser, ...]:
    """Return what finds names, loaded once in a process."""
    if config.names == "none":
        return ()
    from pipeline_lib.launch import device
    from pipeline_lib.personal_data.recognise import gliner_recogniser, presidio_recogniser

    if config.names == "gliner":
        assert config.names_model, "a config with GLiNER names a model"
        return (
            gliner_recogniser(config.names_model, config.names_revision, config.names_threshold, device()),
        )
    return (presidio_recogniser(config.names_language, config.names_threshold, config.names_model),)


def _suspects(batch: pa.RecordBatch, config: ScrubConfig) -> list[int]:
    """Return the places of conversations in which a quick look finds anything suspicious."""
    import pyarrow as pa
    import pyarrow.compute as pc

    from pipeline_lib.personal_data.detect import find, suspicious

    everyone = pa.array(range(batch.num_rows), pa.int64())
    texts, owners = [], []
    for column in LISTS:
        lists = batch.column(column)
        texts += [lists.flatten().field(name) for name in FIELDS]
        owners += [pc.list_parent_indices(lists)] * len(FIELDS)
    for name in PLAIN:
        plain = pc.fill_null(batch.column(name), "")
        texts.append(pc.replace_substring_regex(plain, _PLACE, "", max_replacements=1))
        files = pc.struct_field(pc.extract_regex(plain, _PLACE), "file")
        telling = [file for file in files.unique().to_pylist() if file and find(file, config.kinds)]
        texts.append(pc.if_else(pc.is_in(files, pa.array(telling, pa.string())), files, None))
        owners += [everyone] * 2
    # All of them at once: the pattern's automaton is built anew at every call.
    together = pa.concat_arrays([column.cast(pa.large_string()) for column in texts])
    looked_at = suspicious(together, config.kinds)
    return sorted(set(pa.concat_arrays(owners).filter(looked_at).to_pylist()))


def _places(row: dict[str, Any]) -> Iterator[tuple[dict[str, Any], str]]:
    """Yield (dictionary, key) of every text of a conversation that may hold personal data, in order."""
    for column in LISTS:
        for message in row[column] or ():
            yield from ((message, name) for name in FIELDS if message[name])
    yield from ((row, name) for name in PLAIN if row[name])


def _texts(row: dict[str, Any]) -> list[str]:
    return [
        text for holder, name in _places(row) for text in texts_in(holder[name], json=name in JSON_FIELDS)
    ]


def _put(row: dict[str, Any], texts: list[str]) -> None:
    clean = iter(texts)
    for holder, name in _places(row):
        holder[name] = with_texts(holder[name], clean, json=name in JSON_FIELDS)
