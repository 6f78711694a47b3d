"""A small pipeline, built by a real store: curation, tokens, adapter, model, evaluations and a verdict."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline_lib import records
from pipeline_lib.core.artifact import Artifact
from pipeline_lib.core.config import StageConfig
from pipeline_lib.core.output import Output
from pipeline_lib.core.stage import Stage, stage
from pipeline_lib.core.store import Store
from pipeline_lib.kinds import Adapter, Dataset, Evaluation, Model, Tokens, Verdict
from pipeline_lib.publishing.report import ReportConfig, report
from pipeline_lib.settings import settings

HOSTILE = '<script>alert("x")</script> **bold** | & \'"'
METRICS = {
    "perplexity": (31.62, 12.07),
    "rougeL": (0.112, 0.304),
    "bleu": (1.2, 9.81),
    "stopped": (0.31, 0.985),
}
SIGNATURES = {"bleu": "nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:2.6.0"}


class Empty(StageConfig):
    """No choice."""


class TrainConfig(StageConfig):
    """One nested choice."""

    learning_rate: float = 2e-4
    lora: Mapping[str, int] = {"rank": 16}
    modules: tuple[str, ...] = ("q_proj", "v_proj")


class GateConfig(StageConfig):
    """Whether the gate opens."""

    open: bool = True


class EvaluateConfig(StageConfig):
    """How well the model does."""

    tuned: bool = False
    shift: float = 0.0


@stage(produces=Dataset, version=1)
def ingest(out: Output, config: Empty) -> None:
    """Forty conversations."""
    rows = [_conversation(i) for i in range(40)]
    with records.DatasetWriter(out.path) as writer:
        writer.keep(records.from_rows(rows[:36]))
        writer.drop(records.from_rows(rows[36:]), ["too_short", "too_short", "duplicate", HOSTILE], [""] * 4)
    out.stats = writer.stats(40)


@stage(produces=Dataset, version=1)
def split(out: Output, config: Empty, conversations: Dataset) -> None:
    """Three parts."""
    rows = list(records.rows(conversations.shards()))
    with records.DatasetWriter(out.path, ("train", "validation", "test")) as writer:
        for part, some in (("train", rows[:20]), ("validation", rows[20:22]), ("test", rows[22:])):
            writer.write(part, records.from_rows(some))
    out.stats = writer.stats(36)


@stage(produces=Tokens, version=1)
def tokenize(out: Output, config: Empty, dataset: Dataset) -> None:
    """Token ids whose number is known."""
    for part in ("train", "validation"):
        count = dataset.count(part)
        ids = [list(range(10 + 7 * i)) for i in range(count)]
        pq.write_table(
            pa.table({"id": [str(i) for i in range(count)], "input_ids": ids}),
            out.path / f"{part}-00000.parquet",
        )
        out.stats[part] = {
            "read": count,
            "kept": count,
            "dropped": 0,
            "tokens": sum(map(len, ids)),
            "reasons": {},
        }


@stage(produces=Adapter, version=1)
def train(out: Output, config: TrainConfig, tokens: Tokens) -> None:
    """Learn with a loss that falls."""
    (out.path / "logs").mkdir()
    (out.path / "adapter_config.json").write_text("{}")
    with (out.path / "logs" / "history.jsonl").open("w") as log:
        for step in range(1, 1201):
            point = {
                "step": step,
                "epoch": step / 400,
                "loss": 4 / step**0.2,
                "learning_rate": 2e-4 * (1 - step / 1201),
                "grad_norm": 1.0,
            }
            log.write(json.dumps(point) + "\n")
            if step % 200 == 0:
                log.write(json.dumps({"step": step, "eval_loss": 4.2 / step**0.2}) + "\n")
    out.stats = {
        "objective": "sft",
        "method": "lora",
        "trainable_parameters": 12_345,
        "parameters": 5_000_000,
        "steps": 1200,
        "seconds": 12.5,
        "train_loss": 1.1,
    }


@stage(produces=Model, version=1)
def merge(out: Output, config: Empty, adapter: Adapter) -> None:
    """Make a tiny random Llama with a byte-level tokenizer and a chat template."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    letters = {letter: i for i, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    bytewise = Tokenizer(models.BPE(vocab=letters, merges=[]))
    bytewise.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bytewise.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bytewise, eos_token="<|end|>", pad_token="<|pad|>")
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}assistant: "
    )
    torch.manual_seed(0)
    shape = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
    }
    ends = {
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **shape, **ends)).to(
        torch.bfloat16
    ).save_pretrained(out.path)
    tokenizer.save_pretrained(out.path)


@stage(produces=Evaluation, version=1)
def evaluate(out: Output, config: EvaluateConfig, dataset: Dataset, model: Model | None = None) -> None:
    """Scores and answers that are known."""
    values = {metric: pair[config.tuned] + config.shift for metric, pair in METRICS.items()}
    scores = {m: {"value": v, "low": v * 0.9, "high": v * 1.1} for m, v in values.items()}
    text = json.dumps({"count": 14, "answered": 12, "scores": scores, "signatures": SIGNATURES})
    (out.path / "scores.json").write_text(text)
    phases = {"generate": {"tokens": 900, "seconds": 3.0, "tokens_per_second": 300.0}}
    speed = [phases | {"first_token": {"requests": 16, "median_ms": 8.0, "p95_ms": 9.5}}, phases]
    (out.path / "logs").mkdir()
    (out.path / "logs" / "speed.json").write_text(json.dumps(speed))
    rows = list(records.rows(dataset.shards("test")))
    who = "tuned" if config.tuned else "base"
    table = [
        {
            "id": row["id"],
            "source": row["source"],
            "prompt": json.dumps(row["messages"][:1]),
            "reference": row["messages"][1]["content"],
            "answer": f"{who} answer {i} {HOSTILE}",
            "stopped": config.tuned,
            "nll": float(i * 10),
            "tokens": 10,
        }
        for i, row in enumerate(rows)
    ]
    pq.write_table(pa.Table.from_pylist(table), out.path / "answers.parquet")


@stage(produces=Verdict, version=1)
def gate(out: Output, config: GateConfig, base: Evaluation, tuned: Evaluation) -> None:
    """Open or closed as asked for."""
    rule = {
        "rule": "beats_base",
        "metric": "perplexity, less the base model's",
        "value": -19.5,
        "low": -21.0,
        "high": -18.0,
        "threshold": 0.05,
        "asked": "below 0 with p below 0.05",
    }
    reason = (
        "perplexity is 19.5 lower than the base model's"
        if config.open
        else f"perplexity is too high {HOSTILE}"
    )
    comparison = {
        m: {
            "base": b,
            "tuned": t,
            "difference": {"value": t - b, "low": (t - b) * 1.1, "high": (t - b) * 0.9, "p_value": 0.0002},
        }
        for m, (b, t) in METRICS.items()
    }
    verdict = {
        "open": config.open,
        "rules": [{**rule, "passed": config.open, "reason": reason}],
        "comparison": comparison,
    }
    (out.path / "verdict.json").write_text(json.dumps(verdict))


def _conversation(i: int) -> dict[str, object]:
    question, answer = f"What does function_{i} do? {HOSTILE}", f"It returns {i}. " + "And more. " * (i % 9)
    messages = [records.message("user", question), records.message("assistant", answer)]
    return {"id": f"{i:04d}", "source": "pydocs", "messages": messages}


@dataclass
class Pipeline:
    """The artifacts of one run, in the store that built them."""

    store: Store
    artifacts: dict[str, Artifact]

    def build(self, made: Stage, *args: object) -> Artifact:
        """Materialize one stage."""
        return self.store.materialize(made.recipe(*args)).artifact

    def __getitem__(self, name: str) -> Artifact:
        """Return one artifact by name."""
        return self.artifacts[name]

    def registration_inputs(self) -> tuple[object, ...]:
        """Return the inputs of `register` in order."""
        names = ("model", "adapter", "base", "tuned", "verdict", "report")
        return (*(self.artifacts[name] for name in names), (self.artifacts["split"],))


def build_pipeline(root: Path, *, opens: bool = True, shift: float = 0.0) -> Pipeline:
    """Build everything up to the report below ``root``."""
    pipeline = Pipeline(Store(root), {})
    made, build = pipeline.artifacts, pipeline.build
    made["ingest"] = build(ingest, Empty())
    made["split"] = build(split, Empty(), made["ingest"])
    made["tokens"] = build(tokenize, Empty(), made["split"])
    made["adapter"] = build(train, TrainConfig(), made["tokens"])
    made["model"] = build(merge, Empty(), made["adapter"])
    made["base"] = build(evaluate, EvaluateConfig(), made["split"])
    made["tuned"] = build(evaluate, EvaluateConfig(tuned=True, shift=shift), made["split"], made["model"])
    made["verdict"] = build(gate, GateConfig(open=opens), made["base"], made["tuned"])
    curation = (made["ingest"], made["split"])
    made["report"] = build(
        report,
        ReportConfig(),
        curation,
        made["tokens"],
        made["adapter"],
        made["base"],
        made["tuned"],
        made["verdict"],
    )
    return pipeline


@contextmanager
def registry_at(database: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Point the settings at a database and the files beside it."""
    with monkeypatch.context() as patched:
        patched.setenv("FINETUNE_STORE", str(database.parent / "store"))
        patched.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{database}")
        settings.cache_clear()
        yield
    settings.cache_clear()
