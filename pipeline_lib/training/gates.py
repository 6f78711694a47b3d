"""Gates: what stops a run before any GPU time, each with the remedy.

``check_model`` looks at the base model before anything is tokenized, ``check_tokens`` at what tokenizing made
of the train split, ``check_training`` at what this machine and these libraries cannot train.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline_lib.core.errors import ConfigError, DataError
from pipeline_lib.kinds import brings_code

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from pipeline_lib.core.output import Output
    from pipeline_lib.kinds import Tokens
    from pipeline_lib.training.tokenize import TokenizeConfig
    from pipeline_lib.training.train import TrainConfig

UNLEARNABLE = (
    "nothing_to_learn",
    "not_rendered",
    "equal_answers",
    "not_one_answer",
    "no_answer",
    "no_prompt",
)
"""Reasons for which a conversation of the right form teaches nothing."""
PROMPT_DIFFERS = ("prompt_differs", "two_prompts")
NAMED = 4
"""Names that an error lists; the rest are counted."""


@dataclass(frozen=True)
class Limits:
    """What a model's config allows; None where it does not say."""

    positions: int | None
    vocabulary: int | None


def limits(base: Path) -> Limits:
    """Return the longest sequence and the number of token ids that the model in ``base`` takes."""
    values = json.loads((base / "config.json").read_text(encoding="utf-8"))
    text = values.get("text_config") or values
    return Limits(text.get("max_position_embeddings") or text.get("n_positions"), text.get("vocab_size"))


def check_model(base: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise DataError where the tokenizer has tokens for which the model has no embedding."""
    rows = limits(base).vocabulary
    beyond = [token for token, i in sorted(tokenizer.get_vocab().items()) if rows and i >= rows]
    if beyond:
        raise DataError(
            f"base_model: the tokenizer has {len(tokenizer)} tokens, the model {rows} embeddings: none for "
            f"{listed(beyond)}; call model.resize_token_embeddings(len(tokenizer)) and save "
            "both, or take the tokenizer that belongs to the model"
        )


def listed(names: Sequence[str]) -> str:
    """Return the first of the names, and how many more there are."""
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


def check_positions(base: Path, longest: int, stage: str, remedy: str) -> None:
    """Raise ConfigError, for a stage and with its remedy, where ``longest`` tokens are over the model's."""
    positions = limits(base).positions
    if positions and longest > positions:
        raise ConfigError(
            f"{stage}: a sequence of {longest} tokens is over the base model's {positions} positions; "
            f"{remedy}"
        )


def check_tokens(out: Output, config: TokenizeConfig) -> None:
    """Raise DataError where too little is left to learn, or what is learnt would not serve."""
    train = out.stats["train"]
    _check_prompts(out, config, train)
    _check_learnable(out, config, train)
    endless = train["without_stop"] / train["kept"]
    if config.objective not in ("language_modelling", "prompts") and endless > config.max_without_stop:
        raise DataError(
            f"tokenize: in {train['without_stop']} of {train['kept']} conversations no end-of-turn token "
            f"is learnt, over tokenize.max_without_stop={config.max_without_stop}, so the model would not "
            "stop; use another template (tokenize.template) or a longer max_length"
        )


def _check_prompts(out: Output, config: TokenizeConfig, train: dict[str, Any]) -> None:
    differing = _among(train["reasons"], PROMPT_DIFFERS)
    share = sum(differing.values()) / max(train["read"], 1)
    if share > config.max_prompt_differs:
        raise DataError(
            f"tokenize: for {share:.0%} of the train split the chat template renders another prompt in "
            f"training than for generation, over tokenize.max_prompt_differs={config.max_prompt_differs} "
            f"({_told(out, differing)}); set tokenize.learn=last_turn where it rewrites former turns, or "
            "take another template (tokenize.template)"
        )


def _check_learnable(out: Output, config: TokenizeConfig, train: dict[str, Any]) -> None:
    if not train["kept"]:
        longer = "raise tokenize.max_length, " if "too_long" in train["reasons"] else ""
        raise DataError(
            f"tokenize: no conversation of the train split is left to learn "
            f"({_told(out, train['reasons'])}); {longer}take another train.objective or other data"
        )
    without = _among(train["reasons"], UNLEARNABLE)
    share = sum(without.values()) / train["read"]
    if share > config.max_unlearnable:
        raise DataError(
            f"tokenize: {share:.0%} of the train split has nothing to learn, over "
            f"tokenize.max_unlearnable={config.max_unlearnable} ({_told(out, without)}); mend or filter the "
            "data, or raise tokenize.max_unlearnable"
        )


def _among(reasons: dict[str, int], names: tuple[str, ...]) -> dict[str, int]:
    return {reason: count for reason, count in reasons.items() if reason in names}


def _told(out: Output, reasons: dict[str, int]) -> str:
    """Return the most frequent reason with its count and the detail of one conversation."""
    import pyarrow.parquet as pq

    if not reasons:
        return "the split is empty"
    reason = max(reasons, key=lambda name: reasons[name])
    dropped = pq.read_table(out.path / "dropped-train.parquet").to_pylist()
    detail = next(row["detail"] for row in dropped if row["reason"] == reason)
    return f"{reason} {reasons[reason]}, such as: {detail}"


def check_training(config: TrainConfig, tokens: Tokens, base: Path, device: str) -> None:
    """Raise ConfigError for what cannot be trained here as it is configured, before a child is started."""
    if config.activation_offloading and (device == "cpu" or brings_code(base)):
        where = (
            "a GPU" if device == "cpu" else "TRL's loops, and a model that brings its own code has its own"
        )
        raise ConfigError(
            f"train.activation_offloading is for {where}; take train.activation_checkpointing instead"
        )
    _check_sharing(config.parallel, device)
    if config.objective in ("grpo", "rloo"):
        longest = _longest_prompt(tokens) + config.rl.max_completion_length
        remedy = "lower train.rl.max_completion_length or tokenize.max_length"
        check_positions(base, longest, "train", remedy)


def _longest_prompt(tokens: Tokens) -> int:
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    prompts = pq.read_table(tokens.shards("train"), columns=["prompt_ids"])["prompt_ids"]
    return int(pc.max(pc.list_value_length(prompts)).as_py() or 0)


def _check_sharing(parallel: str, device: str) -> None:
    if parallel != "ddp" and device == "cpu":
        # accelerate would run them as plain data parallel, without a word.
        raise ConfigError(f"train.parallel {parallel} shares a model among GPUs; take ddp on a CPU")
    if parallel.startswith("zero") and importlib.util.find_spec("deepspeed") is None:
        raise ConfigError(
            f"train.parallel {parallel} needs DeepSpeed, which is not installed; pip install deepspeed, or "
            "take train.parallel=fsdp2"
        )
