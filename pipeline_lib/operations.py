"""When a pipeline runs by itself, and what it asks a person: none of it enters a fingerprint."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field

from pipeline_lib.core.config import StageConfig

FIELDS = 5


def _cron(text: str) -> str:
    if len(text.split()) != FIELDS:
        raise ValueError("write a cron schedule in five fields, e.g. '0 2 * * *' for every night at two")
    return text


Cron = Annotated[str, AfterValidator(_cron)]


class OperationsConfig(StageConfig):
    """Schedules (cron), what scheduled pruning keeps, and whether a person agrees before promotion."""

    timezone: str = Field(
        default="UTC", min_length=1, description="Time zone in which the schedules are read."
    )
    run: Cron | None = Field(
        default=None, description="Cron schedule of the whole pipeline; none has no schedule."
    )
    reevaluate: Cron | None = Field(
        default=None, description="Cron schedule on which the champion is measured again on fresh data."
    )
    drift: Cron | None = Field(
        default=None, description="Cron schedule on which the data are compared with those of the last run."
    )
    prune: Cron | None = Field(
        default=None, description="Cron schedule on which what nothing refers to is removed from the store."
    )
    approve: bool = Field(
        default=False, description="Whether a run with an open gate waits for a person before it registers."
    )
    approve_hours: float = Field(
        default=72, gt=0, le=720, description="Hours that a run waits for a person; then it fails."
    )
    keep_runs: int = Field(
        default=20, ge=1, description="Runs of each pipeline that scheduled pruning leaves referred to."
    )
