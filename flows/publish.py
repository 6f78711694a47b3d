"""Publish: a report to read and a version to serve."""

from flows.evaluate import Judgement
from flows.train import Training
from pipeline_lib.config import PipelineConfig
from pipeline_lib.kinds import Dataset, Registration
from tasks.publishing import register, report
from tasks.wrap import flow


@flow
def publish(
    config: PipelineConfig, curated: tuple[Dataset, ...], training: Training, judgement: Judgement
) -> Registration:
    """What was made and how good it is, written down and registered; champion only by the gate."""
    page = report(
        config.report,
        curated,
        training.tokens,
        training.trained,
        judgement.base,
        judgement.tuned,
        judgement.verdict,
        judgement.audit,
        judgement.ratings,
        judgement.champion,
    )
    assert training.model, "the pipeline ends before this where nothing was merged"
    return register(
        config.register_,
        training.model,
        training.trained,
        judgement.base,
        judgement.tuned,
        judgement.verdict,
        page,
        curated,
        judgement.audit,
        judgement.champion,
        training.profile,
    )
