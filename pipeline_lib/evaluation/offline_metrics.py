"""The metrics of `metrics` as `evaluate` metrics that load without a network.

`evaluate.load("rouge")` fetches a script from a hub; here is the script. It calls the functions that the
pipeline scores with, so that a figure is the same through either door. Importing `evaluate` takes seconds and
is left to `load_metric`.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline_lib.core.errors import ConfigError
from pipeline_lib.evaluation import metrics

if TYPE_CHECKING:
    import evaluate

Compute = Callable[[Sequence[str], Sequence[str]], dict[str, Any]]


def load_metric(name: str) -> "evaluate.Metric":
    """An `evaluate` metric whose `compute(predictions=, references=)` gives the score and any signature.

    Names are those of `COMPUTE`; raises ConfigError for any other.
    """
    import evaluate
    from datasets import Features, Value

    if name not in COMPUTE:
        raise ConfigError(f"metric '{name}' is not known; take one of {', '.join(COMPUTE)}")
    text = Features({"predictions": Value("string"), "references": Value("string")})

    class OfflineMetric(evaluate.Metric):  # type: ignore[misc]
        """One metric of ours behind the interface of `evaluate`."""

        def _info(self) -> evaluate.MetricInfo:
            return evaluate.MetricInfo(
                description=COMPUTE[name].__doc__, citation="", inputs_description="", features=text
            )

        def _compute(self, predictions: Sequence[str], references: Sequence[str]) -> dict[str, Any]:
            return COMPUTE[name](predictions, references)

    return OfflineMetric(config_name=name, keep_in_memory=True)


def _rouge(predictions: Sequence[str], references: Sequence[str]) -> dict[str, Any]:
    """Mean F1 of ROUGE-1, -2, -L and -Lsum, without stemming, as `rouge_score` counts them."""
    means = metrics.rouge(predictions, references).mean(axis=0)
    return {
        **dict(zip(metrics.ROUGE, means.tolist(), strict=True)),
        "signature": metrics.signatures()["rouge"],
    }


def _bleu(predictions: Sequence[str], references: Sequence[str]) -> dict[str, Any]:
    """Corpus BLEU as sacreBLEU gives it, with its signature."""
    sums = metrics.bleu_statistics(predictions, references).sum(axis=0).astype(np.float64)
    return {"bleu": float(metrics.corpus_bleu(sums)), "signature": metrics.signatures()["bleu"]}


def _chrf(predictions: Sequence[str], references: Sequence[str]) -> dict[str, Any]:
    """Corpus chrF2 as sacreBLEU gives it, with its signature."""
    sums = metrics.chrf_statistics(predictions, references).sum(axis=0).astype(np.float64)
    return {"chrf": float(metrics.corpus_chrf(sums)), "signature": metrics.signatures()["chrf"]}


def _exact_match(predictions: Sequence[str], references: Sequence[str]) -> dict[str, Any]:
    """Share of answers that equal their reference but for surrounding white space."""
    return {"exact_match": float(metrics.exact_match(predictions, references).mean())}


def _token_f1(predictions: Sequence[str], references: Sequence[str]) -> dict[str, Any]:
    """Mean F1 over words, as SQuAD 2.0 normalises and counts them."""
    return {"token_f1": float(metrics.token_f1(predictions, references).mean())}


COMPUTE: dict[str, Compute] = {
    "rouge": _rouge,
    "bleu": _bleu,
    "chrf": _chrf,
    "exact_match": _exact_match,
    "token_f1": _token_f1,
}
