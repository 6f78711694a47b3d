"""What a reward model thinks of answers: one number each, the higher the better.

A reward model is a sequence classifier with one output (`conf/reward.yaml` trains one). It reads prompt and
answer as one conversation, rendered by its own chat template.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline_lib import chat, records
from pipeline_lib.core.errors import DataError
from pipeline_lib.evaluation.loading import load, positions_of
from pipeline_lib.evaluation.questions import prompt_messages, settle_template

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

BATCH_ROWS = 16


def rewards(spec: Mapping[str, Any], answers: Mapping[int, str]) -> dict[int, float]:
    """Return what the spec's reward model gives the answer to each row of its shards.

    DataError where the model is no reward model. A conversation longer than the model loses its beginning.
    """
    import torch

    model, tokenizer = _load(spec)
    texts = _texts(spec, tokenizer, answers)
    order = sorted(texts, key=lambda row: (len(texts[row]), row))
    found: dict[int, float] = {}
    for start in range(0, len(order), BATCH_ROWS):
        rows = order[start : start + BATCH_ROWS]
        batch = tokenizer(
            [texts[row] for row in rows],
            add_special_tokens=False,
            padding=True,
            truncation=True,
            return_tensors="pt",
        ).to(model.device)
        with torch.inference_mode():
            scores = model(**batch).logits[:, 0].float()
        found.update(zip(rows, scores.tolist(), strict=True))
    return found


def _load(spec: Mapping[str, Any]) -> tuple[Any, PreTrainedTokenizerBase]:
    from transformers import AutoModelForSequenceClassification

    path = str(Path(spec["config"]["reward_model"]).expanduser())
    sides = {"truncation_side": "left", "padding_side": "right"}
    model, tokenizer = load(AutoModelForSequenceClassification, path, spec, **sides)
    if model.config.num_labels != 1:
        raise DataError(
            f"evaluate.reward_model: {path} gives {model.config.num_labels} figures for an answer; "
            "a reward model gives one"
        )
    tokenizer.model_max_length = min(tokenizer.model_max_length, positions_of(model))
    model.config.get_text_config().pad_token_id = tokenizer.pad_token_id
    settle_template(tokenizer, None)
    return model, tokenizer


def _texts(
    spec: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase, answers: Mapping[int, str]
) -> dict[int, str]:
    """Return the rendered conversations that end with the answers, by row."""
    rows = records.rows([Path(shard) for shard in spec["shards"]])
    return {
        row: chat.render(tokenizer, [*prompt_messages(item), {"role": "assistant", "content": answers[row]}])
        for row, item in enumerate(rows)
        if row in answers
    }
