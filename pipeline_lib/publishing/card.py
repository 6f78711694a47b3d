"""The model card: what the model is, what it was made from, how it scores, and where its limits are.

Markdown with the header of Hugging Face model cards (licence, language), so that hubs and MLflow read it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline_lib.kinds import Model
from pipeline_lib.pages.rendering import environment
from pipeline_lib.publishing.audited import audit_rows
from pipeline_lib.publishing.lineage import lineage
from pipeline_lib.publishing.scores import ScoreRow, score_rows

if TYPE_CHECKING:
    from pipeline_lib.publishing.register import RegisterConfig
    from pipeline_lib.publishing.tracking import RunContents


def model_card(config: RegisterConfig, model: Model, contents: RunContents) -> str:
    """Return the card of ``model`` as Markdown; the same inputs give the same text."""
    ancestors = lineage(contents.artifacts, contents.result)
    template = environment("pipeline_lib.publishing").get_template("model_card.md.j2")
    return template.render(
        header=header(
            {
                "license": config.license,
                "language": config.language,
                "tags": ["finetune-flows", "text-generation"],
            }
        ),
        config=config,
        model=model,
        method=contents.training.manifest.stats.get("method", "") if contents.training else "",
        parameters=model.manifest.stats.get("parameters"),
        verdict=contents.verdict.read() if contents.verdict else None,
        scores=_scores(contents),
        base=next((a.manifest.config for a in ancestors if a.label == "base_model"), None),
        audit=audit_rows(contents.audit.read()) if contents.audit else [],
        data=[a for a in ancestors if a.manifest.kind == "Dataset"],
        ancestors=ancestors,
        template_hash=template_hash(model.path),
    )


def header(fields: Mapping[str, Any]) -> str:
    """Return a card's YAML header; the values are JSON, which YAML reads alike."""
    return "\n".join(f"{key}: {json.dumps(value, ensure_ascii=True)}" for key, value in fields.items())


def template_hash(model: Path) -> str | None:
    """Return the SHA-256 (hex) of the model's chat template; None where it has none."""
    separate = model / "chat_template.jinja"
    if separate.exists():
        return hashlib.sha256(separate.read_bytes()).hexdigest()
    settings = model / "tokenizer_config.json"
    template = (
        json.loads(settings.read_text(encoding="utf-8")).get("chat_template") if settings.exists() else None
    )
    return hashlib.sha256(template.encode()).hexdigest() if isinstance(template, str) else None


def _scores(contents: RunContents) -> list[ScoreRow]:
    measured = {role: evaluation.scores() for role, evaluation in contents.evaluations.items()}
    if "tuned" not in measured:
        return []
    comparison = contents.verdict.read().get("comparison", {}) if contents.verdict else {}
    return score_rows(measured.get("base"), measured["tuned"], comparison)
