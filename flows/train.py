"""Train: from conversations and a base model to a model of our own."""

from typing import NamedTuple

from pipeline_lib.config import PipelineConfig
from pipeline_lib.kinds import Dataset, Model, Profile, Tokens, Trained
from tasks.curation import profile
from tasks.training import base_model, initialize, merge, tokenize
from tasks.training import train as train_model
from tasks.wrap import flow


class Training(NamedTuple):
    """What training started from and what it left."""

    base: Model
    profile: Profile | None
    """The page on the data, which nothing but publishing waits for; None where it is left out."""
    tokens: Tokens
    trained: Trained
    model: Model | None
    """None where what was learnt cannot be merged, or is not to be."""


@flow
def train(config: PipelineConfig, curated: tuple[Dataset, ...]) -> Training:
    """The base model learns the assistant's turns; what it learnt is folded into it."""
    dataset = curated[-1]
    if config.base_model:
        base = base_model(config.base_model)
    else:
        assert config.initialize, "a config names one of the two"
        base = initialize(config.initialize, dataset)
    page = profile(config.profile, curated, base) if config.profile else None
    tokens = tokenize(config.tokenize, dataset, base)
    trained = train_model(config.train, tokens, base)
    model = merge(config.merge, trained, base) if config.merge else None
    return Training(base, page, tokens, trained, model)
