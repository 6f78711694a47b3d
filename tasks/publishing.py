"""The publishing stages as tasks; a registry that is away is asked again for over four minutes."""

from pipeline_lib.publishing import register as _register
from pipeline_lib.publishing import report as _report
from tasks.wrap import as_task

report = as_task(_report.report, tags=("cpu",))
register = as_task(
    _register.register, retries=8, retry_delay_seconds=(2, 5, 10, 20, 40, 60, 60, 60), tags=("cpu",)
)
