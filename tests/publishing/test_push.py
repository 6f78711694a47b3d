"""An export goes to a hub as it stands, with its card; the token goes to the hub and nowhere else."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from pipeline_lib.core.errors import ConfigError, ServiceError
from pipeline_lib.publishing.export.hub import check_push, push
from tests import loopback

TOKEN = "hf_a-token-of-this-test"
COMMIT = "c" * 40


@dataclass
class Hub:
    """What the hub was asked for, by whom, and the files that it holds."""

    made: list[dict[str, Any]] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)
    tokens: set[str | None] = field(default_factory=set)
    refuses: bool = False


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub on this machine that takes every file with the commit, as hubs do with small ones."""
    state = Hub()

    class Handler(loopback.JsonHandler):
        def do_POST(self) -> None:  # noqa: N802 - the name that http.server calls
            body = self.rfile.read(int(self.headers["Content-Length"] or 0)).decode()
            state.tokens.add(self.headers["Authorization"])
            if state.refuses:
                self.send(403, {"error": "Forbidden: this token may only read"})
            elif self.path == "/api/repos/create":
                state.made.append(json.loads(body))
                self.send(200, {"url": f"http://{self.headers['Host']}/team/words"})
            elif self.path == "/api/validate-yaml":
                self.send(200, {"errors": [], "warnings": []})
            elif self.path == "/api/models/team/words/preupload/main":
                asked = json.loads(body)["files"]
                regular = [
                    {"path": one["path"], "uploadMode": "regular", "shouldIgnore": False} for one in asked
                ]
                self.send(200, {"files": regular})
            elif self.path == "/api/models/team/words/commit/main":
                for line in map(json.loads, body.splitlines()):
                    if line["key"] == "file":
                        value = line["value"]
                        state.files[value["path"]] = base64.b64decode(value["content"])
                address = f"http://{self.headers['Host']}/team/words/commit/{COMMIT}"
                self.send(200, {"success": True, "commitOid": COMMIT, "commitUrl": address})
            else:
                self.send(404, {"error": f"no {self.path}"})

    with loopback.serving(Handler) as address:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", address)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield state


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    directory = tmp_path / "safetensors"
    (directory / "adapter").mkdir(parents=True)
    (directory / "model.safetensors").write_bytes(bytes(range(256)))
    (directory / "adapter" / "adapter_config.json").write_text("{}")
    (tmp_path / "model_card.md").write_text("# A model")
    return directory


def test_a_push_brings_every_file_and_the_card_to_a_private_repository(hub: Hub, exported: Path) -> None:
    where = push(exported, "team/words", exported.parent / "model_card.md")
    assert where.endswith(f"/team/words/commit/{COMMIT}")
    assert hub.files == {
        "README.md": b"# A model",
        "adapter/adapter_config.json": b"{}",
        "model.safetensors": bytes(range(256)),
    }
    (made,) = hub.made
    assert made == {"organization": "team", "name": "words", "visibility": "private"}
    assert hub.tokens == {f"Bearer {TOKEN}"}


def test_a_repository_is_public_where_that_is_asked_for(hub: Hub, exported: Path) -> None:
    push(exported, "team/words", public=True)
    assert hub.made[0]["visibility"] == "public"
    assert "README.md" not in hub.files


@pytest.mark.parametrize(
    ("repository", "token", "said"),
    [
        ("team/words", "", "--push team/words: there is no token; set HF_TOKEN"),
        ("a/b/c", TOKEN, "--push a/b/c: "),
    ],
)
def test_a_push_that_could_not_begin_is_refused_before_the_export(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, repository: str, token: str, said: str
) -> None:
    monkeypatch.setenv("HF_TOKEN", token)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "none"))
    with pytest.raises(ConfigError, match=said) as caught:
        check_push(repository)
    assert "\n" not in str(caught.value)


def test_a_hub_that_refuses_is_told_of_in_one_line_without_the_token(hub: Hub, exported: Path) -> None:
    hub.refuses = True
    with pytest.raises(ServiceError, match="403 Forbidden") as caught:
        push(exported, "team/words")
    assert TOKEN not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_hub_that_is_away_leaves_the_export(
    hub: Hub, exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ServiceError, match="hf upload team/words"):
        push(exported, "team/words")
    assert (exported / "model.safetensors").exists()
