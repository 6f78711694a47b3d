"""Score: how likely a model finds the answers, and how much their prompts help it, as metadata.

``perplexity`` is that of the answers given all before them (of a plain text, of the text). ``ifd`` is the
instruction-following difficulty of Li et al. 2023 (arXiv 2308.12032): the mean loss of the answers given what
came before over their mean loss given nothing. Near 1 the prompt does not help the model, so that there is
most to learn; above 1 it misleads, and answer and prompt hardly belong together; near 0 the model knows how.
The paper takes the 5 to 10 % with the highest below 1. Neighbours: ``filter.scores`` and
``deduplicate.score`` read what is written here; ``model_worker`` is the child that runs the model.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from pipeline_lib.chat_templates import TemplateName
from pipeline_lib.core.config import StageConfig
from pipeline_lib.core.output import Output
from pipeline_lib.core.stage import stage
from pipeline_lib.kinds import Dataset, Model

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pyarrow as pa

NAMES = ("perplexity", "ifd")
LARGEST = 700.0
"""Mean loss whose exponential is still a number."""


class ScoreConfig(StageConfig):
    """How a model scores conversations; which one, `scorer` says."""

    max_tokens: int = Field(
        default=2048,
        ge=16,
        description="Longest conversation that is scored, in tokens; a longer one, or one that the model has "
        "no positions for, gets no score.",
    )
    template: TemplateName | None = Field(
        default=None,
        description="Named chat template in place of the scorer's own; one without gets markers.",
    )
    precision: Literal["bf16", "fp16", "fp32"] = Field(
        default="bf16", description="Number format of weights and computation; losses are summed in fp64."
    )


@stage(produces=Dataset, version=1)
def score(out: Output, config: ScoreConfig, conversations: Dataset, scorer: Model) -> None:
    """Every conversation with `perplexity` and `ifd` in its metadata, where it has answers to score."""
    import numpy as np

    from pipeline_lib import records
    from pipeline_lib.curation.on_device import measured, quantiles

    found: list[npt.NDArray[np.float64]] = []
    read = 0
    with records.DatasetWriter(out.path) as writer:
        for block, columns in measured(
            out, conversations, scorer, "likelihoods", config.model_dump(mode="json")
        ):
            scores = scores_of(columns["nll"], columns["tokens"])
            writer.keep(_with_scores(block, scores))
            found.append(scores)
            read += block.num_rows
    scores = np.concatenate([np.empty((0, len(NAMES))), *found])
    known = {name: column[~np.isnan(column)] for name, column in zip(NAMES, scores.T, strict=True)}
    out.stats = {
        **writer.stats(read),
        "scored": {name: len(values) for name, values in known.items()},
        "quantiles": {name: quantiles(values) for name, values in known.items()},
    }


def scores_of(nll: npt.NDArray[np.float64], tokens: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Return perplexity and ifd of n conversations (n by 2), NaN where there is none.

    ``nll`` and ``tokens`` (n by 2): summed loss and number of tokens of the answers, given what came before
    and given nothing.
    """
    import numpy as np

    with np.errstate(divide="ignore", invalid="ignore"):
        given, alone = np.where(tokens > 0, nll / tokens, np.nan).T
        return np.stack([np.exp(np.minimum(given, LARGEST)), np.where(alone > 0, given / alone, np.nan)], 1)


def _with_scores(block: pa.RecordBatch, scores: npt.NDArray[np.float64]) -> pa.RecordBatch:
    from pipeline_lib import records

    facts = [
        {name: float(f"{value:.5g}") for name, value in zip(NAMES, row, strict=True) if not math.isnan(value)}
        for row in scores.tolist()
    ]
    return records.noted(block, facts)
