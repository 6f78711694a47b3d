"""A random Llama of a few thousand weights with a byte tokenizer, made in a moment."""

from __future__ import annotations

from pathlib import Path

from pipeline_lib.chat import MARKER_TEMPLATE

END, PAD = "<|endoftext|>", "<|pad|>"


def tiny_model(
    directory: Path, positions: int = 128, seed: int = 0, template: str | None = MARKER_TEMPLATE
) -> Path:
    """Return ``directory`` with model and tokenizer in it."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    bpe = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(alphabet)}, merges=[]))
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe, eos_token=END, bos_token=END, pad_token=PAD, clean_up_tokenization_spaces=False
    )
    if template:
        tokenizer.chat_template = template
    tokenizer.save_pretrained(directory)
    torch.manual_seed(seed)
    shape = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=positions,
        tie_word_embeddings=True,
        initializer_range=0.3,
        bos_token_id=tokenizer.eos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    LlamaForCausalLM(shape).save_pretrained(directory)
    return directory
