"""Elastic weight consolidation: full training that holds on to the weights that general data depend on.

Kirkpatrick et al. 2017 (arXiv 1612.00796): a penalty lambda/2 * F * (w - w0)^2 with F the diagonal of the
Fisher information, taken from squared gradients on the data (empirical Fisher). Its gradient is added
after clipping, as decoupled weight decay is, so the loss curve stays that of the data.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


class Consolidation(TrainerCallback):
    """Adds the pull towards the base's weights to the gradients of every optimizer step."""

    def __init__(self, strength: float, rows: list[dict[str, Any]]) -> None:
        """Hold on to what ``rows`` (input ids and labels) depend on; measured when training begins."""
        self.strength, self.rows = strength, rows
        self._held: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}

    def measure(self, model: PreTrainedModel) -> None:
        """Take the model's weights as they are for those to hold, and how much ``rows`` depend on each."""
        import torch

        importance = {name: torch.zeros_like(p) for name, p in model.named_parameters() if p.requires_grad}
        was_training = model.training
        model.train(mode=False)
        for row in self.rows:
            model.zero_grad(set_to_none=True)
            ids, labels = (torch.tensor([row[key]], device=model.device) for key in ("input_ids", "labels"))
            model(input_ids=ids, labels=labels, use_cache=False).loss.backward()
            for name, parameter in model.named_parameters():
                if parameter.grad is not None:
                    importance[name] += parameter.grad.detach() ** 2 / len(self.rows)
        model.zero_grad(set_to_none=True)
        model.train(was_training)
        self._held = {
            name: (importance[name], parameter.detach().clone())
            for name, parameter in model.named_parameters()
            if name in importance
        }

    def on_pre_optimizer_step(
        self, args: Any, state: Any, control: Any, model: torch.nn.Module | None = None, **_: Any
    ) -> None:
        """Add strength * F * (w - w0) to the gradient of every weight."""
        assert model is not None
        for name, parameter in getattr(model, "module", model).named_parameters():
            if parameter.grad is not None and name in self._held:
                importance, before = self._held[name]
                parameter.grad.add_(importance * (parameter.detach() - before), alpha=self.strength)
