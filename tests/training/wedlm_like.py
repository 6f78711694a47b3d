"""A block-diffusion language model in small: a model that brings its own code, and its own loss.

Training hides a share of the labelled tokens behind the mask token, window by window, and the loss is that of
the hidden ones. Copied beside the weights as ``modeling_wedlm.py`` and loaded from there.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.modeling_outputs import CausalLMOutputWithPast

IGNORED = -100


class WeDLMConfig(LlamaConfig):
    model_type = "wedlm"

    mask_token_id: int = 0
    wedlm_window_size: int = 16


class WeDLMForCausalLM(LlamaForCausalLM):
    config_class = WeDLMConfig

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        if labels is None or input_ids is None:
            return super().forward(input_ids=input_ids, attention_mask=attention_mask, **kwargs)
        window = self.config.wedlm_window_size
        place = torch.arange(input_ids.shape[1], device=input_ids.device)
        # Every second place of a window is hidden: no draw, so that a test can count on it.
        hidden = (labels != IGNORED) & (place % window % 2 == 0)
        noisy = torch.where(hidden, torch.full_like(input_ids, self.config.mask_token_id), input_ids)
        out = super().forward(input_ids=noisy, attention_mask=attention_mask)
        targets = torch.where(hidden, labels, torch.full_like(labels, IGNORED))
        loss = torch.nn.functional.cross_entropy(
            out.logits.flatten(0, 1).float(), targets.flatten(), ignore_index=IGNORED
        )
        return CausalLMOutputWithPast(loss=loss, logits=out.logits)
