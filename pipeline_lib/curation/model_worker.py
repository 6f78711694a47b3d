"""The child that runs a model over blocks of conversations: losses of the answers, or embeddings.

There is one process per device; each takes every n-th block. Results go to the kept blocks, from which the
parent (``on_device``) reads them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from pipeline_lib import chat, records
from pipeline_lib.core.errors import DataError
from pipeline_lib.curation.blocks import cut, digest
from pipeline_lib.curation.deduplicate import compared
from pipeline_lib.curation.kept_blocks import KeptBlocks
from pipeline_lib.curation.on_device import Columns
from pipeline_lib.kinds import brings_code
from pipeline_lib.launch import child_main
from pipeline_lib.likelihood import negative_log_likelihoods, score_batches

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

FALLBACK_TEMPLATE = "markers"


@dataclass(frozen=True)
class Loaded:
    """A model on its device, its tokenizer, and what it is to be used for."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    config: Mapping[str, Any]

    @property
    def longest(self) -> int:
        """The most tokens that it takes."""
        asked: int = self.config["max_tokens"]
        positions = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        return min(asked, positions or asked)


def work(spec: dict[str, Any], tell: Callable[..., None]) -> None:
    """Measure this process's share of the blocks that are not known yet."""
    from transformers import AutoModel, AutoModelForCausalLM

    measure, auto = {
        "likelihoods": (likelihoods, AutoModelForCausalLM),
        "embeddings": (embeddings, AutoModel),
    }[spec["measure"]]
    loaded = _load(spec, auto)
    kept = KeptBlocks(Path(spec["blocks"]))
    rank, processes = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    done = 0
    for place, block in enumerate(cut(records.batches([Path(shard) for shard in spec["shards"]]))):
        key = digest(block)
        if place % processes == rank and kept.read_arrays(key) is None:
            kept.write_arrays(key, measure(loaded, block))
        done += block.num_rows
        tell(done=done, total=spec["total"])


def _load(spec: dict[str, Any], auto: Any) -> Loaded:
    import torch
    from transformers import AutoTokenizer

    config, directory = spec["config"], spec["model"]
    trusted = brings_code(directory)
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[config["precision"]]
    model = auto.from_pretrained(directory, dtype=dtype, trust_remote_code=trusted)
    device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if spec["device"] == "cuda" else "cpu"
    tokenizer = AutoTokenizer.from_pretrained(directory, trust_remote_code=trusted)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return Loaded(model.to(device).eval(), tokenizer, config)


@dataclass(frozen=True)
class Text:
    """One text in tokens, with those marked whose loss is wanted."""

    row: int
    ids: list[int]
    mask: list[bool]


def likelihoods(loaded: Loaded, block: pa.RecordBatch) -> Columns:
    """Return ``nll`` and ``tokens`` (n by 2): of the answers given what came before, and given nothing."""
    tokenizer = loaded.tokenizer
    if not tokenizer.chat_template or loaded.config["template"]:
        chat.set_template(tokenizer, loaded.config["template"] or FALLBACK_TEMPLATE)
    rows = block.to_pylist()
    whole = list(_texts(loaded, [(row, _pieces(tokenizer, item)) for row, item in enumerate(rows)]))
    scored = {text.row for text in whole}
    alone = [(row, cut) for row in sorted(scored) for cut in _alone(tokenizer, rows[row])]
    nll, tokens = np.zeros((len(rows), 2)), np.zeros((len(rows), 2), np.int64)
    for side, texts in enumerate((whole, list(_texts(loaded, alone)))):
        for batch in negative_log_likelihoods(loaded.model, texts, int(tokenizer.pad_token_id or 0)):
            for one in batch:
                nll[one.row, side] += one.nll
                tokens[one.row, side] += one.tokens
    return {"nll": nll, "tokens": tokens}


def _texts(loaded: Loaded, cuts: Sequence[tuple[int, Sequence[chat.Piece]]]) -> Iterator[Text]:
    """Yield as tokens what has something to score and is not too long for the model."""
    encoded = chat.encode(loaded.tokenizer, [cut for _, cut in cuts])
    for (row, _), one in zip(cuts, encoded, strict=True):
        if any(one.mask[1:]) and len(one.ids) <= loaded.longest:
            yield Text(row, one.ids, one.mask)


def _pieces(tokenizer: PreTrainedTokenizerBase, row: Mapping[str, Any]) -> list[chat.Piece]:
    """Return a conversation cut at its answers, the preferred one included; nothing where it has none."""
    messages = [*(row["messages"] or ()), *(row["chosen"] or ())]
    if [message["role"] for message in messages] == ["text"]:
        return [chat.Piece(messages[0]["content"] or "", learn=True)]
    tools = json.loads(row["tools"]) if row["tools"] else None
    return _rendered(tokenizer, messages, tools)


def _rendered(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Mapping[str, Any]], tools: Any = None
) -> list[chat.Piece]:
    """Return the pieces, or nothing where the template refuses the conversation: it gets no score then."""
    if all(message["role"] != "assistant" for message in messages):
        return []
    try:
        return chat.pieces(tokenizer, messages, tools=tools)
    except DataError:
        return []


def _alone(tokenizer: PreTrainedTokenizerBase, row: Mapping[str, Any]) -> Iterator[list[chat.Piece]]:
    """Yield each answer after an empty prompt, in the layout of the template."""
    for message in (*(row["messages"] or ()), *(row["chosen"] or ())):
        if message["role"] == "assistant":
            yield _rendered(tokenizer, [records.message("user", ""), message])


def embeddings(loaded: Loaded, block: pa.RecordBatch) -> Columns:
    """Return ``embeddings`` (n by d, fp16, of length 1): the mean of the last hidden states of each text.

    What has no text has zeros.
    """
    import torch

    texts = compared(block, loaded.config["compare"]).to_pylist()
    encoded = loaded.tokenizer(texts, truncation=True, max_length=loaded.longest)["input_ids"]
    found = np.zeros((len(texts), loaded.model.config.get_text_config().hidden_size), np.float16)
    for places in score_batches([len(ids) for ids in encoded], loaded.model.device.type):
        wanted = [place for place in places if texts[place]]
        if not wanted:
            continue
        padded = loaded.tokenizer.pad(
            {"input_ids": [encoded[place] for place in wanted]}, padding_side="right", return_tensors="pt"
        ).to(loaded.model.device)
        with torch.inference_mode():
            states = loaded.model(**padded).last_hidden_state.float()
        weights = padded["attention_mask"].unsqueeze(-1)
        means = (states * weights).sum(1) / weights.sum(1)
        found[wanted] = torch.nn.functional.normalize(means, dim=1).half().cpu().numpy()
    return {"embeddings": found}


if __name__ == "__main__":
    child_main(work)
