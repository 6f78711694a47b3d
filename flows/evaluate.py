"""Evaluate: base and tuned model on the same questions, what the tuned one gives away, and a verdict."""

from typing import NamedTuple

from flows.train import Training
from pipeline_lib.config import PipelineConfig
from pipeline_lib.kinds import Audit, Dataset, Evaluation, Model, Ratings, Verdict
from tasks.curation import format_general, ingest_general
from tasks.evaluation import audit as audit_model
from tasks.evaluation import evaluate as evaluate_model
from tasks.evaluation import (
    evaluate_base,
    evaluate_champion,
    evaluate_general,
    evaluate_general_base,
    gate,
)
from tasks.evaluation import human as ask_people
from tasks.registry import champion_against
from tasks.wrap import flow


class Judgement(NamedTuple):
    """The scores of both models, what was found in the answers, and what it all amounts to."""

    base: Evaluation
    tuned: Evaluation
    champion: Evaluation | None
    """None where no other model is champion."""
    audit: Audit | None
    ratings: Ratings | None
    verdict: Verdict


@flow
def evaluate(config: PipelineConfig, dataset: Dataset, training: Training) -> Judgement:
    """The tuned model must beat the one it came from, not lose to the champion, and keep what it knew."""
    assert config.evaluate, "the pipeline ends before this where nothing is to be measured"
    assert training.model, "the pipeline ends before this where nothing was merged"
    base = evaluate_base(config.evaluate.of("base"), dataset, training.base)
    tuned = evaluate_model(config.evaluate.of("model"), dataset, training.model)
    rival = _champion(config, training.model)
    champion = evaluate_champion(config.evaluate.of("champion"), dataset, rival) if rival else None
    audit = audit_model(config.audit, dataset, training.model, tuned) if config.audit else None
    ratings = ask_people(config.human, base, tuned) if config.human else None
    before, after = None, None
    if config.general:
        general = format_general(config.format, ingest_general(config.general))
        before = evaluate_general_base(config.evaluate.of("base"), general, training.base)
        after = evaluate_general(config.evaluate.of("model"), general, training.model)
    verdict = gate(config.gate, base, tuned, audit, before, after, champion)
    return Judgement(base, tuned, champion, audit, ratings, verdict)


def _champion(config: PipelineConfig, model: Model) -> Model | None:
    asked = config.gate.champion_p_value is not None and evaluate_champion.foreseen
    return champion_against(config.register_.model_name, model) if asked else None
