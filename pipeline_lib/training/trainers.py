"""Trainers: TRL's loops, each over tokens that are already what they should be.

TRL tokenizes preference data by itself; here that is done before (``preferences.py``), so the subclasses
below take their data as they are. What learns from whole answers stands in ``supervised.py``, what learns
from rewards in ``reinforcement.py``.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline_lib.core.errors import ConfigError, first_line
from pipeline_lib.kinds import brings_code
from pipeline_lib.training.loading import adapter_of, check_targets, load_base
from pipeline_lib.training.looks import WeighsBatches, answers_in, pairs_in
from pipeline_lib.training.order import InOrder, KnowsLengths, LooksAside
from pipeline_lib.training.reinforcement import reinforced
from pipeline_lib.training.supervised import own, sft

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import Trainer, TrainerCallback


def trainer_of(
    spec: dict[str, Any], parts: dict[str, Dataset], tokenizer: Any, callbacks: list[TrainerCallback]
) -> Trainer:
    """Return TRL's trainer for the objective, with the model loaded and the adapter on it."""
    from transformers import set_seed

    config, objective = spec["config"], spec["config"]["objective"]
    # Weights that begin at random (a score's layer, adapters) are drawn before a trainer seeds anything.
    set_seed(config["seed"])
    scores = objective == "reward"
    adapter = adapter_of(
        {**config, "tokenizer": str(Path(spec["tokens"]) / "tokenizer")},
        task="SEQ_CLS" if scores else "CAUSAL_LM",
    )
    check_targets(spec["base"], adapter, f"train.{_block(config)}", scores=scores)
    build = {
        "sft": own if brings_code(spec["base"]) else sft,
        "dpo": _dpo,
        "kto": _kto,
        "reward": _reward,
        "grpo": reinforced,
        "rloo": reinforced,
    }[objective]
    common: dict[str, Any] = {
        "model": _model(spec, tokenizer, scores=scores),
        "train_dataset": parts["train"],
        "eval_dataset": parts["validation"] if len(parts["validation"]) else None,
        "processing_class": tokenizer,
        "peft_config": adapter,
        "callbacks": [*callbacks, *_early_stopping(config)],
    }
    told = arguments(spec, has_validation=len(parts["validation"]) > 0)
    try:
        trainer: Trainer = build(spec, common, told)
    except ValueError as error:
        if adapter is None:
            raise
        raise ConfigError(
            f"train.{_block(config)}: this adapter does not go on this model ({first_line(error)}); take "
            "other target_modules, dropout 0 for those that are experts of a mixture, or another method"
        ) from error
    if config["method"] == "qlora":
        _keep_mantissa(trainer.model)
    _loraplus(config, trainer)
    return trainer


def _keep_mantissa(model: Any) -> None:
    """Put adapters over a 4-bit base back into fp32: TRL trains them in bf16, which loses small updates.

    It does so under every precision; with fp16 the gradients could not even be scaled.
    """
    for weight in model.parameters():
        if weight.requires_grad:
            weight.data = weight.data.float()


def _block(config: dict[str, Any]) -> str:
    return "lora" if config["method"] == "qlora" else str(config["method"])


def _model(spec: dict[str, Any], tokenizer: Any, *, scores: bool) -> Any:
    model = load_base(spec, scores=scores)
    if scores:
        # The score is read at the last token that is no padding. Of the new layer PEFT takes care by itself.
        model.config.pad_token_id = tokenizer.pad_token_id
    return model


def _early_stopping(config: dict[str, Any]) -> list[Any]:
    from transformers import EarlyStoppingCallback

    if config["early_stopping_patience"] is None:
        return []
    return [EarlyStoppingCallback(config["early_stopping_patience"], config["early_stopping_threshold"])]


def _loraplus(config: dict[str, Any], trainer: Any) -> None:
    """Give A and B their own learning rates, where the config wants it."""
    if config["method"] not in ("lora", "qlora") or not config["lora"]["loraplus_lr_ratio"]:
        return
    from peft.optimizers import create_loraplus_optimizer

    kind, options = trainer.get_optimizer_cls_and_kwargs(trainer.args, trainer.model)
    trainer.optimizer = create_loraplus_optimizer(
        trainer.model,
        kind,
        loraplus_lr_ratio=config["lora"]["loraplus_lr_ratio"],
        loraplus_weight_decay=config["weight_decay"],
        **options,
    )


def batch(config: dict[str, Any], processes: int, halvings: int = 0) -> tuple[int, int]:
    """Return sequences in a forward pass and passes before a step, for one of several processes.

    The step's batch is the config's, however many processes share it and however little memory there is.
    """
    whole = config["batch_size"] * config["gradient_accumulation_steps"]
    if whole % processes:
        raise ConfigError(
            f"train.batch_size x gradient_accumulation_steps is {whole}, which {processes} processes cannot "
            "share; make it a multiple"
        )
    share = whole // processes
    micro = math.gcd(share, max(1, math.gcd(share, config["batch_size"]) >> halvings))
    return micro, share // micro


def arguments(spec: dict[str, Any], *, has_validation: bool) -> dict[str, Any]:
    """Return what every trainer is told, under Transformers' names."""
    import os

    config = spec["config"]
    micro, accumulation = batch(config, int(os.environ.get("WORLD_SIZE", "1")), spec.get("halvings", 0))
    return {
        "output_dir": str(Path(spec["work"]) / "checkpoints"),
        "learning_rate": config["learning_rate"],
        "num_train_epochs": config["epochs"],
        "max_steps": config["max_steps"] or -1,
        "per_device_train_batch_size": micro,
        # As many as in training, so that a batch which fits there fits here.
        "per_device_eval_batch_size": micro,
        "gradient_accumulation_steps": accumulation,
        "train_sampling_strategy": "random" if config["batching"] == "packed" else config["batching"],
        "length_column_name": "length",
        "optim": config["optimizer"],
        "lr_scheduler_type": config["schedule"],
        "lr_scheduler_kwargs": config["schedule_options"],
        "warmup_steps": config["warmup_ratio"],
        "weight_decay": config["weight_decay"],
        "adam_beta1": config["adam_beta1"],
        "adam_beta2": config["adam_beta2"],
        "adam_epsilon": config["adam_epsilon"],
        "max_grad_norm": config["max_grad_norm"],
        "neftune_noise_alpha": config["neftune_noise_alpha"],
        "bf16": config["precision"] == "bf16",
        "fp16": config["precision"] == "fp16",
        "use_cpu": spec["device"] == "cpu",
        "activation_checkpointing": config["activation_checkpointing"],
        # A loss that is no number is an error of ours, not a point to be left out of the mean.
        "logging_nan_inf_filter": False,
        "restore_callback_states_from_checkpoint": True,
        "save_total_limit": 2,
        "seed": config["seed"],
        "report_to": "none",
        "disable_tqdm": True,
        "dataloader_pin_memory": spec["device"] != "cpu",
        **_rhythm(config, has_validation=has_validation),
    }


def _rhythm(config: dict[str, Any], *, has_validation: bool) -> dict[str, Any]:
    """Return when to look at the validation split and when to save."""
    steps = {"save_strategy": "steps", "save_steps": config["save_steps"]}
    if not has_validation:
        if config["load_best_model_at_end"]:
            raise ConfigError("train.load_best_model_at_end needs a validation split; raise split.validation")
        return {"eval_strategy": "no", **steps}
    every: dict[str, Any] = {"eval_strategy": "epoch"}
    if config["eval_steps"]:
        every = {"eval_strategy": "steps", "eval_steps": config["eval_steps"]}
    if not config["load_best_model_at_end"]:
        return {**every, **steps}
    # The best of the checkpoints can only be one that was looked at.
    saves = {key.replace("eval", "save"): value for key, value in every.items()}
    return {
        **every,
        **saves,
        "load_best_model_at_end": True,
        "metric_for_best_model": config["metric_for_best_model"],
        "greater_is_better": not config["metric_for_best_model"].endswith("loss"),
    }


def _dpo(spec: dict[str, Any], common: dict[str, Any], args: dict[str, Any]) -> Trainer:
    from trl.trainer.dpo_config import DPOConfig
    from trl.trainer.dpo_trainer import DPOTrainer

    class Pairs(WeighsBatches, InOrder, KnowsLengths, DPOTrainer):  # type: ignore[misc]
        counted = staticmethod(pairs_in)

        def _prepare_dataset(self, dataset: Dataset, *_: Any) -> Dataset:
            return dataset

    dpo = spec["config"]["dpo"]
    chosen = DPOConfig(
        **args,
        max_length=None,
        loss_type=list(dpo["loss"]),
        loss_weights=dpo["loss_weights"],
        beta=dpo["beta"],
        label_smoothing=dpo["label_smoothing"],
        ld_alpha=dpo["ld_alpha"],
        precompute_ref_log_probs=dpo["precompute_reference"],
        activation_offloading=spec["config"]["activation_offloading"],
    )
    return Pairs(args=chosen, **common)


def _kto(spec: dict[str, Any], common: dict[str, Any], args: dict[str, Any]) -> Trainer:
    from trl.trainer.kto_config import KTOConfig
    from trl.trainer.kto_trainer import KTOTrainer

    class Labelled(WeighsBatches, LooksAside, KTOTrainer):  # type: ignore[misc]
        counted = staticmethod(answers_in)

        def _prepare_dataset(self, dataset: Dataset, _: Any, given: Any, *__: Any) -> Dataset:
            return _mismatched(dataset, given.per_device_train_batch_size) if self.calculate_KL else dataset

    kto = spec["config"]["kto"]
    chosen = KTOConfig(
        # The divergence is estimated against the neighbour in the batch, so the order is fixed before.
        **{**args, "train_sampling_strategy": "sequential"},
        max_length=None,
        loss_type=kto["loss"],
        beta=kto["beta"],
        desirable_weight=kto["desirable_weight"],
        undesirable_weight=kto["undesirable_weight"],
        activation_offloading=spec["config"]["activation_offloading"],
    )
    if chosen.per_device_train_batch_size < 2 and kto["loss"] == "kto":
        raise ConfigError(
            "train.kto.loss kto compares the answers of a forward pass, and here it takes one; make "
            "train.batch_size at least 2 a process, or take train.kto.loss=apo_zero_unpaired"
        )
    shuffled = common["train_dataset"].shuffle(seed=spec["config"]["seed"])
    return Labelled(args=chosen, **{**common, "train_dataset": shuffled})


def _mismatched(dataset: Dataset, size: int) -> Dataset:
    """Return the data with every prompt's neighbour's answer beside its own, batch by batch."""
    answers = dataset["completion_ids"]
    starts = range(0, len(answers), size)
    turned = [ids for i in starts for ids in (answers[i : i + size][-1:] + answers[i : i + size][:-1])]
    return dataset.add_column("KL_completion_ids", turned)


def _reward(spec: dict[str, Any], common: dict[str, Any], args: dict[str, Any]) -> Trainer:
    from trl.trainer.reward_config import RewardConfig
    from trl.trainer.reward_trainer import RewardTrainer

    centre = spec["config"]["reward"]["center_rewards_coefficient"]
    offload = spec["config"]["activation_offloading"]

    class Scored(WeighsBatches, InOrder, KnowsLengths, RewardTrainer):  # type: ignore[misc]
        counted = staticmethod(pairs_in)

    chosen = RewardConfig(
        **args, max_length=None, center_rewards_coefficient=centre, activation_offloading=offload
    )
    whole = {part: common[part] and common[part].map(_whole) for part in ("train_dataset", "eval_dataset")}
    return Scored(args=chosen, **{**common, **whole})


def _whole(row: dict[str, Any]) -> dict[str, Any]:
    """Return a pair as the reward trainer reads it: each answer with the prompt before it."""
    return {side: row["prompt_ids"] + row[side] for side in ("chosen_ids", "rejected_ids")}
