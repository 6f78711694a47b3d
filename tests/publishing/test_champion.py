"""A model is held against the champion, once: what was judged stays judged, whoever is champion later."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pipeline_lib.core.config import StageConfig
from pipeline_lib.core.output import Output
from pipeline_lib.core.plan import Planner, running
from pipeline_lib.core.stage import stage
from pipeline_lib.evaluation import tables
from pipeline_lib.evaluation.gate import GateConfig, gate
from pipeline_lib.kinds import Evaluation, Model, Verdict
from pipeline_lib.publishing.champion import registered
from pipeline_lib.publishing.register import RegisterConfig, register
from pipeline_lib.publishing.registry import promote, versions
from pipeline_lib.publishing.report import ReportConfig, report
from pipeline_lib.settings import settings
from tasks.registry import champion_against
from tasks.wrap import as_task
from tests.flows.tiny import build
from tests.publishing.small_pipeline import EvaluateConfig, Pipeline, evaluate

NAME = "racing"


class Driven(StageConfig):
    loss: float
    note: str = ""
    """Changes the recipe and nothing else."""


@stage(produces=Model, version=1)
def trained(out: Output, config: Driven) -> None:
    """A model whose loss is known."""
    (out.path / "config.json").write_text(json.dumps({"loss": config.loss}))


@stage(produces=Evaluation, version=1)
def measured(out: Output, config: GateConfig, model: Model) -> None:
    """Answers to forty questions with the model's loss around its mean."""
    loss = json.loads((model.path / "config.json").read_text())["loss"]
    noise = np.random.default_rng(7).normal(0, 0.3, 40)
    rows = [
        {
            "id": f"{i:02d}",
            "source": "made",
            "prompt": "[]",
            "reference": "Yes, it is.",
            "answer": "Yes.",
            "stopped": True,
            "nll": float((loss + noise[i]) * 10),
            "tokens": 10,
            "answer_tokens": 2,
            "metadata": "{}",
        }
        for i in range(40)
    ]
    table = pa.Table.from_pylist(rows, tables.ANSWERS)
    tables.write(out.path, table, pa.Table.from_pylist([], tables.EXCLUDED))
    scores = {"scores": tables.scores(table), "slices": {}, "count": 40, "answered": 40}
    (out.path / "scores.json").write_text(json.dumps(scores))


base_task, train_task = as_task(trained, name="base_model"), as_task(trained)
measure_base, measure_tuned = as_task(measured, name="evaluate_base"), as_task(measured, name="evaluate")
measure_champion, judge = as_task(measured, name="evaluate_champion"), as_task(gate)
publish = as_task(register)


def process(pipeline: Pipeline, loss: float, note: str = "", **rules: Any) -> Callable[[], Verdict]:
    """Train, measure beside base and champion, judge, register."""
    asked = GateConfig(**rules)

    def run() -> Verdict:
        model = train_task(Driven(loss=loss, note=note))
        base = measure_base(GateConfig(), base_task(Driven(loss=9.0)))
        tuned = measure_tuned(GateConfig(), model)
        rival = champion_against(NAME, model)
        champion = measure_champion(GateConfig(), rival) if rival else None
        verdict = judge(asked, base, tuned, None, None, None, champion)
        shared = (pipeline["report"], (pipeline["split"],), None)
        config = RegisterConfig(model_name=NAME, experiment=NAME, max_logged_mb=0)
        publish(config, model, pipeline["adapter"], base, tuned, verdict, *shared, champion)
        return verdict

    return run


def due(pipeline: Pipeline, run: Callable[[], Any]) -> list[str]:
    planner = Planner(pipeline.store)
    with running(planner):
        run()
    return [step.name for step in planner.steps if step.status != "cached"]


def aliases() -> dict[int, tuple[str, ...]]:
    return {row.version: row.aliases for row in versions(NAME)}


def rule(artifacts: dict[str, Any]) -> dict[str, Any]:
    found = artifacts["gate"].read()["rules"]
    return next(one for one in found if one["rule"] == "holds_against_champion")


@pytest.mark.usefixtures("registry")
def test_a_judgement_stands_whoever_is_champion_later(pipeline: Pipeline) -> None:
    first, better, worse = (process(pipeline, loss) for loss in (3.0, 2.5, 2.8))
    made = build(pipeline.store, first)
    assert "evaluate_champion" not in made
    assert "no other champion" in rule(made)["reason"]
    assert due(pipeline, first) == []

    made = build(pipeline.store, better)
    assert rule(made)["passed"]
    assert rule(made)["value"] < 0
    assert made["gate"].read()["champion"]["perplexity"]["champion"] == pytest.approx(np.exp(3.0), rel=0.2)
    assert due(pipeline, better) == due(pipeline, first) == []

    made = build(pipeline.store, worse)
    assert not rule(made)["passed"]
    assert not made["gate"].read()["open"]
    assert aliases() == {1: (), 2: ("champion",), 3: ("candidate",)}
    promote(NAME, 3, "a person wants it")
    assert due(pipeline, first) == due(pipeline, better) == due(pipeline, worse) == []


@pytest.mark.slow
@pytest.mark.usefixtures("registry")
def test_the_champion_is_measured_once_for_all_that_challenge_it(pipeline: Pipeline) -> None:
    champion = build(pipeline.store, process(pipeline, 3.1))
    assert due(pipeline, process(pipeline, 3.05)) == ["trained", "evaluate", "gate", "register"]
    made = build(pipeline.store, process(pipeline, 3.05))
    assert made["evaluate_champion"].path == champion["evaluate"].path


@pytest.mark.slow
@pytest.mark.usefixtures("registry")
def test_a_model_that_comes_out_the_same_is_not_held_against_itself(pipeline: Pipeline) -> None:
    build(pipeline.store, process(pipeline, 3.2))
    again = build(pipeline.store, process(pipeline, 3.2, note="another recipe"))
    assert "evaluate_champion" not in again
    assert aliases() == {1: ("candidate", "champion")}


@pytest.mark.slow
@pytest.mark.usefixtures("registry")
def test_a_verdict_about_a_former_champion_promotes_nobody(pipeline: Pipeline) -> None:
    build(pipeline.store, process(pipeline, 3.3))
    process_of_late = process(pipeline, 3.25)
    late = build(pipeline.store, process_of_late, until="gate")
    assert late["gate"].read()["open"]
    build(pipeline.store, process(pipeline, 2.2))
    registration = register.recipe(
        RegisterConfig(model_name=NAME, experiment=NAME, max_logged_mb=0),
        late["trained"],
        pipeline["adapter"],
        late["evaluate_base"],
        late["evaluate"],
        late["gate"],
        pipeline["report"],
        (pipeline["split"],),
        None,
        late["evaluate_champion"],
    )
    pipeline.store.materialize(registration)
    assert aliases() == {1: (), 2: ("champion",), 3: ("candidate",)}
    assert due(pipeline, process_of_late) == ["gate", "register"]
    assert not rule(build(pipeline.store, process_of_late))["passed"]


@pytest.mark.slow
@pytest.mark.usefixtures("registry")
def test_without_the_rule_no_verdict_is_late(pipeline: Pipeline) -> None:
    build(pipeline.store, process(pipeline, 3.4))
    build(pipeline.store, process(pipeline, 3.5, champion_p_value=None))
    assert aliases() == {1: (), 2: ("candidate", "champion")}


@pytest.mark.usefixtures("registry")
def test_a_champion_that_the_store_has_lost_stops_the_run_before_anything_is_built(
    pipeline: Pipeline,
) -> None:
    champion = build(pipeline.store, process(pipeline, 3.6))["trained"]
    kept = champion.path.rename(champion.path.with_name("elsewhere"))
    measured_before = pipeline.store.place(measured.recipe(GateConfig(), champion))
    aside = measured_before.rename(measured_before.with_name("aside"))
    planner = Planner(pipeline.store)
    with running(planner):
        process(pipeline, 3.55)()
    errors = {step.name: str(step.error) for step in planner.steps if step.error}
    assert list(errors) == ["evaluate_champion"]
    assert champion.address in errors["evaluate_champion"]
    aside.rename(measured_before)
    assert "evaluate_champion" not in due(pipeline, process(pipeline, 3.55))
    kept.rename(champion.path)


@pytest.mark.usefixtures("registry")
def test_what_the_registry_said_is_known_without_mlflow_and_while_it_is_away(
    pipeline: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(pipeline.store, process(pipeline, 3.7))
    known = registered(NAME)
    assert [row.version for row in known] == [1]
    program = (
        "import sys; from pipeline_lib.publishing.champion import registered; "
        f"print(len(registered({NAME!r})), 'mlflow' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1", "False"]
    Path(settings().mlflow_tracking_uri.removeprefix("sqlite:///")).write_bytes(b"no database any more")
    assert registered(NAME) == known
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/none.db")
    settings.cache_clear()
    assert registered(NAME) == []


def test_the_champion_stands_in_the_same_table(pipeline: Pipeline) -> None:
    champion = pipeline.build(
        evaluate, EvaluateConfig(tuned=True, shift=0.5), pipeline["split"], pipeline["model"]
    )
    names = ("tokens", "adapter", "base", "tuned", "verdict")
    inputs = ((pipeline["split"],), *(pipeline[name] for name in names), None, None, champion)
    told = pipeline.build(report, ReportConfig(), *inputs)
    assert "| champion |" in told.file("report.md").read_text()
    assert ">Champion</th>" in told.file("report.html").read_text()
    assert "champion" not in pipeline["report"].file("report.md").read_text()
