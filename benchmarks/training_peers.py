"""The peers of ``benchmarks.training``: what a user of TRL or of LLaMA-Factory writes, and what it tells.

Both leave the order of the conversations and the padding as they come; recomputing of activations, on in
both, is switched off, since a model this small has the memory. ``llama_factory`` runs in its own environment
and imports nothing of this project's but the harness.
"""

from __future__ import annotations

import json
import sys
from importlib.machinery import ModuleSpec
from importlib.util import module_from_spec
from pathlib import Path
from typing import Any

from benchmarks.harness import root

MODEL = str(root() / "pipeline_lib" / "bundled" / "pydocs-5m")
BATCH, LONGEST, LEARNING_RATE = 16, 1024, 1e-4


def trl(scratch: str, precision: str, turn: str) -> dict[str, float]:
    """Train by TRL's SFTTrainer over prompts and completions."""
    from datasets import Dataset
    from trl.trainer.sft_config import SFTConfig
    from trl.trainer.sft_trainer import SFTTrainer

    rows = json.loads((Path(scratch) / "alpaca.json").read_text(encoding="utf-8"))
    chats = [
        {
            "prompt": [{"role": "user", "content": row["instruction"]}],
            "completion": [{"role": "assistant", "content": row["output"]}],
        }
        for row in rows
    ]
    args = SFTConfig(
        output_dir=str(Path(scratch) / f"trl-{turn}"),
        per_device_train_batch_size=BATCH,
        num_train_epochs=1,
        learning_rate=LEARNING_RATE,
        lr_scheduler_type="cosine",
        max_length=LONGEST,
        bf16=precision == "bf16",
        activation_checkpointing=False,
        use_cpu=True,
        model_init_kwargs={"dtype": "float32"},
        save_strategy="no",
        report_to="none",
        seed=int(turn),
    )
    trainer = SFTTrainer(MODEL, args=args, train_dataset=Dataset.from_list(chats))
    done = trainer.train()
    tokenized: Any = trainer.train_dataset
    tokens = sum(map(len, tokenized["input_ids"]))
    return {"tokens": tokens, "seconds": done.metrics["train_runtime"]}


def llama_factory(scratch: str, precision: str, turn: str) -> dict[str, float]:
    """Train by LLaMA-Factory from its own Alpaca format, with the tokenizer's chat template."""
    # Pip gives it a torchaudio of another CUDA than its torch, whose import fails. No sound is read.
    sys.modules["torchaudio"] = module_from_spec(ModuleSpec("torchaudio", None))
    from llamafactory.train.tuner import run_exp

    place = Path(scratch)
    known = {"made": {"file_name": str(place / "alpaca.json")}}
    (place / "dataset_info.json").write_text(json.dumps(known), encoding="utf-8")
    out = place / f"llama-factory-{turn}"
    run_exp(
        {
            "model_name_or_path": MODEL,
            "stage": "sft",
            "do_train": True,
            "finetuning_type": "full",
            "infer_dtype": "float32",
            "disable_gradient_checkpointing": True,
            "dataset": "made",
            "dataset_dir": str(place),
            "cutoff_len": LONGEST,
            "output_dir": str(out),
            "per_device_train_batch_size": BATCH,
            "num_train_epochs": 1,
            "learning_rate": LEARNING_RATE,
            "lr_scheduler_type": "cosine",
            "bf16": precision == "bf16",
            "use_cpu": True,
            "include_num_input_tokens_seen": "non_padding",
            "save_strategy": "no",
            "report_to": "none",
            "seed": int(turn),
        }
    )
    state = json.loads((out / "trainer_state.json").read_text(encoding="utf-8"))
    done = json.loads((out / "train_results.json").read_text(encoding="utf-8"))
    return {"tokens": state["num_input_tokens_seen"], "seconds": done["train_runtime"]}


TASKS = {task.__name__: task for task in (trl, llama_factory)}

if __name__ == "__main__":
    print(json.dumps(TASKS[sys.argv[1]](*sys.argv[2:])))
