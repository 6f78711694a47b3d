"""A process of one stage, whose artifacts are there: the registration of a small pipeline."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from pydantic import BaseModel

from flows.call import Call, open_store
from flows.run import run
from flows.screen import Screen
from pipeline_lib.publishing.register import RegisterConfig
from pipeline_lib.settings import settings
from tasks.publishing import register
from tasks.wrap import flow
from tests.publishing.small_pipeline import build_pipeline


class RegisteringConfig(BaseModel):
    """The process's config."""

    name: str = "registering"
    register_: RegisterConfig = RegisterConfig(model_name="tiny", max_logged_mb=0)


def main() -> None:
    """Build what is registered, say so, register it, and write what came of it."""
    inputs = build_pipeline(Path(settings().store)).registration_inputs()
    Path(sys.argv[1]).touch()

    @flow
    def registering(config: RegisteringConfig) -> None:
        """One version."""
        register(config.register_, *inputs)

    outcome = run(Call(registering, RegisteringConfig(), open_store()), Screen(lines=False))
    artifact = outcome.steps[-1].artifact
    assert artifact
    json.dump(artifact.read(), sys.stdout)


if __name__ == "__main__":
    main()
