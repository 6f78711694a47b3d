"""A pipeline that a test on real servers can afford: short answers, a model of a few thousand weights."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

WORDS = "north south east west spring summer autumn winter stone river cloud field".split()
NAMES = sorted(name for name in sys.stdlib_module_names if not name.startswith("_"))
"""So many that a vocabulary can be learnt from them."""
SMALL: dict[str, Any] = {
    "name": "words",
    "initialize": {"hidden_size": 32, "intermediate_size": 64, "layers": 1, "heads": 2, "vocab_size": 512},
    "filter": {"web_rules": "none"},
    "split": {"minimum": 1},
    "tokenize": {"max_length": 64},
    "train": {
        "method": "full",
        "precision": "fp32",
        "learning_rate": 3e-3,
        "logging_steps": 1,
    },
    "profile": None,
    "evaluate": {"precision": "fp32", "max_new_tokens": 8, "max_conversations": 4},
    "audit": None,
    # So small a model is better or worse than another by chance: its gate is open.
    "gate": {"max_p_value": None, "champion_p_value": None, "min_stopped": None, "max_perplexity": 1e6},
}


def write_data(path: Path, words: list[str] = WORDS) -> None:
    """Write a few hundred questions with their answers."""
    rows = (
        {
            "instruction": f"What does {name} follow in the {words[i % len(words)]}?",
            "output": f"In the {words[i % len(words)]} {name} follows {NAMES[i * 7 % len(NAMES)]}, "
            f"beside {words[i * 5 % len(words)]}.",
        }
        for i, name in enumerate(NAMES)
    )
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_config(home: Path, **blocks: Any) -> Path:
    """Write the data and a config of it with ``blocks`` in place of the small pipeline's; return its path."""
    write_data(home / "data.jsonl")
    path = home / "words.yaml"
    source = {"sources": [{"path": str(home / "data.jsonl")}]}
    path.write_text(json.dumps({**SMALL, "ingest": source, **blocks}, indent=1))
    return path
