"""The stage that drops conversations by named quality rules.

A rule's name is the reason and its evidence (value and bound) the detail; the first rule that fires
decides, in the order of ``TALK_RULES`` and ``TURN_RULES`` in ``quality.instruct`` and then
``FAMILIES`` in ``quality.web``. Neighbours: ``quality.limits`` has the thresholds and presets;
``deduplicate`` comes before, ``decontaminate`` after. Limits in tokens need the model whose tokenizer counts.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field, model_validator

from pipeline_lib.core.errors import ConfigError
from pipeline_lib.core.output import Output
from pipeline_lib.core.stage import stage
from pipeline_lib.curation.quality.limits import PRESETS, InstructLimits, Preset, WebLimits
from pipeline_lib.kinds import Dataset, Model

if TYPE_CHECKING:
    import pyarrow as pa

    from pipeline_lib.curation.blocks import Outcome


class FilterConfig(InstructLimits, WebLimits):
    """Which quality rules are asked, and their thresholds."""

    preset: Preset = Field(default="instruct", description="Which defaults apply to what is not stated here.")

    @model_validator(mode="before")
    @classmethod
    def _fill_from_preset(cls, values: Any) -> Any:
        """Put the preset's defaults under what the config states."""
        preset = values.get("preset", "instruct") if isinstance(values, dict) else None
        return {**PRESETS[preset], **values} if isinstance(preset, str) and preset in PRESETS else values


@stage(produces=Dataset, version=1)
def filter(out: Output, config: FilterConfig, conversations: Dataset, tokenizer: Model | None = None) -> None:
    """Keep the conversations that no quality rule drops."""
    from pipeline_lib.curation.blocks import sift

    if config.counts_tokens and tokenizer is None:
        raise ConfigError("filter: limits in tokens need base_model, whose tokenizer counts them")
    judge = partial(_judged, config, tokenizer.path if tokenizer else None)
    for _ in sift(out, conversations, judge, beside=tokenizer):
        pass


def _judged(config: FilterConfig, model: Path | None, block: pa.RecordBatch) -> Outcome:
    from pipeline_lib.curation.blocks import Outcome
    from pipeline_lib.curation.quality.lengths import token_counts
    from pipeline_lib.curation.quality.verdicts import verdicts

    return Outcome(block, verdicts(block, config, config, partial(token_counts, model) if model else None))
