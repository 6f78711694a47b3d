"""A model that runs out of memory: more than ``room`` sequences at once are too many after so many ``calls``.

Copied beside the weights as ``modeling_short.py`` and loaded from there, so that the error comes from where a
device's own comes from: the forward pass.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM


class ShortConfig(LlamaConfig):
    model_type = "short_of_memory"

    room: int = 2
    calls: int = 0


class ShortForCausalLM(LlamaForCausalLM):
    config_class = ShortConfig
    called = 0

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        self.called += self.training
        if self.called > self.config.calls and len(input_ids) > self.config.room:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return super().forward(input_ids=input_ids, attention_mask=attention_mask, labels=labels, **kwargs)
