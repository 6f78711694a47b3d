"""The evaluation stages as tasks; the base model and the tuned one are measured by the same stage."""

from pipeline_lib.evaluation import evaluate as _evaluate
from pipeline_lib.evaluation import gate as _gate
from tasks.wrap import as_task

evaluate_base = as_task(_evaluate.evaluate, name="evaluate_base", retries=1, tags=("gpu",))
evaluate = as_task(_evaluate.evaluate, retries=1, tags=("gpu",))
gate = as_task(_gate.gate, tags=("cpu",))
