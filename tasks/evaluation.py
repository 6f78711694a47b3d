"""The evaluation stages as tasks; the base model and the tuned one are measured by the same stage."""

from pipeline_lib.evaluation import audit as _audit
from pipeline_lib.evaluation import evaluate as _evaluate
from pipeline_lib.evaluation import gate as _gate
from pipeline_lib.evaluation import human as _human
from tasks.wrap import as_task

evaluate_base = as_task(_evaluate.evaluate, name="evaluate_base", retries=1, tags=("gpu",))
evaluate = as_task(_evaluate.evaluate, retries=1, tags=("gpu",))
evaluate_champion = as_task(_evaluate.evaluate, name="evaluate_champion", retries=1, tags=("gpu",))
audit = as_task(_audit.audit, retries=1, tags=("gpu",))
evaluate_general_base = as_task(_evaluate.evaluate, name="evaluate_general_base", retries=1, tags=("gpu",))
evaluate_general = as_task(_evaluate.evaluate, name="evaluate_general", retries=1, tags=("gpu",))
human = as_task(_human.human, tags=("cpu",))
gate = as_task(_gate.gate, tags=("cpu",))
