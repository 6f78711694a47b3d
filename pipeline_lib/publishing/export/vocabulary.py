"""The vocabulary as GGUF holds it: tokens in order of their ids, their types, the merges, the special ids.

Byte-level BPE alone (Llama 3, Qwen, GPT-2, and what `initialize` trains); sentencepiece vocabularies are left
to llama.cpp's converter. A GGUF runtime knows how text is cut before merging only by a name, so a tokenizer
whose cutting has no name here is refused: under another name its tokens would differ without an error.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipeline_lib import chat
from pipeline_lib.core.errors import ConfigError, DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CONVERTER = "use llama.cpp's convert_hf_to_gguf.py for it"
NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5
"""GGUF's token types (ggml-org/ggml, docs/gguf.md)."""

_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
NAMED_SPLITS = {_SPLIT % "{1,3}": "llama-bpe", _SPLIT % "": "qwen2"}
"""The regular expressions of Llama 3's and Qwen 2's tokenizer.json, and llama.cpp's names for them."""
PLAIN_BYTE_LEVEL = "gpt-2"
WHOLE_WORDS_FIRST = "llama-bpe"
"""The one name under which llama.cpp takes a word that is a token as it is, without merging."""


@dataclass(frozen=True)
class Vocabulary:
    """GGUF's ``tokenizer.*`` keys; ``tokens`` and ``types`` are as long as the embedding has rows."""

    tokens: list[str]
    types: list[int]
    merges: list[str]
    pre_tokenizer: str
    bos: int | None
    eos: int | None
    pad: int | None
    end_of_turn: int | None
    adds_bos: bool
    adds_eos: bool
    template: str | None


def read_vocabulary(tokenizer: PreTrainedTokenizerBase, rows: int) -> Vocabulary:
    """Return the vocabulary for a model with ``rows`` embedding rows.

    Raises DataError where a token has no row, ConfigError where GGUF cannot hold this kind of tokenizer.
    """
    described: dict[str, Any] = json.loads(tokenizer.backend_tokenizer.to_str())
    model = described["model"]
    if model["type"] != "BPE" or model.get("byte_fallback"):
        raise ConfigError(f"gguf: a vocabulary of kind {model['type']} is not byte-level BPE; {CONVERTER}")
    if not model["merges"]:
        raise ConfigError(
            "gguf: the vocabulary has no merges, which GGUF runtimes need; train a BPE tokenizer"
        )
    pre_tokenizer = _pre_tokenizer(described)
    if model.get("ignore_merges") and pre_tokenizer != WHOLE_WORDS_FIRST:
        raise ConfigError(
            f"gguf: no pre-tokenizer named there ignores merges as this tokenizer does; {CONVERTER}"
        )
    tokens, types = _tokens(tokenizer, rows)
    plain = tokenizer("a")["input_ids"]
    ends: list[Any] = [tokenizer.convert_tokens_to_ids(token) for token in chat.end_tokens(tokenizer)]
    bos, eos = _id(tokenizer.bos_token_id), _id(tokenizer.eos_token_id)
    return Vocabulary(
        tokens=tokens,
        types=types,
        merges=[merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]],
        pre_tokenizer=pre_tokenizer,
        bos=bos,
        eos=eos,
        pad=_id(tokenizer.pad_token_id),
        end_of_turn=next((end for end in ends if end != eos), None),
        adds_bos=bos is not None and plain[0] == bos,
        adds_eos=eos is not None and plain[-1] == eos,
        template=tokenizer.chat_template,
    )


def _tokens(tokenizer: PreTrainedTokenizerBase, rows: int) -> tuple[list[str], list[int]]:
    by_id = {int(i): token for token, i in tokenizer.get_vocab().items()}
    if max(by_id) >= rows:
        raise DataError(
            f"gguf: the vocabulary reaches id {max(by_id)} but the embedding has {rows} rows; "
            "resize the embedding (model.resize_token_embeddings) and train the new rows"
        )
    added = tokenizer.added_tokens_decoder
    # A row without a token keeps its place under a name of its own, as llama.cpp's converter does it.
    tokens = [by_id.get(i, f"[PAD{i}]") for i in range(rows)]
    return tokens, [_type(i, by_id, added) for i in range(rows)]


def _type(i: int, by_id: Mapping[int, str], added: Mapping[int, Any]) -> int:
    if i not in by_id:
        return UNUSED
    if i in added:
        return CONTROL if added[i].special else USER_DEFINED
    return NORMAL


def _pre_tokenizer(described: Mapping[str, Any]) -> str:
    normalizer = described.get("normalizer")
    if normalizer and normalizer["type"] != "NFC":
        raise ConfigError(f"gguf: the tokenizer changes its text ({normalizer['type']}); {CONVERTER}")
    whole = described.get("pre_tokenizer") or {"type": "none"}
    steps = whole["pretokenizers"] if whole["type"] == "Sequence" else [whole]
    if (
        [step["type"] for step in steps] == ["ByteLevel"]
        and steps[0]["use_regex"]
        and not steps[0]["add_prefix_space"]
    ):
        return PLAIN_BYTE_LEVEL
    if [step["type"] for step in steps] == ["Split", "ByteLevel"] and not steps[1]["use_regex"]:
        pattern = steps[0]["pattern"].get("Regex", "")
        if pattern in NAMED_SPLITS:
            return NAMED_SPLITS[pattern]
    kinds = " + ".join(step["type"] for step in steps)
    raise ConfigError(f"gguf: this pre-tokenizer ({kinds}) has no name that GGUF runtimes know; {CONVERTER}")


def _id(value: Any) -> int | None:
    return None if value is None else int(value)
