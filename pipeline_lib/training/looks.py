"""Looks at the validation split: every figure is a mean over the split, however it is cut into batches.

TRL takes the mean of the batches' means, in which those of the last, smaller batch weigh as much as the
others. Here a loss is the mean over learnt tokens, pairs or labelled answers, and each figure that over what
it is of: the reward of chosen answers over those labelled true. What is made within a batch stays so: KTO's
divergence, and of DPO's losses aot (sorted) and sft (its mean over tokens). Under several processes the rows
count twice that accelerate repeats to give each process as many.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

from pipeline_lib.training.packing import IGNORED

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch

ALL = ""


def tokens_in(inputs: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """Return how many tokens of a batch are learnt."""
    return {ALL: (inputs["labels"][:, 1:] != IGNORED).sum()}


def pairs_in(inputs: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """Return how many pairs a batch has; TRL lays the chosen answers before the rejected ones."""
    import torch

    return {ALL: torch.tensor(len(inputs["input_ids"]) // 2)}


def answers_in(inputs: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """Return how many answers a batch has, and how many with either label."""
    import torch

    labels = torch.as_tensor(inputs["label"]).bool()
    return {ALL: torch.tensor(len(labels)), "chosen": labels.sum(), "rejected": (~labels).sum()}


class WeighsBatches:
    """A trainer of TRL that weighs a batch by what it holds; ``counted`` is one of the functions above."""

    accelerator: Any
    counted: Any
    _metrics: dict[str, dict[str, list[float]]]
    _looked: torch.Tensor
    """Summed loss and its weight since the look began."""
    _weights: dict[str, list[float]]
    """The weight of each figure's batches so far."""

    def prediction_step(self, model: Any, inputs: dict[str, Any], *given: Any, **named: Any) -> Any:
        """Return TRL's loss of the batch, which is a mean, and keep its sum."""
        import torch

        figures = self._metrics["eval"]
        before = {name: len(values) for name, values in figures.items()}
        counts = self.counted(inputs)
        found = super().prediction_step(model, inputs, *given, **named)  # type: ignore[misc]
        here = {name: count.to(found[0].device, torch.float64) for name, count in counts.items()}
        self._looked += torch.stack([found[0].double() * here[ALL], here[ALL]])
        # TRL's figures are of all processes together.
        everywhere = {name: float(self.accelerator.reduce(n, "sum")) for name, n in here.items()}
        for name, values in figures.items():
            if len(values) > before.get(name, 0):
                self._weights[name].append(everywhere.get(name.rpartition("/")[2], everywhere[ALL]))
        return found

    def evaluation_loop(self, *given: Any, metric_key_prefix: str = "eval", **named: Any) -> Any:
        """Return the figures of the split."""
        import torch

        self._looked = torch.zeros(2, dtype=torch.float64, device=self.accelerator.device)
        self._weights = defaultdict(list)
        found = super().evaluation_loop(  # type: ignore[misc]
            *given, metric_key_prefix=metric_key_prefix, **named
        )
        loss, weight = self.accelerator.reduce(self._looked, "sum").tolist()
        found.metrics[f"{metric_key_prefix}_loss"] = loss / max(weight, 1)
        self._average(self._metrics["eval"])
        return found

    def _average(self, figures: dict[str, list[float]]) -> None:
        """Put the mean over the split in place of each figure's batches."""
        for name, weights in self._weights.items():
            weighted = sum(weight * value for weight, value in zip(weights, figures[name], strict=True))
            figures[name] = [weighted / max(sum(weights), 1)]
        if {"rewards/chosen", "rewards/rejected"} <= set(figures):
            (chosen,), (rejected,) = figures["rewards/chosen"], figures["rewards/rejected"]
            figures["rewards/margins"] = [chosen - rejected]
