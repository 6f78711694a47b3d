"""A registration is one version and one complete run, whatever happened before."""

import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Mapping
from pathlib import Path

import pytest
from mlflow.entities import Run

from flows.export import card_of
from pipeline_lib.core.artifact import Artifact
from pipeline_lib.core.config import StageConfig
from pipeline_lib.core.errors import ConfigError, ServiceError
from pipeline_lib.core.fingerprint import digest_file
from pipeline_lib.core.manifest import InputRef, Manifest, Provenance
from pipeline_lib.core.output import Output
from pipeline_lib.core.provenance import shown_at
from pipeline_lib.core.stage import stage
from pipeline_lib.kinds import Adapter, Model, Profile
from pipeline_lib.publishing.connection import connected, registry_target
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
    assert run.data.metrics["tuned.speed.generate_tokens_per_second"] == 600.0
    assert run.data.metrics["tuned.speed.first_token_median_ms"] == 8.0
    assert run.data.metrics["difference.perplexity"] == pytest.approx(12.07 - 31.62)
    assert run.data.tags["train.digest"] == pipeline["adapter"].digest
    assert run.data.tags["evaluate.fingerprint"] == pipeline["tuned"].fingerprint
    assert run.data.tags["evaluate.2.fingerprint"] == pipeline["base"].fingerprint
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


def test_the_card_names_licences_data_and_why_conversations_were_dropped(by_value, pipeline):
    registration, _ = by_value
    with connected() as client:
        card = Path(client.download_artifacts(registration["run_id"], "model_card.md")).read_text()
    assert "Licence: unknown; of the base model: unknown; of the data: unknown" in card
    assert "read 40, dropped 4 (" in card
    assert "duplicate 1, too\\_short 2)" in card
    assert "read 36, dropped 0; train 20; validation 2; test 14" in card
    assert "<script>" not in card.replace("\\<", "")
    kept = card_of(pipeline["model"].path)
    assert kept is not None
    assert "Licence: unknown; of the base model: unknown" in kept.read_text()


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
from pipeline_lib.publishing import logged_model, register as module, registry, tracking
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
        pytest.param("tracking.log_file", marks=pytest.mark.slow),
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
        below = [run for run in runs if run.data.tags.get("mlflow.parentRunId")]
        deleted = client.search_runs([experiment.experiment_id], run_view_type=2)
        models = client.search_logged_models([experiment.experiment_id])
    assert [run.info.status for run in runs] == ["FINISHED"] * 3
    assert [run.info.run_id for run in runs if run not in below] == [registration["run_id"]]
    assert {run.data.tags["mlflow.parentRunId"] for run in below} == {registration["run_id"]}
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


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_an_adapter_logged_alone_answers_as_the_merged_model_does(registry, tmp_path):
    import mlflow
    import torch
    from mlflow.transformers import load_model
    from transformers import AutoModelForCausalLM

    from pipeline_lib.publishing.logged_model import log_weights
    from tests.publishing.tiny_llama import make_adapter, make_model, merge

    store = tmp_path / "made"
    base = make_model(store / "base_model" / "b")
    adapter = make_adapter(store / "train" / "t", base)
    model = merge(store / "merge" / "m", base, adapter)
    manifest = Manifest(
        stage="train",
        version=1,
        kind="Adapter",
        fingerprint="t",
        digest="t",
        code="",
        config={},
        inputs={"base": InputRef(address="base_model/b", digest="b")},
        files=[],
        stats={},
        provenance=Provenance(),
    )
    manifest.write(adapter)
    question = [{"role": "user", "content": "What is a list?"}]
    with connected() as client:
        run = client.create_run(experiment_id(client, "alone"))
        uri = log_weights(
            run.info.run_id, Model(model, "m", "m"), "A card.", question, Adapter(adapter, "t", "t")
        )
        held = Path(mlflow.artifacts.download_artifacts(uri))
        served = load_model(uri, return_type="components")["model"]
    assert not list(held.glob("model/*.safetensors"))
    ids = torch.arange(20)[None]
    with torch.inference_mode():
        merged = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)(ids).logits
        alone = served.float()(ids).logits
    assert torch.allclose(alone, merged, atol=0.3)
    assert (alone.argmax(-1) == merged.argmax(-1)).float().mean() > 0.9


def test_every_earlier_champion_can_come_back_however_long_the_history(two_versions):
    with connected() as client:
        for i in range(40):
            crown(client, "tiny", 2 - i % 2, "a reason of many words " * 30, "promote")
        client.set_registered_model_tag("tiny", "history", json.dumps(history(client, "tiny")[-1:]))
    assert rollback("tiny", 2, "it was better").aliases == ("champion",)
    with pytest.raises(ConfigError, match="version 2 is the champion"):
        rollback("tiny", 2, "again")


@pytest.mark.parametrize("kind", ["model", "prompt"])
def test_a_name_that_others_use_is_left_to_them(registry, pipeline, kind):
    import mlflow

    with connected() as client:
        experiment = experiment_id(client, BY_REFERENCE.experiment)
        if kind == "prompt":
            mlflow.genai.register_prompt("tiny", "Answer {{question}}")
        else:
            client.create_registered_model("tiny")
            others = mlflow.create_external_model("model", experiment_id=experiment)
            client.create_model_version("tiny", f"models:/{others.model_id}")
    with pytest.raises(ConfigError, match=f"a {kind}.*register.model_name"):
        registered(pipeline)
    with connected() as client:
        assert client.search_runs([experiment]) == []


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


def logged(artifacts: Mapping[str, Artifact]) -> tuple[Run, dict[str, Run]]:
    """Log a run from artifacts alone; return it and the runs below it by name."""
    with connected() as client:
        contents = contents_of(artifacts)
        run = client.get_run(log_run(client, contents, experiment="logged", name="a run", tags={}))
        below = client.search_runs([run.info.experiment_id], f"tags.mlflow.parentRunId = '{run.info.run_id}'")
    return run, {one.info.run_name: one for one in below}


@stage(produces=Profile, version=1)
def looked_at(out: Output, config: StageConfig) -> None:
    """A page on the data."""
    for name in ("profile.html", "profile.json"):
        (out.path / name).write_text("{}", encoding="utf-8")


def test_the_page_on_the_data_stands_beside_the_run(registry, pipeline):
    page = pipeline.store.materialize(looked_at.recipe(StageConfig())).artifact
    run, _ = logged({"profile": page, **pipeline.artifacts})
    with connected() as client:
        files = {one.path for one in client.list_artifacts(run.info.run_id)}
    assert files >= {"profile.html", "profile.json", "report.html"}


def test_a_run_logged_from_the_store_has_one_run_below_it_for_each_model_measured(registry, pipeline):
    uses = {"base": "evaluate_base", "tuned": "evaluate"}
    artifacts = {uses.get(name, name): artifact for name, artifact in pipeline.artifacts.items()}
    run, below = logged(artifacts | {"evaluate_champion": pipeline["base"]})
    assert run.info.status == "RUNNING"
    assert run.data.metrics["tuned.rougeL"] == 0.304
    assert run.data.metrics["base.rougeL"] == 0.112
    for made in artifacts.values():
        assert made.fingerprint in run.data.tags.values()
        assert made.digest in run.data.tags.values()
    assert set(below) == {"base", "tuned", "champion"}
    assert all(one.info.status == "FINISHED" for one in below.values())
    assert [below[name].data.metrics["rougeL"] for name in ("base", "tuned")] == [0.112, 0.304]
    assert below["tuned"].data.metrics["rougeL_low"] == pytest.approx(0.304 * 0.9)
    assert below["tuned"].data.tags["model.digest"] == pipeline["model"].digest
    assert [i.dataset.name for i in below["tuned"].inputs.dataset_inputs] == ["split.test"]


def test_a_run_leads_to_the_orchestrators_page_where_there_is_one(registry, pipeline):
    before = shown_at.set("http://prefect.example/runs/1")
    try:
        told, _ = logged({"ingest": pipeline["ingest"]})
    finally:
        shown_at.reset(before)
    silent, _ = logged({"ingest": pipeline["ingest"]})
    assert told.data.tags["prefect.run"] == "http://prefect.example/runs/1"
    assert "prefect.run" not in silent.data.tags


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
