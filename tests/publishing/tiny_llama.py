"""A random Llama with a trained byte-level BPE, and an adapter on it, made in a moment."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline_lib.chat import MARKER_TEMPLATE

END, PAD = "<|endoftext|>", "<|pad|>"
MARKERS = ("<|system|>", "<|user|>", "<|assistant|>")
WORDS = [
    "the river was closed in winter, and the bridge too",
    "def mean(values): return sum(values)",
    "你好 größe 🙂",
]

CHATML_TEMPLATE = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
LLAMA3_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{{ '<|start_header_id|>' + m['role'] + '<|end_header_id|>\\n\\n'"
    " + (m['content'] | trim) + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"
)


def make_tokenizer(
    template: str = MARKER_TEMPLATE,
    special: tuple[str, ...] = MARKERS,
    split: str | None = None,
    bos: str = END,
) -> Any:
    """Return a tokenizer of about 300 tokens; ``split`` is the expression that cuts text before merging."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bytewise = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=split is None)
    cut = [pre_tokenizers.Split(Regex(split), behavior="isolated")] if split else []
    bpe.pre_tokenizer = pre_tokenizers.Sequence([*cut, bytewise]) if cut else bytewise
    bpe.decoder = decoders.ByteLevel()
    tokens = list(dict.fromkeys([END, PAD, bos, *special]))
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=tokens,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(WORDS * 3, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        eos_token=END,
        bos_token=bos,
        pad_token=PAD,
        extra_special_tokens=list(special),
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = template
    return tokenizer


def make_model(
    directory: Path,
    tokenizer: Any = None,
    *,
    kind: str = "Llama",
    dtype: str = "bfloat16",
    seed: int = 0,
    **shape: Any,
) -> Path:
    """Return ``directory`` with a model of that kind and its tokenizer in it."""
    import torch
    import transformers

    tokenizer = tokenizer or make_tokenizer()
    torch.manual_seed(seed)
    usual = {
        "vocab_size": len(tokenizer),
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "tie_word_embeddings": True,
        "initializer_range": 0.2,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    config = getattr(transformers, f"{kind}Config")(**(usual | shape))
    model = getattr(transformers, f"{kind}ForCausalLM")(config)
    model.to(getattr(torch, dtype)).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


def make_adapter(directory: Path, base: Path, seed: int = 1, **more: Any) -> Path:
    """Return ``directory`` with an adapter on ``base`` whose weights are random, not zero."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.manual_seed(seed)
    config = LoraConfig(
        r=4,
        lora_alpha=8,
        target_modules=["q_proj", "v_proj"],
        init_lora_weights=False,
        task_type="CAUSAL_LM",
        **more,
    )
    get_peft_model(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), config).save_pretrained(
        directory
    )
    AutoTokenizer.from_pretrained(base).save_pretrained(directory)
    return directory


def merge(directory: Path, base: Path, adapter: Path) -> Path:
    """Return ``directory`` with base and adapter summed in fp32 and cast to bf16."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    PeftModel.from_pretrained(plain, adapter).merge_and_unload().to(torch.bfloat16).save_pretrained(directory)
    AutoTokenizer.from_pretrained(adapter).save_pretrained(directory)
    return directory
