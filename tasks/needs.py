"""What a stage needs beside its inputs: an endpoint or a package, asked for before anything is built."""

from __future__ import annotations

from typing import Any

from pipeline_lib.completions import for_augment, for_evaluate
from pipeline_lib.evaluation.suites import require_lm_eval
from pipeline_lib.personal_data.recognise import require_recogniser
from pipeline_lib.training.loading import check_quantization


def require(stage: str, config: Any) -> None:
    """Raise ConfigError where settings or installation lack what a stage with this config needs."""
    if stage == "augment":
        for_augment()
    if stage == "evaluate" and config.endpoint:
        for_evaluate()
    if stage == "evaluate" and config.suites:
        require_lm_eval()
    if stage == "train":
        check_quantization(config.method, config.optimizer)
    if stage == "scrub":
        require_recogniser(config.names)
