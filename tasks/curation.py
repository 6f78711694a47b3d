"""The curation stages as tasks."""

from pipeline_lib.curation import augment as _augment
from pipeline_lib.curation import decontaminate as _decontaminate
from pipeline_lib.curation import deduplicate as _deduplicate
from pipeline_lib.curation import drift as _drift
from pipeline_lib.curation import embed as _embed
from pipeline_lib.curation import filter as _filter
from pipeline_lib.curation import format as _format
from pipeline_lib.curation import ingest as _ingest
from pipeline_lib.curation import normalize as _normalize
from pipeline_lib.curation import profile as _profile
from pipeline_lib.curation import score as _score
from pipeline_lib.curation import scrub as _scrub
from pipeline_lib.curation import split as _split
from pipeline_lib.training import base_model as _base_model
from tasks.wrap import as_task

ingest_general = as_task(
    _ingest.ingest, name="ingest_general", retries=2, retry_delay_seconds=5, tags=("cpu",)
)
format_general = as_task(_format.format, name="format_general", tags=("cpu",))
ingest = as_task(_ingest.ingest, retries=2, retry_delay_seconds=5, tags=("cpu",))
normalize = as_task(_normalize.normalize, tags=("cpu",))
scrub = as_task(_scrub.scrub, tags=("cpu",))
augment = as_task(_augment.augment, retries=2, retry_delay_seconds=30, tags=("cpu",))
normalize_augmented = as_task(_normalize.normalize, name="normalize_augmented", tags=("cpu",))
scrub_augmented = as_task(_scrub.scrub, name="scrub_augmented", tags=("cpu",))
scorer = as_task(_base_model.base_model, name="scorer", retries=2, retry_delay_seconds=5, tags=("cpu",))
score = as_task(_score.score, tags=("gpu",))
embedder = as_task(_base_model.base_model, name="embedder", retries=2, retry_delay_seconds=5, tags=("cpu",))
embed = as_task(_embed.embed, tags=("gpu",))
tokenizer = as_task(_base_model.base_model, name="tokenizer", retries=2, retry_delay_seconds=5, tags=("cpu",))
deduplicate = as_task(_deduplicate.deduplicate, tags=("cpu",))
filter_quality = as_task(_filter.filter, tags=("cpu",))
decontaminate = as_task(_decontaminate.decontaminate, tags=("cpu",))
format_messages = as_task(_format.format, tags=("cpu",))
split = as_task(_split.split, tags=("cpu",))
profile = as_task(_profile.profile, tags=("cpu",))
drift = as_task(_drift.drift, tags=("cpu",))
