"""Export: take a model out of the pipeline, as safetensors, adapter, GGUF, for Ollama or for vLLM.

`export_model` writes the form (`safetensors`, `adapter`, `gguf`, `ollama`, `vllm`), loads it back and proves
that it is the same model (`proof`, `parity`). The directory appears whole, with `parity.json` in it, or not
at all.
"""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pipeline_lib.core.errors import ConfigError

if TYPE_CHECKING:
    from pipeline_lib.publishing.export.layout import Chat
    from pipeline_lib.publishing.export.parity import Parity
    from pipeline_lib.publishing.export.proof import Exportee, Prompts

Format = Literal["safetensors", "adapter", "gguf", "ollama", "vllm"]
Quantization = Literal["bf16", "f16", "q8_0", "q4_k_m"]
FORMATS: tuple[Format, ...] = ("safetensors", "adapter", "gguf", "ollama", "vllm")
QUANTIZATIONS: tuple[Quantization, ...] = ("bf16", "f16", "q8_0", "q4_k_m")

__all__ = ["FORMATS", "QUANTIZATIONS", "Exported", "export_model"]


@dataclass(frozen=True)
class Exported:
    """An export that passed its parity check: where it stands, its files, and the figures."""

    path: Path
    format: Format
    files: tuple[Path, ...]
    parity: Parity


def export_model(
    model_dir: Path,
    format: Format,
    out_dir: Path,
    *,
    adapter: Path | None = None,
    base: Path | None = None,
    quantization: Quantization = "bf16",
    chats: Sequence[Chat] = (),
    force: bool = False,
) -> Exported:
    """Write the merged model in ``model_dir`` to ``out_dir`` in a format, and prove it the same.

    ``adapter`` and its ``base`` (directories) are compared with the merged model too, and vLLM gets commands
    for them; ``quantization`` is GGUF's and Ollama's; ``chats`` (prompts) go beside the built-in ones.
    ConfigError where the call or the model does not suit the format or ``out_dir`` is there (``force``
    replaces it), DataError where a figure is over its bound; then nothing is left behind.
    """
    from pipeline_lib.publishing.export.proof import Exportee
    from pipeline_lib.publishing.export.safetensors import require_model
    from pipeline_lib.publishing.quiet import transformers_quiet

    _require_call(format, quantization, adapter, base)
    require_model(model_dir)
    final = out_dir.resolve()
    if final == model_dir.resolve() or final in model_dir.resolve().parents:
        raise ConfigError(f"{out_dir} is where the model stands; name another directory")
    if final.exists() and not force:
        raise ConfigError(f"{out_dir} is there already; name another directory, or force it to be replaced")
    of = Exportee(model_dir.resolve(), adapter and adapter.resolve(), base and base.resolve())
    with transformers_quiet(), _whole(final) as scratch:
        parity = _write(of, format, scratch, final, quantization, chats)
        parity.require()
        parity.write(scratch / "parity.json")
    return Exported(final, format, tuple(sorted(p for p in final.rglob("*") if p.is_file())), parity)


def _require_call(format: str, quantization: str, adapter: Path | None, base: Path | None) -> None:
    if format not in FORMATS:
        raise ConfigError(f"format {format!r} is not one of {', '.join(FORMATS)}")
    if quantization not in QUANTIZATIONS:
        raise ConfigError(f"quantization {quantization!r} is not one of {', '.join(QUANTIZATIONS)}")
    if format in ("gguf", "ollama") and quantization == "q4_k_m":
        from pipeline_lib.publishing.export.quantizer import require_quantizer

        require_quantizer()
    if (adapter is None) != (base is None):
        raise ConfigError("an adapter is nothing without its base: give both adapter and base, or neither")
    if format == "adapter" and adapter is None:
        raise ConfigError(
            "no adapter stands behind this model; export it as safetensors, gguf, ollama or vllm"
        )


@contextmanager
def _whole(final: Path) -> Iterator[Path]:
    """Give a directory to write in, which takes the place of ``final`` at the end, or goes."""
    final.parent.mkdir(parents=True, exist_ok=True)
    mark = uuid.uuid4().hex[:8]
    scratch, former = final.parent / f".{final.name}.{mark}.new", final.parent / f".{final.name}.{mark}.old"
    scratch.mkdir()
    try:
        yield scratch
        if final.exists():
            final.rename(former)
        scratch.rename(final)
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        if former.exists() and not final.exists():
            former.rename(final)
        raise
    shutil.rmtree(former, ignore_errors=True)


def _write(
    of: Exportee,
    format: Format,
    scratch: Path,
    final: Path,
    quantization: Quantization,
    chats: Sequence[Chat],
) -> Parity:
    from pipeline_lib.publishing.export import forms, vllm
    from pipeline_lib.publishing.export.proof import Exportee, prove, template_prompt
    from pipeline_lib.publishing.export.safetensors import copy_adapter, copy_model

    if format in ("gguf", "ollama"):
        return _write_gguf(of, format, scratch, final, quantization, chats)
    if format == "adapter" and of.adapter and of.base:
        copy_adapter(of.adapter, scratch)
        load, kind = partial(forms.load_adapted, of.base, scratch), "merged"
        of = Exportee(of.model)
    else:
        copy_model(of.model, scratch)
        if of.adapter:
            copy_adapter(of.adapter, scratch / "adapter")
        if format == "vllm":
            vllm.write_commands(scratch, final, of.base)
        load, kind = partial(forms.load_model, scratch), "exact"
    return prove(of, load, forms.load_tokenizer(scratch), template_prompt, kind, chats)


def _write_gguf(
    of: Exportee,
    format: Format,
    scratch: Path,
    final: Path,
    quantization: Quantization,
    chats: Sequence[Chat],
) -> Parity:
    from pipeline_lib.publishing.export import forms, gguf, ollama, quantizer
    from pipeline_lib.publishing.export.proof import prove, template_prompt

    name = f"model-{quantization}.gguf"
    if quantization == "q4_k_m":
        quantizer.write_q4_k_m(of.model, scratch / name)
    else:
        gguf.write_gguf(of.model, scratch / name, quantization)
    prompts: Prompts = template_prompt
    if format == "ollama":
        layout = ollama.write_modelfile(of.model, name, scratch, final.name)
        prompts = ollama.prompts_of(layout) if layout else template_prompt
    load = partial(forms.load_gguf, scratch, name, of.model)
    return prove(of, load, forms.load_tokenizer(scratch, name), prompts, quantization, chats)
