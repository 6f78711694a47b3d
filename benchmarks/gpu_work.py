"""The children of ``benchmarks.gpu``: model and tokens, matrix rate, 4-bit product, packing parity, back-off.

``python -m benchmarks.gpu_work TASK ARGUMENT…`` prints what it found as JSON.
"""

from __future__ import annotations

import importlib.util
import json
import random
import sys
from pathlib import Path
from typing import Any

from benchmarks.evaluation_loops import MODEL as BUNDLED
from benchmarks.harness import measured
from pipeline_lib.training.attention import PACKAGES

PARITY_LENGTHS = (23, 5, 40, 17, 1, 31)
REPEATS = 5


def make(scratch: str, shape: str, sequence: str, rows: str) -> dict[str, Any]:
    """Write a model of random weights and tokens that fill so many rows into ``scratch``."""
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig

    from pipeline_lib.training.token_shards import TokenWriter, load_tokenizer

    tokenizer = load_tokenizer(BUNDLED)
    config = LlamaConfig(**json.loads(shape), pad_token_id=tokenizer.pad_token_id)
    torch.manual_seed(0)
    with torch.device(_device()):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(Path(scratch) / "model")
    tokenizer.save_pretrained(Path(scratch) / "model")
    directory = Path(scratch) / "tokens"
    directory.mkdir()
    tokenizer.save_pretrained(directory / "tokenizer")
    for part, count in (("train", int(rows)), ("validation", 0)):
        with TokenWriter(directory, part) as writer:
            for i, ids in enumerate(_sequences(count * int(sequence), int(sequence), config.vocab_size)):
                learn = [place >= len(ids) // 2 for place in range(len(ids))]
                writer.keep(str(i), ids, learn, stops=True, truncated=False)
    return {"parameters": model.num_parameters()}


def _sequences(tokens: int, longest: int, vocabulary: int) -> list[list[int]]:
    """Return random ids that come to at least so many tokens, with the many lengths that chats have."""
    draw, made, left = random.Random(0), [], tokens
    while left > 0:
        # Half of the sequences are shorter than an eighth of the longest.
        length = max(4, min(longest // 2, int(longest / 8 * draw.lognormvariate(0, 1))))
        made.append([draw.randrange(3, vocabulary) for _ in range(length)])
        left -= length
    return made


def matrix_rate(precision: str) -> float:
    """Return the FLOP/s of large matrix products, as the train stage measures it."""
    from pipeline_lib.training import utilisation

    return utilisation.matrix_rate(_device(), precision)


def four_bits(precision: str, tokens: str, inputs: str, outputs: str) -> dict[str, float]:
    """Return the FLOP/s of a product with a matrix in NF4, and with the same matrix as it was."""
    import bitsandbytes as bnb
    import torch

    dtype = {"bf16": torch.bfloat16, "fp32": torch.float32}[precision]
    sizes = int(tokens), int(inputs), int(outputs)
    with torch.device(_device()), torch.no_grad():
        given = torch.randn(sizes[0], sizes[1]).to(dtype)
        plain = torch.nn.Linear(sizes[1], sizes[2], bias=False, dtype=dtype)
        packed = bnb.nn.LinearNF4(sizes[1], sizes[2], bias=False, compute_dtype=dtype)
        packed.weight = bnb.nn.Params4bit(plain.weight.data.cpu(), requires_grad=False, quant_type="nf4")
        packed = packed.to(_device())
        return {
            name: 2 * sizes[0] * sizes[1] * sizes[2] / _seconds(lambda layer=layer: layer(given))
            for name, layer in (("nf4", packed), ("plain", plain))
        }


def _seconds(work: Any) -> float:
    import torch

    def waited() -> None:
        work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()

    waited()
    return float(measured(waited, REPEATS)["seconds"])


def parity(scratch: str) -> list[dict[str, Any]]:
    """Return how far packed logits are from each sequence's own, by the kernels that are there."""
    import torch

    kernels = [("auto", "fp32")]
    if torch.cuda.is_available():
        kernels += [("auto", "bf16"), ("flex_attention", "fp32"), ("flex_attention", "bf16")]
        kernels += [(name, "bf16") for name, package in PACKAGES.items() if importlib.util.find_spec(package)]
    found = []
    for attention, precision in kernels:
        entry = {"attention": attention, "precision": precision, "difference": None, "skipped": None}
        try:
            entry |= _apart(Path(scratch), attention, precision)
        except (RuntimeError, ValueError, ImportError) as error:
            entry["skipped"] = str(error).splitlines()[0][:200]
        found.append(entry)
    return found


def _apart(scratch: Path, attention: str, precision: str) -> dict[str, Any]:
    """Return the largest difference of packed and single logits, as a share of the largest logit."""
    import torch

    from pipeline_lib.training.attention import chosen, takes_flat_rows
    from pipeline_lib.training.loading import load_base
    from pipeline_lib.training.packing import packed_collator
    from pipeline_lib.training.train import TrainConfig

    config = TrainConfig.model_validate(
        {"precision": precision, "batching": "packed", "attn_implementation": attention}
    )
    spec = {
        "config": config.model_dump(mode="json"),
        "base": str(scratch / "model"),
        "device": _device(),
    }
    model = load_base(spec).to(torch.device(_device())).eval()  # type: ignore[arg-type]
    sequences = [[3 + (7 * i + j) % 900 for j in range(n)] for i, n in enumerate(PARITY_LENGTHS)]
    laid = [token for ids in sequences for token in ids]
    row = {"input_ids": laid, "labels": laid, "seq_lengths": list(PARITY_LENGTHS)}
    collate = packed_collator(0, flat=takes_flat_rows(chosen(spec)))
    batch = {
        name: value.to(_device()) if isinstance(value, torch.Tensor) else value
        for name, value in collate([row]).items()
        if name != "labels"
    }
    with torch.no_grad():
        together = model(**batch, use_cache=False).logits[0].float()
        alone = [
            model(input_ids=torch.tensor([ids], device=_device()), use_cache=False).logits[0].float()
            for ids in sequences
        ]
    expected = torch.cat(alone)
    difference = float((together - expected).abs().max() / expected.abs().max())
    return {"difference": difference, "attention": model.config._attn_implementation}


def back_off(scratch: str, free_gib: str, steps: str) -> dict[str, Any]:
    """Return how often a training halved its rows, and its steps, with so much of the memory left."""
    import torch

    from benchmarks.gpu import staged

    rows = 64
    free, _ = torch.cuda.mem_get_info()
    taken = torch.empty(max(free - int(float(free_gib) * 2**30), 0), dtype=torch.uint8, device="cuda")
    out = staged(
        Path(scratch),
        "back-off",
        {
            "batching": "packed",
            "batch_size": rows,
            "max_steps": int(steps),
            "epochs": 1000,
            "activation_checkpointing": True,
        },
    )
    del taken
    spec = json.loads((out.work / "spec.json").read_text(encoding="utf-8"))
    return {"halvings": spec["halvings"], "steps": out.stats["steps"]}


def _device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


TASKS = {task.__name__: task for task in (make, matrix_rate, four_bits, parity, back_off)}

if __name__ == "__main__":
    print(json.dumps(TASKS[sys.argv[1]](*sys.argv[2:])))
