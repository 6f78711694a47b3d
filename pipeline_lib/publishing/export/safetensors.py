"""A model as safetensors: the files that `from_pretrained` reads, and nothing of the store around them."""

from __future__ import annotations

import shutil
from pathlib import Path

from pipeline_lib.core.errors import ConfigError

WEIGHTS = ("model.safetensors", "model-*.safetensors", "model.safetensors.index.json")
TOKENIZER = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
)
CONFIG = ("config.json", "generation_config.json")
ADAPTER = ("adapter_config.json", "adapter_model.safetensors")


def require_model(directory: Path) -> None:
    """Raise ConfigError where ``directory`` does not hold a whole model as safetensors with its tokenizer."""
    if (directory / "adapter_config.json").exists():
        raise ConfigError(
            f"{directory} is an adapter; export the merged model, with adapter= and base= for parity"
        )
    if not (directory / "config.json").exists():
        raise ConfigError(f"{directory} holds no model (no config.json); name a Model artifact")
    if not _matching(directory, WEIGHTS[:2]):
        raise ConfigError(f"{directory} holds no safetensors weights; save the model with save_pretrained")
    if not (directory / "tokenizer.json").exists():
        raise ConfigError(f"{directory} holds no tokenizer.json; save its tokenizer beside the model")


def copy_model(directory: Path, out: Path) -> None:
    """Copy weights, config and tokenizer of a model into ``out``."""
    _copy(directory, out, (*CONFIG, *WEIGHTS, *TOKENIZER))


def copy_adapter(directory: Path, out: Path) -> None:
    """Copy an adapter in PEFT's format, with its tokenizer, into ``out``; ConfigError where it is none."""
    if not all((directory / name).exists() for name in ADAPTER):
        raise ConfigError(f"{directory} holds no adapter ({' and '.join(ADAPTER)}); name an Adapter artifact")
    out.mkdir(exist_ok=True)
    _copy(directory, out, (*ADAPTER, *TOKENIZER))


def weight_files(directory: Path) -> list[Path]:
    """Return the model's safetensors files in order."""
    return _matching(directory, WEIGHTS[:2])


def _matching(directory: Path, patterns: tuple[str, ...]) -> list[Path]:
    return sorted({path for pattern in patterns for path in directory.glob(pattern)})


def _copy(directory: Path, out: Path, patterns: tuple[str, ...]) -> None:
    for path in _matching(directory, patterns):
        shutil.copyfile(path, out / path.name)
