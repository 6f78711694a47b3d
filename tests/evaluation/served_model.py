"""Models behind an OpenAI-compatible endpoint on this machine, answering greedily, one at a time."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests import loopback


@dataclass
class Served:
    """The endpoint's address, what it was asked for and with which keys."""

    url: str = ""
    asked: list[dict[str, Any]] = field(default_factory=list)
    keys: set[str | None] = field(default_factory=set)


@contextmanager
def serving(models: Mapping[str, Path | str]) -> Iterator[Served]:
    """Serve each model directory under its name; in place of one, a text is what it says to everything."""
    import torch

    state, lock = Served(), threading.Lock()
    loaded = {name: one if isinstance(one, str) else _loaded(one) for name, one in models.items()}

    class Handler(loopback.JsonHandler):
        def do_POST(self) -> None:  # noqa: N802 - the name that http.server calls
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                state.asked.append(body)
                state.keys.add(self.headers["Authorization"])
            if self.path != "/v1/completions" or body["model"] not in loaded:
                self.send(404, {"message": f"The model `{body['model']}` does not exist."})
                return
            with lock, torch.inference_mode():
                self.send(200, _completion(loaded[body["model"]], body))

    with loopback.serving(Handler) as address:
        state.url = f"{address}/v1"
        yield state


def _loaded(directory: Path) -> tuple[Any, Any]:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    return model, AutoTokenizer.from_pretrained(directory)


def _completion(served: Any, body: Mapping[str, Any]) -> dict[str, Any]:
    """The plainest greedy loop: all logits of all tokens, without a cache."""
    import torch

    if isinstance(served, str):
        return {"choices": [{"index": 0, "text": served, "finish_reason": "stop"}]}
    model, tokenizer = served
    ids, finish = list(body["prompt"]), "length"
    for _ in range(body["max_tokens"]):
        token = int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax())
        if token in body["stop_token_ids"]:
            finish = "stop"
            break
        ids.append(token)
    said = ids[len(body["prompt"]) :]
    text = tokenizer.decode(said, skip_special_tokens=True)
    return {
        "choices": [{"index": 0, "text": text, "finish_reason": finish}],
        "usage": {"completion_tokens": len(said) + (finish == "stop")},
    }
