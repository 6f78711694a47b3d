"""The training stages as tasks; a killed trainer is tried again and goes on from its checkpoint."""

from pipeline_lib.training import base_model as _base_model
from pipeline_lib.training import initialize as _initialize
from pipeline_lib.training import merge as _merge
from pipeline_lib.training import tokenize as _tokenize
from pipeline_lib.training import train as _train
from tasks.wrap import as_task

base_model = as_task(_base_model.base_model, retries=2, retry_delay_seconds=5, tags=("cpu",))
initialize = as_task(_initialize.initialize, tags=("cpu",))
tokenize = as_task(_tokenize.tokenize, tags=("cpu",))
train = as_task(_train.train, retries=2, retry_delay_seconds=2, tags=("gpu",))
merge = as_task(_merge.merge, retries=1, tags=("gpu",))
