"""The training child process: TRL's loop over tokens that are already what they should be."""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback

from pipeline_lib.core.errors import DataError
from pipeline_lib.launch import child_main

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel, TrainerControl, TrainerState, TrainingArguments
    from trl.trainer.sft_trainer import SFTTrainer

IGNORED = -100
WHOLE = "whole"


def work(spec: dict[str, Any], tell: Callable[..., None]) -> None:
    """Train as the spec says and leave weights, tokenizer, history and statistics behind."""
    from pipeline_lib.training.token_shards import load_tokenizer

    work_dir, out = Path(spec["work"]), Path(spec["out"])
    tokenizer = load_tokenizer(Path(spec["tokens"]) / "tokenizer")
    parts = {part: _dataset(Path(spec["tokens"]), part) for part in ("train", "validation")}
    journal = Journal(work_dir / "history.jsonl", tell, tokens=sum(map(len, parts["train"]["input_ids"])))
    trainer = _trainer(spec, parts, tokenizer, journal)
    checkpoint = last_whole_checkpoint(work_dir / "checkpoints")
    journal.rewind(checkpoint)
    started = time.perf_counter()
    result = trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    if not math.isfinite(result.training_loss):
        raise FloatingPointError(
            f"the loss became {result.training_loss}; lower train.learning_rate or use precision bf16"
        )
    _save(trainer, tokenizer, out)
    stats = _stats(spec, trainer, journal, result.training_loss, time.perf_counter() - started)
    (work_dir / "stats.json").write_text(json.dumps(stats), encoding="utf-8")


def _dataset(tokens: Path, part: str) -> Dataset:
    """The part as input ids and labels, the labels of tokens that are not learnt ignored by the loss."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq
    from datasets import Dataset

    table = pa.concat_tables(
        [pq.read_table(p) for p in sorted(tokens.glob(f"{part}-*.parquet"))]
    ).combine_chunks()
    ids = table["input_ids"].combine_chunks()
    ids = ids.chunk(0) if isinstance(ids, pa.ChunkedArray) else ids
    learn = table["learn"].combine_chunks()
    learn = learn.chunk(0) if isinstance(learn, pa.ChunkedArray) else learn
    flat = pc.if_else(learn.flatten(), ids.flatten(), pa.scalar(IGNORED, pa.int32()))
    labels = pa.ListArray.from_arrays(ids.offsets, flat)
    lengths = pc.list_value_length(ids)
    return Dataset(pa.table({"input_ids": ids, "labels": labels, "length": lengths}))


def _trainer(spec: dict[str, Any], parts: dict[str, Dataset], tokenizer: Any, journal: Journal) -> SFTTrainer:
    from trl.trainer.sft_trainer import SFTTrainer

    config = spec["config"]
    model = _model(spec)
    if config["method"] == "lora":
        _check_targets(model, config["lora"]["target_modules"])
    return SFTTrainer(
        model=model,
        args=_arguments(spec, has_validation=len(parts["validation"]) > 0),
        train_dataset=parts["train"],
        eval_dataset=parts["validation"] if len(parts["validation"]) else None,
        processing_class=tokenizer,
        peft_config=_adapter(config) if config["method"] == "lora" else None,
        callbacks=[journal],
    )


def _model(spec: dict[str, Any]) -> PreTrainedModel:
    import torch
    from transformers import AutoModelForCausalLM

    config = spec["config"]
    half = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[config["precision"]]
    # Frozen weights may stay in half precision; trained ones need the fp32 mantissa for small updates.
    dtype = half if config["method"] == "lora" else torch.float32
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
        spec["base"], dtype=dtype, attn_implementation="sdpa"
    )
    return model


def _check_targets(model: PreTrainedModel, targets: list[str]) -> None:
    """Raise DataError for a target module that the model does not have, naming those it has."""
    from torch.nn import Linear

    known = {name.rpartition(".")[2] for name, module in model.named_modules() if isinstance(module, Linear)}
    missing = sorted(set(targets) - known)
    if missing:
        raise DataError(
            f"train.lora.target_modules: the model has no {missing[0]}; "
            f"it has {', '.join(sorted(known - {'lm_head'}))}"
        )


def _adapter(config: dict[str, Any]) -> Any:
    from peft import LoraConfig

    lora = config["lora"]
    return LoraConfig(
        r=lora["rank"],
        lora_alpha=lora["alpha"],
        lora_dropout=lora["dropout"],
        target_modules=lora["target_modules"],
        task_type="CAUSAL_LM",
    )


def _arguments(spec: dict[str, Any], *, has_validation: bool) -> Any:
    from trl.trainer.sft_config import SFTConfig

    config = spec["config"]
    every = (
        {"eval_strategy": "steps", "eval_steps": config["eval_steps"]}
        if config["eval_steps"]
        else {"eval_strategy": "epoch"}
    )
    return SFTConfig(
        output_dir=str(Path(spec["work"]) / "checkpoints"),
        dataset_kwargs={"skip_prepare_dataset": True},
        max_length=None,
        packing=False,
        learning_rate=config["learning_rate"],
        num_train_epochs=config["epochs"],
        max_steps=config["max_steps"] or -1,
        per_device_train_batch_size=config["batch_size"],
        per_device_eval_batch_size=config["batch_size"] * 2,
        gradient_accumulation_steps=config["gradient_accumulation_steps"],
        train_sampling_strategy=config["batching"],
        length_column_name="length",
        optim=config["optimizer"],
        lr_scheduler_type=config["schedule"],
        warmup_steps=config["warmup_ratio"],
        weight_decay=config["weight_decay"],
        adam_beta2=config["adam_beta2"],
        max_grad_norm=config["max_grad_norm"],
        bf16=config["precision"] == "bf16",
        fp16=config["precision"] == "fp16",
        use_cpu=spec["device"] == "cpu",
        gradient_checkpointing=config["activation_checkpointing"],
        logging_steps=config["logging_steps"],
        save_steps=config["save_steps"],
        save_total_limit=2,
        seed=config["seed"],
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=spec["device"] != "cpu",
        **(every if has_validation else {"eval_strategy": "no"}),
    )


def _save(trainer: SFTTrainer, tokenizer: Any, out: Path) -> None:
    trainer.save_model(str(out))
    tokenizer.save_pretrained(out)
    # A pickle and a card full of paths: neither belongs into an artifact.
    for name in ("training_args.bin", "README.md"):
        (out / name).unlink(missing_ok=True)
    _forget_path(out / "adapter_config.json")


def _forget_path(config: Path) -> None:
    """Take the base model's path out of the adapter's config; its digest is in the manifest."""
    if config.exists():
        values = json.loads(config.read_text(encoding="utf-8"))
        values["base_model_name_or_path"] = None
        config.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _stats(
    spec: dict[str, Any], trainer: SFTTrainer, journal: Journal, loss: float, seconds: float
) -> dict[str, Any]:
    assert trainer.model is not None
    parameters = list(trainer.model.parameters())
    return {
        "method": spec["config"]["method"],
        "parameters": sum(p.numel() for p in parameters),
        "trainable_parameters": sum(p.numel() for p in parameters if p.requires_grad),
        "steps": trainer.state.global_step,
        "epochs": round(trainer.state.epoch or 0.0, 4),
        "tokens": journal.tokens_seen,
        "train_loss": loss,
        "eval_loss": journal.eval_loss,
        "seconds": round(seconds, 1),
        "tokens_per_second": round(journal.tokens_seen / seconds, 1),
        "device": spec["device"],
    }


def last_whole_checkpoint(directory: Path) -> Path | None:
    """Return the newest checkpoint that was written to its end, or None."""
    whole = [path for path in directory.glob("checkpoint-*") if (path / WHOLE).exists()]
    for torn in directory.glob("checkpoint-*"):
        if torn not in whole:
            shutil.rmtree(torn)
    return max(whole, key=lambda path: int(path.name.rpartition("-")[2]), default=None)


class Journal(TrainerCallback):
    """Writes the loss curve, marks whole checkpoints and tells how far the training is."""

    def __init__(self, path: Path, tell: Callable[..., None], tokens: int) -> None:
        """Append to ``path``; ``tokens`` is what one pass over the train split holds."""
        self.path, self.tell, self.tokens = path, tell, tokens
        self.eval_loss: float | None = None
        self.tokens_seen = 0
        self._last = (time.perf_counter(), 0)

    def rewind(self, checkpoint: Path | None) -> None:
        """Forget the points after ``checkpoint``, which are about to be made again."""
        step = int(checkpoint.name.rpartition("-")[2]) if checkpoint else 0
        lines = self.path.read_text(encoding="utf-8").splitlines() if self.path.exists() else []
        kept = [line for line in lines if json.loads(line)["step"] <= step]
        self.path.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **_: Any,
    ) -> None:
        """Keep one point of the curves."""
        logs = logs or {}
        if "eval_loss" in logs:
            self.eval_loss = float(logs["eval_loss"])
            self._append({"step": state.global_step, "eval_loss": self.eval_loss})
        elif "loss" in logs:
            point: dict[str, float] = {
                "step": state.global_step,
                "epoch": round(state.epoch or 0.0, 4),
                **{k: float(logs[k]) for k in ("loss", "learning_rate", "grad_norm") if k in logs},
            }
            point["tokens_per_second"] = self._rate(state)
            self._append(point)
            self.tell(
                done=state.global_step,
                total=state.max_steps,
                note=f"loss {point['loss']:.3f}  {point['tokens_per_second']:,.0f} tok/s",
            )

    def _rate(self, state: TrainerState) -> float:
        now, seen = time.perf_counter(), int(self.tokens * (state.epoch or 0.0))
        before, had = self._last
        self._last, self.tokens_seen = (now, seen), seen
        return round((seen - had) / max(now - before, 1e-9), 1)

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Mark the checkpoint that was just written as whole.

        One of the last step is not marked: resuming from it would train a step too many.
        """
        if state.global_step < state.max_steps:
            (Path(str(args.output_dir)) / f"checkpoint-{state.global_step}" / WHOLE).touch()

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Count the tokens to the end."""
        self.tokens_seen = int(self.tokens * (state.epoch or 0.0))

    def _append(self, point: dict[str, Any]) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(point) + "\n")


if __name__ == "__main__":
    child_main(work)
