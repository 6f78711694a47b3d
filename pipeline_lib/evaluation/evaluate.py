"""Evaluate: what a model says to the test split's prompts, and how likely it finds the reference answers.

The reference is a conversation's last assistant turn, the prompt what stands before it, rendered as in
training. Models run in a child process (``worker.py``); text is scored here. ``answers.parquet`` has a row
for every conversation that was measured, ``excluded.parquet`` one with the reason for every other,
``scores.json`` the corpus scores with their intervals, ``logs/speed.json`` what it took.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from pipeline_lib.chat_templates import TemplateName
from pipeline_lib.core.config import StageConfig
from pipeline_lib.core.errors import DataError
from pipeline_lib.core.manifest import MANIFEST
from pipeline_lib.core.output import Output
from pipeline_lib.core.stage import stage
from pipeline_lib.kinds import Dataset, Evaluation, Model
from pipeline_lib.settings import file_digests, home

ServedRole = Literal["model", "base", "champion"]
IN_STATS = ("perplexity", "rougeL", "bleu", "chrf", "exact_match", "stopped")


class EndpointConfig(StageConfig):
    """Under which names an OpenAI-compatible endpoint serves the models; who has none answers here."""

    model: str | None = Field(
        default=None, description="Name of the tuned model, as the endpoint knows it; none answers here."
    )
    base: str | None = Field(default=None, description="Name of the base model; none answers here.")
    champion: str | None = Field(default=None, description="Name of the champion; none answers here.")
    agreement: float = Field(
        default=0.9,
        ge=0,
        le=1,
        description="Share of the tokens of its answers that the model here would have said itself, at least "
        "(where the temperature is 0): under it the endpoint serves other weights. Less where it quantizes.",
    )


class EvaluateConfig(StageConfig):
    """How models are measured."""

    max_conversations: int | None = Field(
        default=500,
        ge=1,
        description="Test conversations that are answered, the same for every model; none answers all. "
        "Perplexity is always about all.",
    )
    max_new_tokens: int = Field(default=128, ge=1, description="Longest answer, in tokens.")
    temperature: float = Field(
        default=0.0,
        ge=0,
        le=2,
        description="Temperature of the sampling; 0 always takes the likeliest token.",
    )
    learn: Literal["every_turn", "last_turn"] = Field(
        default="every_turn", description="Which assistant turns perplexity is about; as tokenize.learn."
    )
    template: TemplateName | None = Field(
        default=None,
        description="Named chat template in place of the tokenizer's own; one without gets markers.",
    )
    precision: Literal["bf16", "fp16", "fp32"] = Field(
        default="bf16",
        description="Number format of weights and computation; likelihoods are summed in fp32 or better.",
    )
    slices: tuple[str, ...] = Field(
        default=("source", "length"),
        description="What the scores are also broken down by: source, length (of the reference), and keys of "
        "the metadata.",
    )
    endpoint: EndpointConfig | None = Field(
        default=None,
        description="Models that an endpoint (FINETUNE_EVALUATE_ENDPOINT_URL) answers for, such as vLLM; "
        "likelihoods are measured here all the same. None answers here.",
    )
    suites: tuple[str, ...] = Field(
        default=(),
        description="Tasks or groups of lm-eval (extra `suites`) that are run as well, such as arc_easy.",
    )
    suites_path: Path | None = Field(
        default=None,
        description="Folder of further task files (YAML) for lm-eval; relative paths in them start here.",
    )
    suites_limit: int | None = Field(
        default=None, ge=1, description="Questions of each suite at most; none asks all."
    )
    reward_model: Path | None = Field(
        default=None,
        description="Directory of a reward model (conf/reward.yaml makes one) that scores every answer; its "
        "template should be the model's.",
    )
    seed: int = Field(default=42, ge=0, description="Seed of the sampling, where the temperature is not 0.")

    def of(self, role: ServedRole) -> EvaluateConfig:
        """Return how one of a run's models is measured: of the names at the endpoint it has its own alone."""
        name = getattr(self.endpoint, role) if self.endpoint else None
        alone = (
            EndpointConfig(model=name, agreement=self.endpoint.agreement) if self.endpoint and name else None
        )
        return self.model_copy(update={"endpoint": alone})


def read_outside(config: EvaluateConfig) -> dict[str, str]:
    """Return the digests of the reward model's and the own suites' files; DataError where there are none."""
    digests = {}
    if config.reward_model is not None:
        directory = config.reward_model.expanduser()
        if not (directory / "config.json").exists():
            raise DataError(
                f"evaluate.reward_model: {directory} holds no model; name a reward model's directory"
            )
        files = [path for path in directory.iterdir() if path.is_file() and path.name != MANIFEST]
        digests["reward_model"] = _digest(directory, files)
    if config.suites_path is not None:
        directory = config.suites_path.expanduser()
        files = [path for path in directory.rglob("*") if path.is_file()]
        if not any(path.suffix == ".yaml" for path in files):
            raise DataError(f"evaluate.suites_path: {directory} holds no task file (.yaml) for lm-eval")
        digests["suites"] = _digest(directory, files)
    return digests


def _digest(directory: Path, files: list[Path]) -> str:
    return file_digests().of_all(sorted(files), directory)


@stage(produces=Evaluation, version=5, outside=read_outside)
def evaluate(out: Output, config: EvaluateConfig, dataset: Dataset, model: Model) -> None:
    """Answers, likelihoods and scores of the model on the test split, or why a row was not measured."""
    from pipeline_lib.evaluation import tables
    from pipeline_lib.evaluation.suites import require_lm_eval

    if config.suites:
        require_lm_eval()
    test = tables.read_test(dataset)
    if not test.num_rows:
        raise DataError("evaluate: the test split is empty; raise split.test or add data")
    parts = _measure(out, config, dataset, model)
    answers, excluded = tables.answers(test, parts), tables.excluded(test, parts)
    tables.write(out.path, answers, excluded)
    reasons = tables.reasons(excluded)
    if not tables.wanted(answers).num_rows:
        raise DataError(
            f"evaluate: none of {test.num_rows} test conversations can be measured ({reasons}); "
            "look at the test split, or take a model with more positions"
        )
    suites = parts[0]["suites"]
    scores = {**tables.scores(answers), **suites.get("scores", {})}
    table = {
        "count": answers.num_rows,
        "answered": tables.answered(answers),
        "scores": scores,
        "signatures": {
            **tables.signatures(),
            **({"suites": f"lm_eval:{suites['lm_eval']}"} if suites else {}),
        },
        "excluded": reasons,
        "slices": tables.slices(answers, config.slices),
        **({"endpoint": parts[0]["endpoint"]} if parts[0]["endpoint"] else {}),
    }
    _write_json(out.path / "scores.json", table)
    _write_json(out.path / "logs" / "speed.json", [part["speed"] for part in parts])
    out.stats = {
        "read": test.num_rows,
        "kept": answers.num_rows,
        "dropped": excluded.num_rows,
        "reasons": reasons,
        "answered": table["answered"],
        "cut": sum(part["cut"] for part in parts),
        **{name: scores[name]["value"] for name in IN_STATS if name in scores},
    }


def _measure(out: Output, config: EvaluateConfig, dataset: Dataset, model: Model) -> list[dict[str, Any]]:
    from pipeline_lib.evaluation.tables import measured_part
    from pipeline_lib.launch import device, run_child

    for stale in out.work.glob("part-*.json"):
        stale.unlink()
    part = measured_part(dataset)
    spec = {
        "config": config.model_dump(mode="json"),
        "replies": str((home() / "replies" / model.digest[:16]).resolve()),
        "shards": [str(shard) for shard in dataset.shards(part)],
        "model": str(model.path),
        "work": str(out.work),
        "device": device(),
    }
    run_child("pipeline_lib.evaluation.worker", spec, out.work, "evaluate")
    return [json.loads(part.read_text(encoding="utf-8")) for part in sorted(out.work.glob("part-*.json"))]


def _write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
