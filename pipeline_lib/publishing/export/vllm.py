"""vLLM's command lines for an export: the merged model by itself, and the base with the adapter on it."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

COMMANDS = "vllm.txt"
RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""What vLLM takes for ``--max-lora-rank`` (docs.vllm.ai, vllm.config.lora, MaxLoRARanks)."""


def write_commands(scratch: Path, final: Path, base: Path | None) -> None:
    """Write ``vllm.txt`` into ``scratch`` for an export that will stand at ``final``, a command a line."""
    config = json.loads((scratch / "config.json").read_text(encoding="utf-8"))
    name = final.name
    shared = ["--max-model-len", str(config["max_position_embeddings"])]
    parts = [
        "# The merged model.",
        _line(["vllm", "serve", str(final), "--served-model-name", name, *shared]),
    ]
    if base is not None:
        adapter = json.loads((scratch / "adapter" / "adapter_config.json").read_text(encoding="utf-8"))
        obstacle = _obstacle(adapter)
        if obstacle:
            parts.append(
                f"# The adapter is here in PEFT's format, but vLLM serves no adapter with {obstacle}."
            )
        else:
            modules = ["--lora-modules", f"{name}={final / 'adapter'}"]
            rank = ["--enable-lora", "--max-lora-rank", str(_rank(adapter))]
            # The adapter's tokenizer: its chat template is the one of its training, the base's need not be.
            tokenizer = ["--tokenizer", str(final / "adapter")]
            parts.append("# The base model with the adapter; further adapters follow as NAME=PATH.")
            parts.append(_line(["vllm", "serve", str(base), *tokenizer, *rank, *modules, *shared]))
    (scratch / COMMANDS).write_text("\n".join(parts) + "\n", encoding="utf-8")


def _line(words: list[str]) -> str:
    return shlex.join(words)


def _rank(adapter: dict[str, Any]) -> int:
    highest = max([adapter["r"], *(adapter.get("rank_pattern") or {}).values()])
    return next((rank for rank in RANKS if rank >= highest), highest)


def _obstacle(adapter: dict[str, Any]) -> str | None:
    """Return what keeps vLLM from serving an adapter (its PEFTHelper refuses these), or None."""
    if adapter.get("peft_type") != "LORA":
        return f"peft_type {adapter.get('peft_type')}"
    if adapter.get("use_dora"):
        return "use_dora"
    if adapter.get("modules_to_save"):
        return f"modules_to_save {', '.join(adapter['modules_to_save'])}"
    return None if adapter["r"] <= RANKS[-1] else f"rank {adapter['r']}"
