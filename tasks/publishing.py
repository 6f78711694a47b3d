"""The publishing stages as tasks; a registry that does not answer is asked again."""

from pipeline_lib.publishing import register as _register
from pipeline_lib.publishing import report as _report
from tasks.wrap import as_task

report = as_task(_report.report, tags=("cpu",))
register = as_task(_register.register, retries=2, retry_delay_seconds=5, tags=("cpu",))
