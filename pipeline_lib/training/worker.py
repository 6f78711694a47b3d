"""The training child process: TRL's loop over tokens that are already what they should be."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline_lib.core.errors import StageError
from pipeline_lib.kinds import HISTORY, brings_code
from pipeline_lib.launch import child_main
from pipeline_lib.training.packing import IGNORED

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import TrainerState

    from pipeline_lib.training.elastic import Consolidation
    from pipeline_lib.training.journal import Journal
    from pipeline_lib.training.utilisation import Yardstick

INITIAL = "initial_adapter"
CHECKPOINTS = "checkpoints"


def work(spec: dict[str, Any], tell: Callable[..., None]) -> None:
    """Train as the spec says and leave weights, tokenizer, history and statistics behind."""
    from pipeline_lib.training.first_step import EveryWeightLearns, LongestBatchFirst, NeighboursUnseen
    from pipeline_lib.training.journal import Journal, claim_checkpoints, last_whole_checkpoint
    from pipeline_lib.training.token_shards import load_tokenizer
    from pipeline_lib.training.trainers import trainer_of

    work_dir, out = Path(spec["work"]), Path(spec["out"])
    main = os.environ.get("RANK", "0") == "0"
    if main:
        claim_checkpoints(work_dir / CHECKPOINTS, spec["config"])
    tokenizer = load_tokenizer(Path(spec["tokens"]) / "tokenizer")
    parts = {part: _dataset(Path(spec["tokens"]), part) for part in ("train", "validation")}
    held = _consolidation(spec, parts["train"])
    mixed = _mixed(spec, parts["train"])
    sources = Counter(mixed["source"])
    parts = {
        "train": mixed.remove_columns("source"),
        "validation": parts["validation"].remove_columns("source"),
    }
    if spec["config"]["batching"] == "packed":
        parts = _packed(spec, parts)
    trainer: Any = trainer_of(spec, parts, tokenizer, [EveryWeightLearns(), *held])
    for consolidation in held:
        consolidation.measure(trainer.model)
    if spec["config"]["objective"] not in ("grpo", "rloo"):
        # How long a sampled answer gets is not known before.
        trainer.add_callback(LongestBatchFirst(trainer))
    neighbours = NeighboursUnseen(trainer)
    if spec["config"]["objective"] == "sft" and not brings_code(spec["base"]):
        trainer.add_callback(neighbours)
    tokens = sum(parts["train"]["length"])
    yardstick, logging_steps = _yardstick(spec, trainer), spec["config"]["logging_steps"]
    journal = Journal(work_dir / HISTORY, tell, tokens, yardstick, steps=logging_steps, writes=main)
    trainer.add_callback(journal)
    if main:
        _keep_initial(spec, trainer, work_dir / INITIAL)
    with trainer.accelerator.main_process_first():
        checkpoint = last_whole_checkpoint(work_dir / CHECKPOINTS)
    journal.rewind(checkpoint)
    started = time.perf_counter()
    with journal.listening():
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    if journal.stopped:
        raise StageError(
            f"train was asked to stop and saved a checkpoint after step {trainer.state.global_step}; "
            "run again to go on from it"
        )
    _save(spec, trainer, tokenizer, out)
    if main:
        stats = _stats(spec, trainer, journal, time.perf_counter() - started)
        stats["sources"] = dict(sorted(sources.items()))
        stats["neighbour_influence"] = neighbours.influence
        (work_dir / "stats.json").write_text(json.dumps(stats), encoding="utf-8")


def _dataset(tokens: Path, part: str) -> Dataset:
    """The part as the trainer takes it, each row with its length.

    Of sequences that are input ids and labels, the labels of tokens that are not learnt ignored by the loss.
    """
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq
    from datasets import Dataset

    table = pa.concat_tables(
        [pq.read_table(p) for p in sorted(tokens.glob(f"{part}-*.parquet"))]
    ).combine_chunks()
    if "learn" not in table.column_names:
        return Dataset(_with_length(table.drop_columns(["id"])))
    ids, learn = (table[name].combine_chunks() for name in ("input_ids", "learn"))
    flat = pc.if_else(learn.flatten(), ids.flatten(), pa.scalar(IGNORED, pa.int32()))
    labels = pa.ListArray.from_arrays(ids.offsets, flat)
    lengths = pc.list_value_length(ids)
    source = table["source"].combine_chunks()
    return Dataset(pa.table({"source": source, "input_ids": ids, "labels": labels, "length": lengths}))


def _mixed(spec: dict[str, Any], data: Dataset) -> Dataset:
    """Return one pass over the train split, every source as often as the config wants it."""
    from pipeline_lib.training.mixing import MixConfig, places

    mix = MixConfig.model_validate(spec["config"]["mix"])
    if not mix.changes_nothing:
        data = data.select(places(data["source"], mix, spec["config"]["seed"]))
    return data


def _packed(spec: dict[str, Any], parts: dict[str, Dataset]) -> dict[str, Dataset]:
    """Return the parts with several sequences in a row, of the config's length or the longest sequence's."""
    from pipeline_lib.training.packing import packed

    room = spec["config"]["packed_length"] or max(parts["train"]["length"])
    return {part: packed(data, room) if len(data) else data for part, data in parts.items()}


def _consolidation(spec: dict[str, Any], data: Dataset) -> list[Consolidation]:
    """Return what holds the base's weights, where the config wants it, with the rows they are weighed by."""
    from pipeline_lib.training.elastic import Consolidation

    mix = spec["config"]["mix"]
    if mix["ewc_strength"] is None:
        return []
    general = [i for i, source in enumerate(data["source"]) if source in mix["replay_sources"]]
    rows = data.select(general).shuffle(seed=spec["config"]["seed"])
    return [
        Consolidation(mix["ewc_strength"], rows.select(range(min(len(rows), mix["ewc_sequences"]))).to_list())
    ]


def _with_length(table: Any) -> Any:
    """Return preference data with the number of tokens in each row's lists."""
    import pyarrow.compute as pc

    lists = [name for name in table.column_names if name.endswith("_ids")]
    length = pc.list_value_length(table[lists[0]])
    for name in lists[1:]:
        length = pc.add(length, pc.list_value_length(table[name]))
    return table.append_column("length", length)


def _keep_initial(spec: dict[str, Any], trainer: Any, place: Path) -> None:
    """Keep what an adapter began with where it changed the base's own weights, to save the difference."""
    if _mutates(spec) and not place.exists():
        kinds = trainer.model.peft_config.values()
        named = [(kind, kind.init_lora_weights) for kind in kinds]
        for kind, _ in named:
            kind.init_lora_weights = True
        aside = place.with_suffix(".part")
        trainer.model.save_pretrained(aside)
        aside.rename(place)
        for kind, name in named:
            kind.init_lora_weights = name


def _mutates(spec: dict[str, Any]) -> bool:
    config = spec["config"]
    return config["method"] in ("lora", "qlora") and config["lora"]["init"].startswith(("pissa", "olora"))


def _save(spec: dict[str, Any], trainer: Any, tokenizer: Any, out: Path) -> None:
    trainer.save_model(str(out))
    if not trainer.accelerator.is_main_process:
        return
    if _mutates(spec):
        # As plain LoRA of twice the rank, which goes onto the base as it is.
        initial = Path(spec["work"]) / INITIAL
        trainer.accelerator.unwrap_model(trainer.model).save_pretrained(
            out, path_initial_model_for_weight_conversion=str(initial)
        )
    tokenizer.save_pretrained(out)
    if not (out / "adapter_config.json").exists():
        for module in Path(spec["base"]).glob("*.py"):
            shutil.copyfile(module, out / module.name)
    # A pickle and a card full of paths: neither belongs into an artifact.
    for name in ("training_args.bin", "README.md"):
        (out / name).unlink(missing_ok=True)
    _settle(out / "adapter_config.json")


def _settle(config: Path) -> None:
    """Make an adapter's config the same in every run: in order, and without paths (the manifest has digests).

    PEFT writes sets as they come out of the process's hashes.
    """
    if config.exists():
        values = json.loads(config.read_text(encoding="utf-8"))
        for name in ("target_modules", "modules_to_save", "exclude_modules"):
            if isinstance(values.get(name), list):
                values[name].sort()
        values["base_model_name_or_path"] = None
        if values.get("tokenizer_name_or_path"):
            # The prompt that began as a text is saved as it was learnt: the text is not read again.
            values |= {
                "tokenizer_name_or_path": None,
                "prompt_tuning_init": "RANDOM",
                "prompt_tuning_init_text": None,
            }
        config.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _stats(spec: dict[str, Any], trainer: Any, journal: Journal, seconds: float) -> dict[str, Any]:
    from pipeline_lib.training.utilisation import peak_memory

    best, rate = _best(trainer.state), journal.tokens_here / seconds
    parameters = list(trainer.model.parameters())
    return {
        "method": spec["config"]["method"],
        "objective": spec["config"]["objective"],
        "parameters": sum(p.numel() for p in parameters),
        "trainable_parameters": sum(p.numel() for p in parameters if p.requires_grad),
        "steps": trainer.state.global_step,
        "epochs": round(trainer.state.epoch or 0.0, 4),
        "tokens": journal.tokens_seen,
        "train_loss": journal.train_loss,
        "eval_loss": None,
        **journal.looked(trainer.state.best_global_step if best else None),
        **best,
        "seconds": round(seconds, 1),
        "tokens_per_second": round(rate, 1),
        "peak_memory_gib": round(peak_memory(spec["device"]), 3),
        "tflops": round(journal.yardstick.tflops(rate), 6),
        "model_flop_utilisation": round(journal.yardstick.share(rate), 4),
        "device": spec["device"],
        "processes": trainer.accelerator.num_processes,
    }


def _yardstick(spec: dict[str, Any], trainer: Any) -> Yardstick:
    from pipeline_lib.training.utilisation import Yardstick, flop_per_token, matrix_rate

    rate = matrix_rate(spec["device"], spec["config"]["precision"])
    return Yardstick(flop_per_token(trainer.model), rate, trainer.accelerator.num_processes)


def _best(state: TrainerState) -> dict[str, Any]:
    if not state.best_model_checkpoint:
        return {}
    return {"best_step": state.best_global_step, "best_metric": state.best_metric}


if __name__ == "__main__":
    child_main(work)
