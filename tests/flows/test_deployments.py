"""What is deployed by Prefect's own command is what `finetune deploy` deploys."""

from __future__ import annotations

from pathlib import Path

import yaml

from pipeline_lib.config import PipelineConfig, load

ROOT = Path(__file__).resolve().parents[2]


def test_prefects_own_file_deploys_the_quickstart() -> None:
    given = yaml.safe_load((ROOT / "prefect.yaml").read_text())["definitions"]["config"]
    assert PipelineConfig.model_validate(given) == load(ROOT / "conf" / "quickstart.yaml")
