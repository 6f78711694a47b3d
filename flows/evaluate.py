"""Evaluate: base and tuned model on the same questions, and a verdict."""

from typing import NamedTuple

from flows.train import Training
from pipeline_lib.config import PipelineConfig
from pipeline_lib.kinds import Dataset, Evaluation, Verdict
from tasks.evaluation import evaluate as evaluate_model
from tasks.evaluation import evaluate_base, gate
from tasks.wrap import flow


class Judgement(NamedTuple):
    """The scores of both models and what they amount to."""

    base: Evaluation
    tuned: Evaluation
    verdict: Verdict


@flow
def evaluate(config: PipelineConfig, dataset: Dataset, training: Training) -> Judgement:
    """The tuned model must beat the one it came from, beyond chance."""
    assert config.evaluate, "the pipeline ends before this where nothing is to be measured"
    base = evaluate_base(config.evaluate, dataset, training.base)
    tuned = evaluate_model(config.evaluate, dataset, training.model)
    verdict = gate(config.gate, base, tuned)
    return Judgement(base, tuned, verdict)
