"""Ollama's Modelfile for a GGUF file: its template in Go's language, where generation stops, how it samples.

Ollama does not run a GGUF's own Jinja template: it compares it with the templates it knows and, where none is
near, prompts with the bare question (ollama/ollama, template/template.go). So the template is translated here
wherever `layout` finds it to be plain, and the Modelfile says so where it is not.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline_lib import chat
from pipeline_lib.publishing.export.layout import Chat, Layout, find_layout, trims

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MODELFILE = "Modelfile"
GREEDY = 0.0
"""The temperature without one in generation_config.json: answers as the evaluation saw them."""
SAMPLING = ("temperature", "top_p", "top_k")
UNTRANSLATED = (
    "# The chat template has logic that does not translate by itself. Ollama falls back on one of its\n"
    "# own that resembles it, or on the bare question: write a TEMPLATE and compare the prompts before use.\n"
)
TRIMMED = "# The original template takes spaces off the ends of a message; Ollama's language cannot.\n"


def write_modelfile(model_dir: Path, gguf_name: str, out: Path, name: str) -> Layout | None:
    """Write ``out``/Modelfile, to be created as ``name``; return the layout that it prompts with, if any."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    layout = _quotable(find_layout(tokenizer))
    lines = [f"# ollama create {name.lower()} -f {MODELFILE}\n", f"FROM ./{gguf_name}\n"]
    if layout is None:
        lines.append(UNTRANSLATED)
    else:
        lines += [TRIMMED] if trims(tokenizer) else []
        lines.append(f'TEMPLATE """{go_template(layout, adds_bos=_adds(tokenizer, layout.head))}"""\n')
        lines += [f'SYSTEM """{layout.default_system}"""\n'] if layout.default_system else []
    lines += [
        f"PARAMETER stop {json.dumps(token, ensure_ascii=False)}\n" for token in chat.end_tokens(tokenizer)
    ]
    lines += [f"PARAMETER {name} {value:g}\n" for name, value in _parameters(model_dir).items()]
    (out / MODELFILE).write_text("".join(lines), encoding="utf-8")
    return layout


def go_template(layout: Layout, *, adds_bos: bool) -> str:
    """Return the layout in Go's template language, without the head where the runtime adds that itself."""
    head = "" if adds_bos else layout.head
    opened = f"{layout.opening}assistant{layout.middle}{{{{ .Response }}}}"
    return (
        f"{head}{{{{ range .Messages }}}}{layout.opening}{{{{ .Role }}}}{layout.middle}"
        f"{{{{ .Content }}}}{layout.closing}{{{{ end }}}}{opened}"
    )


def prompts_of(layout: Layout) -> Callable[[PreTrainedTokenizerBase, Chat], list[int]]:
    """Return what makes a chat's prompt as Ollama does: the template's text, tokenized as any text."""

    def prompt(tokenizer: PreTrainedTokenizerBase, messages: Chat) -> list[int]:
        text = layout.prompt(messages)
        added = _adds(tokenizer, layout.head)
        ids: list[int] = tokenizer(text.removeprefix(layout.head) if added else text)["input_ids"]
        return ids

    return prompt


def _adds(tokenizer: PreTrainedTokenizerBase, head: str) -> bool:
    return (
        bool(head)
        and head == tokenizer.bos_token
        and tokenizer("a")["input_ids"][0] == tokenizer.bos_token_id
    )


def _quotable(layout: Layout | None) -> Layout | None:
    if layout is None:
        return None
    texts = (layout.head, layout.opening, layout.middle, layout.closing, layout.default_system or "")
    return None if any(mark in text for text in texts for mark in ("{{", "}}", '"""')) else layout


def _parameters(model_dir: Path) -> dict[str, float]:
    path = model_dir / "generation_config.json"
    said = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    if not said.get("do_sample"):
        return {"temperature": GREEDY}
    return {name: float(said[name]) for name in SAMPLING if said.get(name) is not None}
