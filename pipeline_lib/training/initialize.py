"""Initialize: a model that has learnt nothing yet, with a tokenizer made for the data.

The tokenizer is a byte-level BPE trained on the train split; the weights are random. The `train`
stage with the language-modelling objective makes a base model of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field, model_validator

from pipeline_lib.core.config import StageConfig
from pipeline_lib.core.errors import DataError
from pipeline_lib.core.output import Output
from pipeline_lib.core.stage import stage
from pipeline_lib.kinds import Dataset, Model

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

END = "<|endoftext|>"
PAD = "<|pad|>"
ROLE_TOKENS = ("<|system|>", "<|user|>", "<|assistant|>", "<|tool|>")


class InitializeConfig(StageConfig):
    """The shape of a new Llama-like model and of its tokenizer."""

    vocab_size: int = Field(
        default=4096, ge=512, description="Tokens in the vocabulary, special ones included."
    )
    hidden_size: int = Field(default=256, ge=16, description="Width of the model.")
    intermediate_size: int = Field(default=704, ge=16, description="Width inside the feed-forward layers.")
    layers: int = Field(default=5, ge=1, description="Number of transformer layers.")
    heads: int = Field(default=4, ge=1, description="Attention heads a layer; divides the hidden size.")
    max_positions: int = Field(default=1024, ge=64, description="Longest sequence, in tokens.")
    seed: int = Field(default=42, ge=0, description="Seed of the random weights.")

    @model_validator(mode="after")
    def _heads_fit(self) -> InitializeConfig:
        if self.hidden_size % (2 * self.heads):
            raise ValueError(
                f"hidden_size {self.hidden_size} does not give {self.heads} heads of an even width each"
            )
        return self


@stage(produces=Model, version=1)
def initialize(out: Output, config: InitializeConfig, dataset: Dataset) -> None:
    """A Llama-shaped model with random weights and a tokenizer trained on the train split."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = _train_tokenizer(config, _texts(dataset.shards("train")))
    tokenizer.save_pretrained(out.path)
    torch.manual_seed(config.seed)
    shape = LlamaConfig(
        vocab_size=config.vocab_size,
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        num_key_value_heads=config.heads,
        max_position_embeddings=config.max_positions,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.eos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = LlamaForCausalLM(shape)
    model.save_pretrained(out.path)
    out.stats = {"parameters": model.num_parameters(), "vocabulary": len(tokenizer)}


def _texts(shards: list[Path]) -> Iterator[list[str]]:
    from pipeline_lib import records

    for batch in records.batches(shards):
        yield records.text_of(batch)


def _train_tokenizer(config: InitializeConfig, texts: Iterator[list[str]]) -> PreTrainedTokenizerFast:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    from pipeline_lib.chat import MARKER_TEMPLATE

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=config.vocab_size,
        special_tokens=[END, PAD, *ROLE_TOKENS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    if bpe.get_vocab_size() < config.vocab_size:
        raise DataError(
            f"initialize: the train split yields {bpe.get_vocab_size()} tokens, not {config.vocab_size}; "
            "lower initialize.vocab_size or add data"
        )
    tokenizer = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=bpe,
        eos_token=END,
        bos_token=END,
        pad_token=PAD,
        extra_special_tokens=list(ROLE_TOKENS),
        model_max_length=config.max_positions,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = MARKER_TEMPLATE
    return tokenizer
