"""Reinforcement trainers: TRL's GRPO and RLOO, on the model's own answers and what rewards say of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipeline_lib.chat import stop_ids
from pipeline_lib.core.errors import ConfigError
from pipeline_lib.kinds import brings_code
from pipeline_lib.training.order import PromptsInOrder
from pipeline_lib.training.rewards import scorer

if TYPE_CHECKING:
    from transformers import Trainer

SPLITS = ("train_dataset", "eval_dataset")


def reinforced(spec: dict[str, Any], common: dict[str, Any], args: dict[str, Any]) -> Trainer:
    """Return TRL's GRPO or RLOO over prompts that are tokens already, with the rewards of the config."""
    from trl.trainer.grpo_config import GRPOConfig
    from trl.trainer.grpo_trainer import GRPOTrainer
    from trl.trainer.rloo_config import RLOOConfig
    from trl.trainer.rloo_trainer import RLOOTrainer

    kinds: dict[str, tuple[Any, Any]] = {
        "grpo": (GRPOTrainer, GRPOConfig),
        "rloo": (RLOOTrainer, RLOOConfig),
    }
    trainer, settings = kinds[spec["config"]["objective"]]
    prompts = {row["prompt"]: row["prompt_ids"] for part in SPLITS for row in common[part] or ()}

    class Prompted(PromptsInOrder, trainer):  # type: ignore[misc, valid-type]
        def _tokenize_prompts(self, texts: list[str]) -> tuple[list[list[int]], None, dict[str, Any]]:
            return [prompts[text] for text in texts], None, {}

    config, rl = spec["config"], spec["config"]["rl"]
    whole = config["batch_size"] * config["gradient_accumulation_steps"]
    if whole % rl["num_generations"]:
        raise ConfigError(
            f"train.batch_size x gradient_accumulation_steps is {whole}, which is no multiple of "
            f"train.rl.num_generations={rl['num_generations']}"
        )
    loss = {"loss_type": rl["grpo_loss"]} if config["objective"] == "grpo" else {}
    # Prompts come in an order of TRL's own.
    own = {
        key: value
        for key, value in args.items()
        if key not in ("train_sampling_strategy", "length_column_name")
    }
    chosen = settings(
        **{**own, "per_device_eval_batch_size": rl["num_generations"]},
        num_generations=rl["num_generations"],
        max_completion_length=rl["max_completion_length"],
        temperature=rl["temperature"],
        top_p=rl["top_p"],
        beta=rl["beta"],
        num_iterations=rl["num_iterations"],
        reward_weights=[reward["weight"] for reward in rl["rewards"]],
        **loss,
    )
    scorers = [_scorer(reward, common["processing_class"]) for reward in rl["rewards"]]
    data = {part: common[part] and common[part].remove_columns(["prompt_ids", "length"]) for part in SPLITS}
    return Prompted(
        args=chosen,
        reward_funcs=[reward for reward, _ in scorers],
        reward_processing_classes=[reader for _, reader in scorers],
        **{**common, **data},
    )


def _scorer(reward: dict[str, Any], tokenizer: Any) -> tuple[Any, Any]:
    """Return a reward as TRL takes it: a function, or a reward model with its tokenizer."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    if reward["function"]:
        return scorer(reward, stop_ids(tokenizer)), None
    trusted = brings_code(reward["model"])
    model = AutoModelForSequenceClassification.from_pretrained(
        reward["model"], num_labels=1, trust_remote_code=trusted, use_safetensors=True
    )
    reader = AutoTokenizer.from_pretrained(reward["model"], trust_remote_code=trusted)
    if reader.pad_token is None:
        reader.pad_token = reader.eos_token
    model.config.pad_token_id = reader.pad_token_id
    return model.eval(), reader
