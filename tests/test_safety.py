"""What docs/security.md says that is checked nowhere nearer: pickles, paths, and secrets."""

from __future__ import annotations

import ast
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from flows import doctor
from flows.dispatch import Order
from flows.servers import LOOPBACK, servers
from pipeline_lib.config import load
from pipeline_lib.core.errors import ConfigError, DataError
from pipeline_lib.core.store import Store
from pipeline_lib.settings import settings
from pipeline_lib.training.base_model import BaseModelConfig, base_model
from tests.flows.tiny import TinyConfig, build, tiny

ROOT = Path(__file__).resolve().parents[1]
SOURCES = [path for room in ("pipeline_lib", "tasks", "flows") for path in (ROOT / room).rglob("*.py")]
SECRET = "hunter2-b7Qz"
CONFIG = "name: {name}\nbase_model: bundled/pydocs-5m\ningest: {{sources: [{{path: '{path}'}}]}}\n"


def test_a_model_that_is_only_a_pickle_is_refused_and_not_copied(tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text(json.dumps({"model_type": "llama"}))
    (model / "pytorch_model.bin").write_bytes(pickle.dumps({"weight": 1}))
    store = Store(tmp_path / "store")
    with pytest.raises(DataError, match="no weights as safetensors"):
        store.materialize(base_model.recipe(BaseModelConfig(source=str(model))))
    assert not list(store.root.rglob("*.bin"))


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_reads_a_pickle(path: Path) -> None:
    tree = ast.parse(path.read_text())
    imported = {
        name.split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in (
            [node.module or ""] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names]
        )
    }
    assert imported.isdisjoint({"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"})
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        given = {word.arg: ast.unparse(word.value) for word in call.keywords}
        assert given.get("allow_pickle", "False") == "False"
        if ast.unparse(call.func) == "torch.load":
            assert given.get("weights_only") == "True"


@pytest.mark.parametrize("name", ["../outside", "a/b", "/etc", ".hidden", "..", "a\nb"])
def test_a_pipelines_name_cannot_lead_out_of_the_store(name: str, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(CONFIG.format(name=json.dumps(name), path="data.jsonl"))
    with pytest.raises(ConfigError, match="name: "):
        load(tmp_path / "c.yaml")


@pytest.mark.parametrize("address", ["../../etc/passwd", "ingest/../../x", f"../{'0' * 64}", "/etc"])
def test_an_order_cannot_name_a_place_outside_the_store(address: str) -> None:
    given: dict[str, Any] = {"name": "halve", "stage": "tests.flows.tiny:halve", "config": {}}
    with pytest.raises(ValidationError):
        Order(**given, inputs={"numbers": address}, fingerprint="0" * 64)


@pytest.mark.parametrize(
    "url",
    [
        f"https://user:{SECRET}@host/data.jsonl",
        f"https://{SECRET}@host/data.jsonl",
        f"https://host/data.jsonl?token={SECRET}",
        f"s3://bucket/data.jsonl?X-Amz-Signature={SECRET}",
    ],
)
def test_a_secret_in_a_url_is_refused_and_not_repeated(url: str, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(CONFIG.format(name="words", path=url))
    with pytest.raises(ConfigError, match="a secret in a URL") as caught:
        load(tmp_path / "c.yaml")
    assert SECRET not in str(caught.value)


def test_an_address_without_a_secret_is_taken(tmp_path: Path) -> None:
    for path in (
        "s3://bucket/data.jsonl?versionId=3",
        "data/me@home/key=1/*.jsonl",
        "https://host/@me/d.csv",
    ):
        (tmp_path / "c.yaml").write_text(CONFIG.format(name="words", path=path))
        assert load(tmp_path / "c.yaml").ingest.sources[0].path == path


def test_what_a_run_leaves_in_the_store_holds_no_secret_of_its_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "MLFLOW_TRACKING_PASSWORD", "PREFECT_API_AUTH_STRING"):
        monkeypatch.setenv(name, SECRET)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"https://someone:{SECRET}@mlflow")
    settings.cache_clear()
    build(Store(tmp_path / "store"), lambda: tiny(TinyConfig()))
    files = [path for path in (tmp_path / "store").rglob("*") if path.is_file()]
    assert files
    assert not [path for path in files if SECRET.encode() in path.read_bytes()]


@pytest.mark.slow
def test_the_doctor_shows_addresses_without_their_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://someone:{SECRET}@127.0.0.1:9")
    monkeypatch.setenv("PREFECT_API_URL", f"http://127.0.0.1:9/api?token={SECRET}")
    monkeypatch.setenv("FINETUNE_STORE", f"memory://someone:{SECRET}@bucket/store")
    settings.cache_clear()
    told = "\n".join(doctor.lines_of(doctor.examine()))
    assert "127.0.0.1:9" in told
    assert SECRET not in told


def test_servers_that_are_started_here_listen_on_loopback_alone() -> None:
    for server in servers(4200, 5000):
        assert server.command[server.command.index("--host") + 1] == LOOPBACK
