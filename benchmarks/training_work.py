"""The children of ``benchmarks.training`` that are ours: the data, the train stage, and the bare loop.

``python -m benchmarks.training_work TASK SCRATCH …`` prints what it found as JSON.
"""

from __future__ import annotations

import json
import os
import random
import sys
import time
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks.evaluation_loops import MODEL, pairs
from benchmarks.training_peers import BATCH, LEARNING_RATE, LONGEST
from pipeline_lib.training.packing import IGNORED

SHARES = (0.0, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 1.0)
PROMPT_WORDS = (3, 4, 6, 7, 9, 11, 16, 23, 29, 54, 264)
ANSWER_WORDS = (1, 1, 1, 4, 9, 31, 70, 100, 122, 205, 500)
"""Words of Alpaca's prompts and answers at these shares of its conversations (9,229 drawn at random)."""


def make(scratch: str, count: str) -> dict[str, int]:
    """Write conversations for the peers, and the same as the tokens of the pipeline's own stage."""
    from pipeline_lib import records
    from pipeline_lib.core.output import Output
    from pipeline_lib.kinds import Dataset, Model
    from pipeline_lib.training.tokenize import TokenizeConfig, tokenize

    chats = list(conversations(int(count)))
    place = Path(scratch)
    rows = [{"instruction": asked, "input": "", "output": said} for asked, said in chats]
    (place / "alpaca.json").write_text(json.dumps(rows), encoding="utf-8")
    (place / "dataset").mkdir()
    with records.DatasetWriter(place / "dataset", ("train", "validation")) as writer:
        messages = [
            [records.message("user", asked), records.message("assistant", said)] for asked, said in chats
        ]
        made = [{"id": str(i), "source": "made", "messages": said} for i, said in enumerate(messages)]
        writer.write("train", records.from_rows(made))
    (place / "tokens").mkdir()
    out = Output("tokenize", place / "tokens", place / "tokens-work")
    config = TokenizeConfig(max_length=LONGEST)
    tokenize.function(out, config, Dataset(place / "dataset", ""), Model(MODEL, ""))
    return {"tokens": out.stats["train"]["tokens"], "dropped": out.stats["train"]["dropped"]}


def conversations(count: int) -> Iterator[tuple[str, str]]:
    """Yield so many questions and answers: words of Python's documentation, in Alpaca's lengths."""
    draw = random.Random(0)
    words = [word for _, text in pairs(1000) for word in text.split()]
    for _ in range(count):
        yield tuple(  # type: ignore[misc]
            " ".join(draw.choices(words, k=spread(draw.random(), known)))
            for known in (PROMPT_WORDS, ANSWER_WORDS)
        )


def spread(share: float, known: Sequence[int]) -> int:
    """Return the length below which this share of all lie, straight between the known ones."""
    place = min(bisect_right(SHARES, share), len(SHARES) - 1)
    below, above = SHARES[place - 1], SHARES[place]
    return round(known[place - 1] + (known[place] - known[place - 1]) * (share - below) / (above - below))


def staged(scratch: str, precision: str, turn: str) -> dict[str, float]:
    """Train by the stage, in the child process that it starts.

    ``seconds`` is the training as its library tells it, ``loop`` its steps alone, ``whole`` the stage.
    """
    from pipeline_lib.core.output import Output
    from pipeline_lib.kinds import HISTORY, Model, Tokens
    from pipeline_lib.training.train import TrainConfig, train

    out = Output("train", Path(scratch) / f"staged-{turn}", Path(scratch) / f"staged-{turn}-work")
    out.path.mkdir()
    config = TrainConfig.model_validate(
        {
            "method": "full",
            "epochs": 1,
            "batch_size": BATCH,
            "precision": precision,
            "learning_rate": LEARNING_RATE,
            "seed": int(turn),
            # A point of the loss curve at checkpoints and the last step: they say how long the steps took.
            "logging_steps": steps(Path(scratch) / "tokens"),
        }
    )
    started = time.perf_counter()
    train.function(out, config, Tokens(Path(scratch) / "tokens", ""), Model(MODEL, ""))
    whole = time.perf_counter() - started
    history = (out.path / "logs" / HISTORY).read_text(encoding="utf-8")
    points = [point for point in map(json.loads, history.splitlines()) if "loss" in point]
    tokens, epochs = out.stats["tokens"], [0.0, *(point["epoch"] for point in points)]
    shares = [after - before for before, after in pairwise(epochs)]
    return {
        "tokens": tokens,
        "seconds": out.stats["seconds"],
        "loop": sum(
            share * tokens / point["tokens_per_second"] for share, point in zip(shares, points, strict=True)
        ),
        "whole": whole,
    }


def steps(tokens: Path) -> int:
    """Return the optimizer steps of one pass over the train split."""
    import pyarrow.parquet as pq

    return -(-sum(pq.read_metadata(shard).num_rows for shard in tokens.glob("train-*.parquet")) // BATCH)


def bare(scratch: str, precision: str, turn: str) -> dict[str, float]:
    """Train by a loop of a dozen lines over batches that are ready, put together as the stage does it.

    In a process with the C library's settings of the stage's, with its attention, and scoring what is learnt.
    """
    from pipeline_lib.launch import KEEPS_MEMORY

    if "GLIBC_TUNABLES" not in os.environ:
        again = [sys.executable, "-m", "benchmarks.training_work", "bare", scratch, precision, turn]
        os.execve(sys.executable, again, {**os.environ, "GLIBC_TUNABLES": KEEPS_MEMORY})
    import torch
    from transformers import AutoModelForCausalLM, get_cosine_schedule_with_warmup, set_seed

    from pipeline_lib.flat_rows import BY_SEQUENCE, register

    set_seed(int(turn))
    register()
    model = AutoModelForCausalLM.from_pretrained(
        MODEL, dtype=torch.float32, attn_implementation=BY_SEQUENCE
    ).train()
    made = batches(Path(scratch) / "tokens", int(turn))
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.01, fused=True)
    schedule = get_cosine_schedule_with_warmup(optimizer, len(made) // 33, len(made))
    started = time.perf_counter()
    for batch in made:
        row = dict(batch)
        labels = row.pop("labels")[0]
        places = (labels[1:] != IGNORED).nonzero()[:, 0]
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            logits = model(**row, use_cache=False, logits_to_keep=places).logits[0]
        torch.nn.functional.cross_entropy(logits.float(), labels[places + 1]).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    seconds = time.perf_counter() - started
    return {"tokens": sum(batch["input_ids"].numel() for batch in made), "seconds": seconds}


def batches(tokens: Path, seed: int) -> list[dict[str, Any]]:
    """Return batches of like length, each in one row, by the sampler and the collator of the stage."""
    import pyarrow.parquet as pq
    import torch
    from transformers.trainer_pt_utils import LengthGroupedSampler

    from pipeline_lib.training.packing import packed_collator
    from pipeline_lib.training.token_shards import load_tokenizer

    rows = pq.read_table(sorted(tokens.glob("train-*.parquet"))).to_pylist()
    lengths = [len(row["input_ids"]) for row in rows]
    order = list(LengthGroupedSampler(BATCH, lengths=lengths, generator=torch.manual_seed(seed)))
    collate = packed_collator(load_tokenizer(tokens / "tokenizer").pad_token_id, flat=True)
    made = [_labelled(row) for row in rows]
    return [
        collate([made[place] for place in order[start : start + BATCH]])
        for start in range(0, len(order), BATCH)
    ]


def _labelled(row: dict[str, Any]) -> dict[str, Any]:
    pairs = zip(row["input_ids"], row["learn"], strict=True)
    return {
        "input_ids": row["input_ids"],
        "labels": [token if learnt else IGNORED for token, learnt in pairs],
    }


TASKS = {task.__name__: task for task in (make, staged, bare)}

if __name__ == "__main__":
    print(json.dumps(TASKS[sys.argv[1]](*sys.argv[2:])))
