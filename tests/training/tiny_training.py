"""Trainings of a random model of a few thousand weights, in this process or in one that can be killed."""

from __future__ import annotations

import json
import multiprocessing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pipeline_lib import records
from pipeline_lib.training.merge import MergeConfig
from pipeline_lib.training.tokenize import TokenizeConfig
from pipeline_lib.training.train import LoraConfig, TrainConfig
from tests.evaluation.tiny_model import tiny_model

LIBRARIES_WARN = pytest.mark.filterwarnings(
    # TRL calls a method by the name it had, bitsandbytes says what a CPU lacks, and PEFT that PiSSA's base
    # serves no other adapter, for which the worker saves it as a plain one.
    "ignore:`gradient_checkpointing_:FutureWarning",
    "ignore:PiSSA changes the base weights:UserWarning",
    "ignore:Paged optimizers are not supported on CPU:UserWarning",
)
"""What the libraries under a training in this process warn of; anything else is an error."""
LORA = LoraConfig(rank=4, alpha=8, dropout=0.0, target_modules=("q_proj", "v_proj", "down_proj"))
QUICK: dict[str, Any] = {
    "lora": LORA,
    "learning_rate": 3e-2,
    "epochs": 2,
    "batch_size": 4,
    "logging_steps": 1,
    "save_steps": 2,
    "precision": "fp32",
}


@dataclass(frozen=True)
class Place:
    """A directory with a base model and tokens, and room for trainings."""

    root: Path

    @property
    def base(self) -> Path:
        return self.root / "base"

    @property
    def tokens(self) -> Path:
        return self.root / "tokens"


@dataclass(frozen=True)
class Run:
    """What a training left."""

    out: Path
    work: Path

    @property
    def stats(self) -> dict[str, Any]:
        return dict(json.loads((self.work / "stats.json").read_text()))

    @property
    def history(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.work / "history.jsonl").read_text().splitlines()]

    @property
    def losses(self) -> list[float]:
        return [point["loss"] for point in self.history if "loss" in point]

    def weights(self, name: str = "adapter_model.safetensors") -> dict[str, Any]:
        from safetensors.torch import load_file

        return load_file(self.out / name)


def sequences(directory: Path, base: Path, count: int = 24) -> Path:
    """Write short sequences whose second half is learnt, as ``tokenize`` does."""
    from pipeline_lib.training.token_shards import TokenWriter, load_tokenizer

    tokenizer = load_tokenizer(base)
    directory.mkdir()
    for part, number in (("train", count), ("validation", 4)):
        with TokenWriter(directory, part) as writer:
            for i in range(number):
                ids = [5 + (i * 7 + j) % 50 for j in range(6 + i % 5)] + [tokenizer.eos_token_id]
                learn = [j >= len(ids) // 2 for j in range(len(ids))]
                writer.keep(f"{part}-{i}", ids, learn, stops=True, truncated=False)
    tokenizer.save_pretrained(directory / "tokenizer")
    return directory


def place(root: Path) -> Place:
    """Return a new place with a random base model and sequences to learn."""
    made = Place(root)
    tiny_model(made.base)
    sequences(made.tokens, made.base)
    return made


def spec_of(where: Place, name: str, tokens: Path | None = None, **values: Any) -> dict[str, Any]:
    """Return what the train stage would hand to its child; settings that are not given are quick ones."""
    config = TrainConfig.model_validate({**QUICK, **values})
    out, work = where.root / name / "out", where.root / name / "work"
    for directory in (out, work):
        directory.mkdir(parents=True, exist_ok=True)
    return {
        "config": config.model_dump(mode="json"),
        "base": str(where.base),
        "tokens": str(tokens or where.tokens),
        "out": str(out),
        "work": str(work),
        "device": "cpu",
        "parallel": config.parallel,
    }


def train_here(where: Place, name: str, tokens: Path | None = None, **values: Any) -> Run:
    """Train in this process and return what it left."""
    from pipeline_lib.training.worker import work

    spec = spec_of(where, name, tokens, **values)
    work(spec, lambda **event: None)
    return Run(Path(spec["out"]), Path(spec["work"]))


def merge_here(where: Place, run: Run, **values: Any) -> tuple[Path, dict[str, Any]]:
    """Merge a training into its base in this process; return the model's directory and what was measured."""
    from pipeline_lib.training.merge_worker import work

    out, scratch = run.out.parent / "model", run.out.parent / "merge"
    for directory in (out, scratch):
        directory.mkdir()
    adapts = (run.out / "adapter_config.json").exists()
    work(
        {
            **MergeConfig.model_validate({"dtype": "float32", **values}).model_dump(mode="json"),
            "adapter": str(run.out) if adapts else None,
            "base": str(where.base if adapts else run.out),
            "code": str(where.base),
            "tokenizer": str(run.out),
            "out": str(out),
            "work": str(scratch),
            "device": "cpu",
        },
        lambda **event: None,
    )
    return out, json.loads((scratch / "stats.json").read_text())


def killable(spec: dict[str, Any]) -> multiprocessing.process.BaseProcess:
    """Start the training in a process of its own, forked from one that has the libraries loaded."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["trl", "peft", "pipeline_lib.training.trainers"])
    process = context.Process(target=train_spec, args=(spec,))
    process.start()
    return process


def train_spec(spec: dict[str, Any]) -> None:
    """Train as the child does."""
    from pipeline_lib.training.worker import work

    work(spec, lambda **event: None)


def pairs(
    directory: Path, base: Path, objective: str, count: int = 24, rejected: str = "no", **values: Any
) -> tuple[Path, dict[str, Any]]:
    """Tokenize conversations with two answers, alike in the fourth; return the tokens and the counts."""
    from pipeline_lib.core.artifact import Artifact
    from pipeline_lib.core.output import Output
    from pipeline_lib.kinds import Dataset
    from pipeline_lib.training.preferences import write_part
    from pipeline_lib.training.token_shards import load_tokenizer

    data = directory.parent / f"{directory.name}-data"
    directory.mkdir()
    data.mkdir()
    with records.DatasetWriter(data, ("train", "validation")) as writer:
        for part, number in (("train", count), ("validation", 4)):
            rows = [
                {
                    "id": f"{part}{i}",
                    "source": "pairs",
                    "messages": [records.message("user", f"say {i % 7}")],
                    "chosen": [records.message("assistant", f"yes {i % 7}")],
                    "rejected": [records.message("assistant", f"{rejected} {i % 5}" if i != 3 else "yes 3")],
                }
                for i in range(number)
            ]
            writer.write(part, records.from_rows(rows))
    tokenizer = load_tokenizer(base)
    config = TokenizeConfig.model_validate({"objective": objective, "max_length": 64, **values})
    out = Output("tokenize", directory, directory)
    dataset: Artifact = Dataset(data, "0" * 64)
    assert isinstance(dataset, Dataset)
    stats = {part: write_part(out, config, tokenizer, dataset, part) for part in ("train", "validation")}
    tokenizer.save_pretrained(directory / "tokenizer")
    return directory, stats
