"""Supervised trainers: TRL's for answers and documents, and the plain loop for a model with its own loss."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipeline_lib.core.errors import ConfigError
from pipeline_lib.flat_rows import BY_SEQUENCE
from pipeline_lib.training.attention import chosen, takes_flat_rows
from pipeline_lib.training.looks import WeighsBatches, tokens_in
from pipeline_lib.training.order import InOrder, KnowsLengths
from pipeline_lib.training.packing import IGNORED, packed_collator

if TYPE_CHECKING:
    import torch
    from transformers import Trainer

MOST_LOGITS = 2**28
"""Logits in memory at once (1 GiB in fp32); TRL's loss takes more of them in pieces, at twice the work."""


class OfLearntTokens:
    """TRL's supervised trainer with a loss that takes logits of learnt tokens alone, from one flat row.

    TRL's own does so on GPUs; elsewhere it scores every position, twice, in pieces.
    """

    model: Any
    args: Any
    accelerator: Any
    aux_loss_enabled: bool
    _metrics: dict[str, dict[str, list[float]]]

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """Return the summed loss of the row over the number of tokens told of, or of its own."""
        import torch

        labels = inputs["labels"][0]
        places = (labels[1:] != IGNORED).nonzero()[:, 0]
        vocabulary = self.model.config.get_text_config().vocab_size
        if return_outputs or self.aux_loss_enabled or len(places) * vocabulary > MOST_LOGITS:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)  # type: ignore[misc]
        row = {name: value for name, value in inputs.items() if name != "labels"}
        logits = model(**row, use_cache=False, logits_to_keep=places).logits[0].float()
        targets = labels[places + 1]
        count = len(places) if num_items_in_batch is None else num_items_in_batch
        loss = torch.nn.functional.cross_entropy(logits, targets, reduction="sum")
        loss = loss / torch.as_tensor(count).clamp(min=1)
        if self.args.average_tokens_across_devices and num_items_in_batch is not None:
            # All processes' tokens are counted, and their gradients averaged.
            loss = loss * self.accelerator.num_processes
        self._count(logits.detach().argmax(-1) == targets)
        return loss

    def _count(self, right: torch.Tensor) -> None:
        """Keep the share of tokens that were the likeliest, as TRL does."""
        import torch

        found = torch.stack([right.sum(), torch.as_tensor(len(right))])
        hits, all_of_them = self.accelerator.gather_for_metrics(found[None]).sum(0).tolist()
        mode = "train" if self.model.training else "eval"
        self._metrics[mode]["mean_token_accuracy"].append(hits / max(all_of_them, 1))


def sft(spec: dict[str, Any], common: dict[str, Any], args: dict[str, Any]) -> Trainer:
    """Return TRL's trainer over tokens that are ready, laid in a row where the attention kernel takes one."""
    from trl.trainer.sft_config import SFTConfig
    from trl.trainer.sft_trainer import SFTTrainer

    as_they_are = {"skip_prepare_dataset": True}
    ready: dict[str, Any] = {"dataset_kwargs": as_they_are, "max_length": None, "packing": False}
    offload: dict[str, Any] = {"activation_offloading": spec["config"]["activation_offloading"]}
    kernel = chosen(spec)
    if spec["config"]["batching"] == "packed" or kernel == BY_SEQUENCE:
        pad = common["processing_class"].pad_token_id
        common = {**common, "data_collator": packed_collator(pad, flat=takes_flat_rows(kernel))}

    class Padded(WeighsBatches, InOrder, KnowsLengths, SFTTrainer):  # type: ignore[misc]
        counted = staticmethod(tokens_in)

    class InARow(OfLearntTokens, Padded):  # type: ignore[misc]
        pass

    kind = InARow if kernel == BY_SEQUENCE else Padded
    trainer: Trainer = kind(args=SFTConfig(**args, **ready, **offload), **common)
    return trainer


def own(spec: dict[str, Any], common: dict[str, Any], args: dict[str, Any]) -> Trainer:
    """Return the plain loop for a model that brings its own code, whose loss TRL would replace."""
    from peft import get_peft_model
    from transformers import DataCollatorForSeq2Seq, Trainer, TrainingArguments

    if spec["config"]["batching"] == "packed":
        raise ConfigError(
            "train.batching packed is not for a model that brings its own code: nothing says that it keeps "
            "sequences apart; take group_by_length"
        )
    model, adapter = common["model"], common.pop("peft_config")
    if adapter is not None:
        if spec["config"]["activation_checkpointing"]:
            model.enable_input_require_grads()
        model = get_peft_model(model, adapter)

    class ByItsOwnLoss(InOrder, Trainer):
        """Finds out whether the loss is divided by the tokens of the whole step, or of the pass alone."""

        asked = False

        def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            if self.model_accepts_loss_kwargs and model.training and not self.asked:
                self.asked = True
                self.model_accepts_loss_kwargs = _heeds_the_count(model, inputs)
            return super().compute_loss(model, inputs, *args, **kwargs)

    pad = DataCollatorForSeq2Seq(common["processing_class"])
    return ByItsOwnLoss(args=TrainingArguments(**args), data_collator=pad, **{**common, "model": model})


def _heeds_the_count(model: Any, inputs: dict[str, Any]) -> bool:
    """Return whether the model's loss depends on the number of tokens that it is told of.

    Where it does not, Transformers must divide by the passes of a step; a ``**kwargs`` tells it nothing.
    """
    import torch

    losses = []
    device = inputs["input_ids"].device
    for told in ({}, {"num_items_in_batch": torch.tensor(1, device=device)}):
        # The same draws for both: such a loss may hide tokens at random.
        with torch.random.fork_rng([device] if device.type == "cuda" else []), torch.no_grad():
            torch.manual_seed(0)
            losses.append(float(model(**inputs, **told).loss))
    return losses[0] != losses[1]
