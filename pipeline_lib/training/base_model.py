"""Base model: what training starts from, brought into the store by content.

A name is, in this order: ``bundled/NAME`` (comes with the project), a local directory, a hub id.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from pipeline_lib.core.config import StageConfig
from pipeline_lib.core.errors import DataError, ServiceError, first_line
from pipeline_lib.core.output import Output
from pipeline_lib.core.stage import stage
from pipeline_lib.kinds import Model
from pipeline_lib.settings import file_digests

BUNDLED = Path(__file__).resolve().parents[1] / "bundled"
COMMIT = re.compile(r"[0-9a-f]{40}")
WANTED = ("*.json", "*.safetensors", "*.model", "*.jinja", "*.txt")


class BaseModelConfig(StageConfig):
    """Which base model, and at which revision."""

    source: str = Field(
        description="`bundled/NAME`, a local directory, or a hub id such as `Qwen/Qwen2.5-0.5B`."
    )
    revision: str = Field(
        default="main", description="Commit, tag or branch of a hub model; a commit pins it."
    )

    trust_remote_code: bool = Field(
        default=False,
        description="Run the modelling code that comes with the model; from a hub only of a pinned commit.",
    )

    @model_validator(mode="after")
    def _trusts_what_it_knows(self) -> BaseModelConfig:
        named = self.source.startswith("bundled/") or Path(self.source).expanduser().is_dir()
        if self.trust_remote_code and not named and not COMMIT.fullmatch(self.revision):
            raise ValueError(
                "trust_remote_code runs code from the hub: pin base_model.revision to the one you have read"
            )
        return self

    @property
    def wanted(self) -> tuple[str, ...]:
        """Patterns of the files that make the model; code is among them only where it is trusted."""
        return (*WANTED, "*.py") if self.trust_remote_code else WANTED

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, value: Any) -> Any:
        return {"source": value} if isinstance(value, str) else value


def local_directory(config: BaseModelConfig) -> Path | None:
    """Return a bundled or local model's directory, or None for a hub id; DataError where it is missing."""
    if config.source.startswith("bundled/"):
        directory = BUNDLED / config.source.removeprefix("bundled/")
        if not directory.is_dir():
            known = ", ".join(sorted(f"bundled/{p.name}" for p in BUNDLED.glob("*/"))) or "none"
            raise DataError(f"base_model: {config.source} does not come with the project (there is: {known})")
        return directory
    directory = Path(config.source).expanduser()
    if directory.is_dir():
        if not (directory / "config.json").exists():
            raise DataError(
                f"base_model: {directory} holds no config.json; name a directory that save_pretrained wrote"
            )
        return directory
    if directory.is_absolute() or config.source.startswith(".") or config.source.count("/") != 1:
        raise DataError(
            f"base_model: {config.source} is neither a directory nor a hub id (owner/name); check the path"
        )
    return None


def base_model_digest(config: BaseModelConfig) -> dict[str, str]:
    """Return the identity of the base model: the hash of its files, or the hub's commit."""
    directory = local_directory(config)
    if directory is None:
        return {"model": f"{config.source}@{hub_commit(config)}"}
    files = sorted(path for pattern in config.wanted for path in directory.glob(pattern))
    return {"model": file_digests().of_all(files, directory)}


def hub_commit(config: BaseModelConfig) -> str:
    """Return the commit behind a revision: itself, the local hub cache's, or the hub's answer."""
    if COMMIT.fullmatch(config.revision):
        return config.revision
    from huggingface_hub.constants import HF_HUB_CACHE

    cached = Path(HF_HUB_CACHE) / f"models--{config.source.replace('/', '--')}" / "refs" / config.revision
    if cached.exists():
        return cached.read_text(encoding="utf-8").strip()
    from huggingface_hub import HfApi

    try:
        return str(HfApi().model_info(config.source, revision=config.revision, timeout=10).sha)
    except Exception as error:  # the HTTP library below the hub's, and so its errors, differ by version
        raise ServiceError(
            f"base_model: {config.source} is no local directory and the hub does not give it "
            f"({first_line(error)}); check the name, the network and HF_TOKEN, or pin base_model.revision "
            "to a commit"
        ) from error


@stage(produces=Model, version=1, outside=base_model_digest)
def base_model(out: Output, config: BaseModelConfig) -> None:
    """The base model's files, as the store's own."""
    directory = local_directory(config)
    if directory is None:
        _link_snapshot(config, out.path)
    else:
        for path in sorted(path for pattern in config.wanted for path in directory.glob(pattern)):
            shutil.copyfile(path, out.path / path.name)
    _check_code(config, out.path)
    _check_weights(config, out.path)
    out.stats = {
        "files": len(list(out.path.iterdir())),
        "bytes": sum(p.stat().st_size for p in out.path.iterdir()),
    }


def _check_code(config: BaseModelConfig, model: Path) -> None:
    """Raise DataError for a model that Transformers cannot read without code that is not trusted."""
    values = json.loads((model / "config.json").read_text(encoding="utf-8"))
    if config.trust_remote_code or "auto_map" not in values:
        return
    from transformers import CONFIG_MAPPING

    if values.get("model_type") not in CONFIG_MAPPING:
        raise DataError(
            f"base_model: {config.source} brings code of its own (model type {values.get('model_type')}); "
            "read it, then set base_model.trust_remote_code: true; of a hub model pin base_model.revision too"
        )


def _check_weights(config: BaseModelConfig, model: Path) -> None:
    """Raise DataError for a model without safetensors: a pickle runs what it likes when it is loaded."""
    if not any(model.glob("*.safetensors")):
        raise DataError(
            f"base_model: {config.source} has no weights as safetensors, and nothing else is loaded; convert "
            "them where you trust the source: AutoModel….from_pretrained(…).save_pretrained(…)"
        )


def _link_snapshot(config: BaseModelConfig, destination: Path) -> None:
    """Link the hub cache's files: content-addressed there, so copying gigabytes would gain nothing."""
    from huggingface_hub import snapshot_download

    try:
        snapshot = Path(
            snapshot_download(config.source, revision=hub_commit(config), allow_patterns=list(config.wanted))
        )
    except Exception as error:  # as above
        raise ServiceError(
            f"base_model: {config.source} could not be downloaded ({first_line(error)}); "
            "check the network and HF_TOKEN"
        ) from error
    for path in sorted(snapshot.iterdir()):
        if path.is_file():
            (destination / path.name).symlink_to(path.resolve())
