"""A registration is one version and one complete run, whatever happened before."""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from pipeline_lib.core.errors import ConfigError, ServiceError
from pipeline_lib.core.fingerprint import digest_file
from pipeline_lib.publishing.connection import connected, registry_target, without_credentials
from pipeline_lib.publishing.register import RegisterConfig, register
from pipeline_lib.publishing.registry import crown, history, promote, rollback, versions
from pipeline_lib.publishing.tracking import contents_of, experiment_id, flatten, log_run
from pipeline_lib.settings import settings
from tests.publishing.small_pipeline import Pipeline, build_pipeline, registry_at

BY_REFERENCE = RegisterConfig(model_name="tiny", max_logged_mb=0)


def registered(pipeline: Pipeline, config: RegisterConfig = BY_REFERENCE, *, force: bool = False) -> dict:
    recipe = register.recipe(config, *pipeline.registration_inputs())
    return pipeline.store.materialize(recipe, force=force).artifact.read()


@pytest.fixture(scope="module")
def with_weights(pipeline, tmp_path_factory):
    """A registration with weights, and the database that it is in."""
    database = tmp_path_factory.mktemp("home") / "mlflow.db"
    with registry_at(database, pytest.MonkeyPatch()):
        return registered(pipeline, RegisterConfig(model_name="weights")), database


@pytest.fixture
def by_value(with_weights, own_home, monkeypatch):
    """The same, with the settings pointing there during the test."""
    with registry_at(with_weights[1], monkeypatch):
        yield with_weights


def test_the_registered_model_answers_in_a_fresh_process(by_value, pipeline):
    registration, database = by_value
    program = textwrap.dedent(
        f"""
        import json, mlflow, torch
        uri = "models:/{registration["name"]}@champion"
        question = {{"messages": [{{"role": "user", "content": "What is a list?"}}], "max_tokens": 8}}
        answers = mlflow.pyfunc.load_model(uri).predict(question)
        served = mlflow.transformers.load_model(uri)
        told = served([{{"role": "user", "content": "What is a list?"}}], max_new_tokens=8)
        from transformers import AutoModelForCausalLM
        own = AutoModelForCausalLM.from_pretrained({str(pipeline["model"].path)!r}, dtype="auto").state_dict()
        same = all(torch.equal(own[name], value) for name, value in served.model.state_dict().items())
        role, tokens = answers[0]["choices"][0]["message"]["role"], answers[0]["usage"]["completion_tokens"]
        print(json.dumps([role, tokens, bool(told), same]))
        """
    )
    environment = {**os.environ, "MLFLOW_TRACKING_URI": f"sqlite:///{database}", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    role, tokens, told, same = json.loads(done.stdout.splitlines()[-1])
    assert role == "assistant"
    assert 1 <= tokens <= 8
    assert told
    assert same


def test_the_logged_model_has_signature_example_and_requirements(by_value):
    import mlflow

    registration, _ = by_value
    with connected():
        info = mlflow.models.get_model_info(f"models:/{registration['name']}/{registration['version']}")
    assert "messages" in info.signature.inputs.input_names()
    assert info.saved_input_example_info
    assert info.flavors["transformers"]["inference_task"] == "llm/v1/chat"


def test_a_run_shows_parameters_curves_data_scores_and_files(by_value, pipeline):
    registration, _ = by_value
    with connected() as client:
        run = client.get_run(registration["run_id"])
        loss = client.get_metric_history(registration["run_id"], "train.loss")
        files = {file.path for file in client.list_artifacts(registration["run_id"])}
        answers = json.loads(
            Path(client.download_artifacts(registration["run_id"], "sample_answers.json")).read_text()
        )
    assert run.info.status == "FINISHED"
    assert run.data.params["train.learning_rate"] == "0.0002"
    assert run.data.params["train.lora.rank"] == "16"
    assert [point.step for point in loss] == list(range(1, 1201))
    assert run.data.metrics["eval.loss"] == pytest.approx(4.2 / 1200**0.2)
    assert run.data.metrics["tuned.perplexity"] == 12.07
    assert run.data.metrics["base.perplexity"] == 31.62
    assert run.data.metrics["base.perplexity_low"] == pytest.approx(31.62 * 0.9)
    assert run.data.metrics["difference.perplexity"] == pytest.approx(12.07 - 31.62)
    assert run.data.tags["digest.train"] == pipeline["adapter"].digest
    assert run.data.tags["fingerprint.evaluate"] == pipeline["tuned"].fingerprint
    assert run.data.tags["fingerprint.evaluate.2"] == pipeline["base"].fingerprint
    assert run.data.tags["method"] == "lora"
    assert {
        "report.html",
        "report.md",
        "scores.json",
        "verdict.json",
        "model_card.md",
        "sample_answers.json",
    } <= files
    assert len(answers["data"]) == 12
    inputs = {
        i.dataset.name: ({t.key: t.value for t in i.tags}, i.dataset.digest)
        for i in run.inputs.dataset_inputs
    }
    assert set(inputs) == {"split.train", "split.validation", "split.test"}
    assert inputs["split.train"][0]["digest"] == pipeline["split"].digest
    assert inputs["split.train"][1] == pipeline["split"].digest[:36]


def test_registering_says_nothing_on_the_terminal(registry, pipeline, capfd):
    registered(pipeline)
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")


def test_an_open_gate_makes_a_champion_and_a_closed_one_a_candidate(registry, pipeline, tmp_path):
    assert registered(pipeline)["aliases"] == ["candidate", "champion"]
    closed = build_pipeline(tmp_path / "store", opens=False)
    assert registered(closed)["aliases"] == ["candidate"]
    newest, oldest = versions("tiny")
    assert (newest.version, newest.aliases, newest.verdict) == (2, ("candidate",), "closed")
    assert (oldest.version, oldest.aliases, oldest.verdict) == (1, ("champion",), "open")


def test_a_large_model_is_registered_by_reference_to_the_store(registry, pipeline):
    registered(pipeline)
    (row,) = versions("tiny")
    assert (row.stored, row.path, row.digest) == (
        "reference",
        str(pipeline["model"].path),
        pipeline["model"].digest,
    )


def test_the_second_run_registers_nothing(registry, pipeline):
    recipe = register.recipe(
        RegisterConfig(model_name="again", max_logged_mb=0), *pipeline.registration_inputs()
    )
    assert pipeline.store.materialize(recipe).built
    assert not pipeline.store.materialize(
        register.recipe(recipe.config, *pipeline.registration_inputs())
    ).built


def test_a_forced_registration_reuses_the_version_and_leaves_the_champion_alone(registry, pipeline, tmp_path):
    first = registered(pipeline)
    second = registered(build_pipeline(tmp_path / "store", shift=0.5))
    assert second["version"] == 2
    again = registered(pipeline, force=True)
    assert (again["version"], again["run_id"]) == (first["version"], first["run_id"])
    assert again["aliases"] == []
    assert len(versions("tiny")) == 2


KILLED = """
import os, signal, sys
sys.path.insert(0, {root!r})
from tests.publishing.small_pipeline import build_pipeline
from pathlib import Path
from pipeline_lib.publishing import logged_model, register as module, registry
def die(*args, **kwargs):
    os.kill(os.getpid(), signal.SIGKILL)
{where} = die
pipeline = build_pipeline(Path({store!r}))
config = module.RegisterConfig(model_name="tiny", max_logged_mb=0)
pipeline.store.materialize(module.register.recipe(config, *pipeline.registration_inputs()))
"""


@pytest.mark.parametrize(
    "where",
    [
        "logged_model.log_reference",
        pytest.param("module._require_name", marks=pytest.mark.slow),
        pytest.param("registry.crown", marks=pytest.mark.slow),
    ],
)
def test_a_killed_registration_leaves_one_version_and_one_run_after_the_next_try(registry, pipeline, where):
    root = Path(__file__).resolve().parents[2]
    program = KILLED.format(root=str(root), where=where, store=str(pipeline.store.root))
    environment = {**os.environ, "PYTHONPATH": str(root), "FINETUNE_STORE": settings().store}
    recipe = register.recipe(BY_REFERENCE, *pipeline.registration_inputs())
    place = pipeline.store.place(recipe)
    if place.exists():
        place.rename(registry.parent / "earlier")
    died = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False
    )
    assert died.returncode == -9, died.stderr[-2000:]
    assert not place.exists()
    registration = registered(pipeline)
    assert registration["aliases"] == ["candidate", "champion"]
    with connected() as client:
        experiment = client.get_experiment_by_name(registration["experiment"])
        runs = client.search_runs([experiment.experiment_id])
        deleted = client.search_runs([experiment.experiment_id], run_view_type=2)
        models = client.search_logged_models([experiment.experiment_id])
    assert [(run.info.run_id, run.info.status) for run in runs] == [(registration["run_id"], "FINISHED")]
    assert all(run.info.status == "KILLED" for run in deleted)
    assert len(versions("tiny")) == len(models) == 1


def test_a_champion_can_be_rolled_back_and_the_reasons_stay(registry, pipeline, tmp_path):
    for i in range(3):
        registered(build_pipeline(tmp_path / f"store{i}", shift=float(i)) if i else pipeline)
    assert versions("tiny")[0].former_champion == 2
    assert rollback("tiny", None, "answers in French").version == 2
    assert rollback("tiny", None, "still French").version == 1
    with pytest.raises(ConfigError, match="first champion"):
        rollback("tiny", None, "nowhere to go")
    assert promote("tiny", 3, "it was the prompt").aliases == ("candidate", "champion")
    assert rollback("tiny", 2, "no it was not").aliases == ("champion",)
    with connected() as client:
        told = [(entry["action"], entry["version"], entry["reason"]) for entry in history(client, "tiny")]
    assert told[3:] == [
        ("rollback", 2, "answers in French"),
        ("rollback", 1, "still French"),
        ("promote", 3, "it was the prompt"),
        ("rollback", 2, "no it was not"),
    ]
    assert versions("tiny")[0].reason == "replaced by version 2: no it was not"


@pytest.fixture
def two_versions(registry):
    """Put a model with two versions, the first of them champion, into the registry."""
    import mlflow

    with connected() as client:
        client.create_registered_model("tiny")
        for _ in range(2):
            model = mlflow.create_external_model("model", experiment_id=experiment_id(client, "by hand"))
            client.create_model_version("tiny", f"models:/{model.model_id}")
    promote("tiny", 1, "the first")


def test_the_history_is_bounded_by_what_a_tag_can_hold(two_versions):
    with connected() as client:
        for i in range(20):
            crown(client, "tiny", 2 - i % 2, "a reason of many words " * 30, "promote")
        told = history(client, "tiny")
    assert told[-1]["version"] == 1
    assert 10 < len(told) < 20


def test_a_version_that_never_was_champion_needs_a_promotion(two_versions):
    with pytest.raises(ConfigError, match="never was champion"):
        rollback("tiny", 2, "why not")


@pytest.mark.parametrize(("name", "version"), [("nobody", 1), ("tiny", 7)])
def test_an_unknown_name_or_version_is_named_with_what_there_is(two_versions, name, version):
    with pytest.raises(ConfigError, match="tiny"):
        promote(name, version, "a slip")


def test_a_registry_that_does_not_answer_is_one_line(pipeline, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://someone:secret@127.0.0.1:9")
    settings.cache_clear()
    with pytest.raises(ServiceError) as failure:
        registered(pipeline)
    settings.cache_clear()
    assert "\n" not in str(failure.value)
    assert "http://127.0.0.1:9" in str(failure.value)


def test_the_target_holds_no_password_and_marks_a_database_that_is_gone(registry):
    assert registry_target(BY_REFERENCE) == f"sqlite:///{registry}"
    digest_before = digest_file(registry)
    registry.rename(registry.with_suffix(".away"))
    assert registry_target(BY_REFERENCE) == f"sqlite:///{registry} (absent)"
    assert digest_file(registry.with_suffix(".away")) == digest_before
    assert without_credentials("https://me:secret@mlflow.example:5000/x") == "https://mlflow.example:5000/x"


def test_a_run_can_be_logged_from_the_artifacts_alone(registry, pipeline):
    with connected() as client:
        run_id = log_run(
            client, contents_of(pipeline.artifacts), experiment="logged", name="a run", tags={"kind": "run"}
        )
        run = client.get_run(run_id)
    assert run.data.metrics["tuned.rougeL"] == 0.304
    assert run.data.metrics["base.rougeL"] == 0.112
    assert run.info.status == "RUNNING"


def test_a_nested_config_becomes_dotted_parameters():
    config = {
        "rate": 0.1,
        "lora": {"rank": 8, "modules": ["q", "v"]},
        "name": "x",
        "nothing": None,
        "empty": {},
    }
    assert dict(flatten(config, "train")) == {
        "train.rate": "0.1",
        "train.lora.rank": "8",
        "train.lora.modules": '["q", "v"]',
        "train.name": "x",
        "train.nothing": "null",
        "train.empty": "{}",
    }


def test_planning_imports_no_heavy_library():
    heavy = ["mlflow", "torch", "transformers", "numpy", "pyarrow", "jinja2", "pandas"]
    program = (
        "import sys; import pipeline_lib.publishing.register, pipeline_lib.publishing.report; "
        "from pipeline_lib.publishing.register import *; registry_target(RegisterConfig()); "
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=root, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
