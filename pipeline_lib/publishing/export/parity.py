"""Parity: an export is the model it was made from, or it is not an export.

Three questions. Does the exported tokenizer read the same chats as the same tokens that training and
evaluation used? Do exported and original weights say the same about the same texts? And, where the adapter is
given, does the merged model say what base and adapter say? Every figure has a bound per format; one beyond it
is a DataError. Models are compared in fp32, so that a difference is the format's and not the arithmetic's.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import takewhile, zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline_lib.core.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pipeline_lib.publishing.export.observe import Observed, Probe

PARITY = "parity.json"


@dataclass(frozen=True)
class Bounds:
    """The most that a figure may be; for ``greedy_agreement`` the least. Behaviour from the third on."""

    prompt_tokens_differing: int
    """Places at which a chat's prompt has another token."""
    weight_difference: float
    """Of the worst tensor: norm of the difference over the norm of the original."""
    logit_kl_mean: float
    """Kullback-Leibler divergence of next-token distributions, from the original, in nats: the mean."""
    logit_kl_max: float
    """The same, of the worst token."""
    logit_max_difference: float
    """Largest difference of one logit, each token's logits taken from their mean."""
    perplexity_difference: float
    """Perplexity on the texts, relative to the original's."""
    greedy_agreement: float
    """Share of the original's first 32 greedy tokens that the export would choose at the same place."""


EXACT = Bounds(0, 0.0, 1e-6, 1e-4, 1e-2, 1e-5, 1.0)
"""A copy: the weights are the same bits, so only the order of fp32 additions may differ."""

BF16 = Bounds(0, 2**-8, 2e-3, 5e-2, 1.0, 1e-2, 0.95)
"""bf16 keeps 8 bits, so a rounded weight is within 2^-9 of itself; bf16 weights pass unchanged. The behaviour
may differ no more than llama.cpp's Q8_0, the coarser format, does for Llama 3 8B (mean divergence 0.0014)."""

F16 = Bounds(0, 2**-10, 2e-3, 5e-2, 1.0, 1e-2, 0.95)
"""f16 keeps 11 bits (within 2^-12), but weights under 6e-5 lose some of them; the behaviour as for bf16."""

Q8_0 = Bounds(0, 2e-2, 5e-3, 1e-1, 2.0, 2e-2, 0.9)
"""8 bits with a scale per 32 weights: rounding takes about 0.5 % of the norm of normally distributed ones, so
2 % is no rounding. Outliers that drown their neighbours show in the behaviour. llama.cpp measures a mean
divergence of 0.0014 and 0.09 % of perplexity for Llama 3 8B
(ggml-org/llama.cpp, perplexity's README); the bounds leave a small model some four times that and more."""

Q4_K_M = Bounds(0, 1.5e-1, 1.25e-1, 2.5, 12.0, 1.2e-1, 0.7)
"""4 bits, 6 where it counts most, in blocks of 256 weights. llama.cpp measures a mean divergence of 0.031 and
2.8 % of perplexity for Llama 3 8B (same source); the bounds are some four times that, as for Q8_0."""

MERGED = Bounds(0, math.inf, 2e-3, 5e-2, 1.0, 1e-2, 0.95)
"""Base and adapter in fp32 against their sum cast to the merged model's format, bf16 at its coarsest."""

FORMAT_BOUNDS: Mapping[str, Bounds] = {
    "exact": EXACT,
    "bf16": BF16,
    "f16": F16,
    "q8_0": Q8_0,
    "q4_k_m": Q4_K_M,
    "merged": MERGED,
}


@dataclass(frozen=True)
class Comparison:
    """One form of the model against another: the figures, and what each of them may be."""

    name: str
    figures: Mapping[str, float]
    bounds: Mapping[str, float]

    def beyond(self) -> list[str]:
        """Return each figure that is over its bound, in words; nan counts as over."""
        return [
            f"{key} {value:.3g} (bound {self.bounds[key]:.3g})"
            for key, value in self.figures.items()
            if key in self.bounds and not _within(key, value, self.bounds[key])
        ]


@dataclass(frozen=True)
class Parity:
    """All comparisons of one export, and what they were made on."""

    comparisons: list[Comparison]
    chats: int
    texts: int
    tokens: int
    notes: tuple[str, ...] = ()

    def require(self) -> None:
        """Raise DataError that names the figures over their bounds, if any."""
        for comparison in self.comparisons:
            if beyond := comparison.beyond():
                raise DataError(f"export: {comparison.name}: {', '.join(beyond)}; nothing was written")

    def write(self, path: Path) -> None:
        """Write ``parity.json``."""
        path.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")


def compared(name: str, bounds: Bounds | None, **figures: float) -> Comparison:
    """Return a comparison with the bounds of the figures that it has; without ``bounds`` a mere record."""
    limits = asdict(bounds) if bounds else {}
    return Comparison(
        name, figures, {key: limits[key] for key in figures if math.isfinite(limits.get(key, math.inf))}
    )


def tokens_differing(expected: Sequence[Sequence[int]], found: Sequence[Sequence[int]]) -> int:
    """Return at how many places the prompts have another token, or one of them none."""
    return sum(a != b for one, other in zip(expected, found, strict=True) for a, b in zip_longest(one, other))


def behaviour(
    probe: Probe, reference: Observed, other: Observed, chosen: Sequence[Sequence[int]]
) -> dict[str, float]:
    """Return the figures between two models; ``chosen`` is the other's choice along the first's answers."""
    divergences = np.concatenate(
        [_divergence(a, b) for a, b in zip(reference.logits, other.logits, strict=True)]
    )
    losses = [
        (_loss(a, ids), _loss(b, ids))
        for ids, a, b in zip(probe.texts, reference.logits, other.logits, strict=True)
    ]
    before, after = (math.exp(float(np.concatenate(part).mean())) for part in zip(*losses, strict=True))
    largest = max(
        np.abs(_centred(a) - _centred(b)).max() for a, b in zip(reference.logits, other.logits, strict=True)
    )
    return {
        "logit_kl_mean": float(divergences.mean()),
        "logit_kl_max": float(divergences.max()),
        "logit_max_difference": float(largest),
        "perplexity": after,
        "perplexity_difference": abs(after / before - 1),
        "greedy_agreement": _agreement(reference.answers, chosen),
        "greedy_same_tokens": _prefix(reference.answers, other.answers),
    }


def weight_difference(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    """Return the norm of the difference over the norm of the first, in double precision."""
    original, found = one.astype(np.float64), other.astype(np.float64)
    norm = float(np.linalg.norm(original))
    gap = float(np.linalg.norm(original - found))
    return gap / norm if norm else gap


def _within(key: str, value: float, bound: float) -> bool:
    return value >= bound if key == "greedy_agreement" else value <= bound


def _log_softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    normal: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return normal


def _divergence(reference: NDArray[np.float32], other: NDArray[np.float32]) -> NDArray[np.float64]:
    p, q = _log_softmax(reference), _log_softmax(other)
    per_token: NDArray[np.float64] = (np.exp(p) * (p - q)).sum(axis=-1)
    # Rounding takes equal distributions a hair below zero.
    return np.maximum(per_token, 0.0)


def _loss(logits: NDArray[np.float32], ids: Sequence[int]) -> NDArray[np.float64]:
    following = np.asarray(ids[1:])
    losses: NDArray[np.float64] = -_log_softmax(logits[:-1])[np.arange(len(following)), following]
    return losses


def _centred(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    # A constant added to all logits of a token changes no probability.
    centred: NDArray[np.float32] = logits - logits.mean(axis=-1, keepdims=True)
    return centred


def _agreement(answers: Sequence[Sequence[int]], chosen: Sequence[Sequence[int]]) -> float:
    pairs = [
        (a, b) for one, other in zip(answers, chosen, strict=True) for a, b in zip(one, other, strict=True)
    ]
    return sum(a == b for a, b in pairs) / len(pairs)


def _prefix(answers: Sequence[Sequence[int]], others: Sequence[Sequence[int]]) -> float:
    same: list[Any] = [
        list(takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))
        for one, other in zip(answers, others, strict=True)
    ]
    return sum(map(len, same)) / len(same)
