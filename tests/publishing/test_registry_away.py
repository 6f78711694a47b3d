"""A registry that is away costs a registration, not what was built and judged; it comes later."""

import sys

import pytest

from pipeline_lib.core.errors import ServiceError
from pipeline_lib.publishing.connection import connected
from pipeline_lib.publishing.register import RegisterConfig, register
from pipeline_lib.publishing.registry import rollback, versions
from pipeline_lib.settings import settings
from tests.publishing.small_pipeline import Pipeline, build_pipeline
from tests.services.servers import answers, environment, free_port, process, wait_for

pytestmark = pytest.mark.slow


@pytest.fixture
def server(tmp_path, monkeypatch):
    """Yield how to start the MLflow server that the settings name, which is away until then."""
    port = free_port()
    monkeypatch.setenv("FINETUNE_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
    settings.cache_clear()
    command = [sys.executable, "-m", "mlflow", "server", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{tmp_path / 'server.db'}"]
    command += ["--artifacts-destination", str(tmp_path / "server-artifacts")]

    def start():
        running = process(command, environment(tmp_path), tmp_path / "server.log")
        running.__enter__()
        started.append(running)
        wait_for(lambda: answers(f"http://127.0.0.1:{port}/health"), said="MLflow's server")

    started = []
    yield start
    for running in started:
        running.__exit__(None, None, None)
    settings.cache_clear()


def registration(pipeline: Pipeline, **config: object) -> dict:
    recipe = register.recipe(RegisterConfig(model_name="tiny", **config), *pipeline.registration_inputs())
    return pipeline.store.materialize(recipe).artifact.read()


def test_what_was_judged_while_the_registry_was_away_is_registered_when_it_is_back(
    server, pipeline, tmp_path
):
    with pytest.raises(ServiceError, match=r"does not answer \(ConnectionError\).*`finetune publish CONFIG`"):
        registration(pipeline)
    server()
    assert registration(pipeline)["aliases"] == ["candidate", "champion"]
    other = build_pipeline(tmp_path / "other", shift=0.5)
    assert registration(other, max_logged_mb=0)["version"] == 2
    assert rollback("tiny", None, "the first was better").version == 1
    assert [row.stored for row in versions("tiny")] == ["reference", "weights"]
    with connected() as client:
        uri = client.get_model_version_download_uri("tiny", "1")
    assert uri
