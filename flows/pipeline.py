"""The whole process, from raw text to a registered model."""

from flows.curate import curate
from flows.evaluate import evaluate
from flows.publish import publish
from flows.train import train
from pipeline_lib.config import PipelineConfig
from tasks.wrap import flow


@flow
def pipeline(config: PipelineConfig) -> None:
    """Raw text in, a proven and registered model out."""
    curated = curate(config)
    training = train(config, curated)
    if config.evaluate is None:
        return
    judgement = evaluate(config, curated[-1], training)
    publish(config, curated, training, judgement)
