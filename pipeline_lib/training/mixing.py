"""Mixing: how often each source is seen in one pass over the train split.

A source is what a conversation's ``source`` says. The choice is made once, from the seed: every pass sees the
same sequences, in another order.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from pipeline_lib.core.config import StageConfig
from pipeline_lib.core.errors import ConfigError

if TYPE_CHECKING:
    import numpy as np


class MixConfig(StageConfig):
    """The shares of several sources, and of general data that is seen again against forgetting."""

    sampling: Literal["proportional", "equal", "temperature"] = Field(
        default="proportional",
        description="Each source as large as it is, all alike, or in between (share ~ size^(1/temperature)).",
    )
    temperature: float = Field(
        default=2.0, ge=1, description="1 is proportional; the higher, the more alike the shares."
    )
    replay_sources: tuple[str, ...] = Field(
        default=(), description="Sources of general data, as the conversations' `source` names them."
    )
    replay_share: float = Field(
        default=0.1,
        ge=0,
        lt=1,
        description="Share of a pass that comes from replay_sources, if there are any.",
    )
    ewc_strength: float | None = Field(
        default=None,
        gt=0,
        description="Elastic weight consolidation (arXiv 1612.00796): how strongly full training holds the "
        "weights that replay_sources depend on; needs twice the weights' memory more.",
    )
    ewc_sequences: int = Field(
        default=256,
        ge=1,
        description="Sequences of replay_sources that the importance of weights is taken from.",
    )

    @model_validator(mode="after")
    def _has_general_data(self) -> MixConfig:
        if self.ewc_strength is not None and not self.replay_sources:
            raise ValueError("ewc_strength needs replay_sources: the data whose knowledge is to be kept")
        return self

    @property
    def changes_nothing(self) -> bool:
        """Whether a pass is simply every sequence once."""
        return self.sampling == "proportional" and not self.replay_sources


def places(sources: Sequence[str], config: MixConfig, seed: int) -> np.ndarray:
    """Return the places of the sequences that make up one pass, in ascending order, repeats included.

    Without replay a pass is as long as the split; replayed sequences come on top of it. ConfigError where a
    replay source is unknown or is all there is.
    """
    import numpy as np

    names, member = np.unique(np.asarray(sources, dtype=object).astype(str), return_inverse=True)
    if not any(names):
        raise ConfigError(
            "train.mix is for conversations: documents are laid end to end in blocks, which are of no one "
            "source; let ingest.sources say how much of each there is"
        )
    unknown = sorted(set(config.replay_sources) - set(names))
    if unknown:
        raise ConfigError(
            f"train.mix.replay_sources: there is no source {unknown[0]}; there are {', '.join(names)}"
        )
    replayed = np.isin(names, config.replay_sources)
    sizes = np.bincount(member, minlength=len(names))
    own = sizes[~replayed].sum()
    if not own:
        raise ConfigError(
            "train.mix.replay_sources: they are all the data there is; name the general ones alone"
        )
    power = {"proportional": 1.0, "equal": 0.0, "temperature": 1 / config.temperature}[config.sampling]
    counts = np.zeros(len(names), dtype=np.int64)
    counts[~replayed] = _share(sizes[~replayed] ** power, own)
    if replayed.any():
        again = round(own * config.replay_share / (1 - config.replay_share))
        counts[replayed] = _share(sizes[replayed].astype(float), again)
    random = np.random.default_rng(seed)
    chosen = [_draw(np.flatnonzero(member == i), int(count), random) for i, count in enumerate(counts)]
    return np.sort(np.concatenate(chosen))


def _share(weights: np.ndarray, whole: int) -> np.ndarray:
    """Return whole numbers in the ratio of ``weights`` that add up to ``whole`` (largest remainders)."""
    import numpy as np

    exact = weights / weights.sum() * whole
    counts: np.ndarray = np.floor(exact).astype(np.int64)
    short = int(whole - counts.sum())
    counts[np.argsort(-(exact - counts), kind="stable")[:short]] += 1
    return counts


def _draw(members: np.ndarray, count: int, random: np.random.Generator) -> np.ndarray:
    """Return ``count`` members, each as often as any other or once more."""
    import numpy as np

    whole, rest = divmod(count, len(members))
    return np.concatenate([np.tile(members, whole), random.permutation(members)[:rest]])
