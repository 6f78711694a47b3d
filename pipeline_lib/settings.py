"""Settings: where things are and how fast they go. None of them ever enters a fingerprint."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from pipeline_lib.core.errors import ConfigError
from pipeline_lib.core.outside import FileDigests

Engine = Literal["local", "ray"]


class Settings(BaseSettings):
    """Read from the environment (``FINETUNE_…``) and from ``.env``."""

    model_config = SettingsConfigDict(env_prefix="FINETUNE_", env_file=".env", extra="ignore", frozen=True)

    store: str = Field(
        default=".finetune/store", description="Where artifacts live: a directory or an fsspec URL."
    )
    workers: int = Field(
        default_factory=lambda: os.cpu_count() or 1, ge=1, description="Processes and threads for CPU stages."
    )
    engine: Engine = Field(
        default="local", description="What runs the shard-wise stages and the near-duplicate join."
    )
    ray_address: str | None = Field(default=None, description="Ray cluster to join; none starts one here.")
    gpu_pool: str | None = Field(
        default=None, description="Prefect work pool for stages that need a GPU; none runs them here."
    )
    cpu_pool: str | None = Field(
        default=None, description="Prefect work pool for the other stages; none runs them here."
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        default="auto", description="Device for training and evaluation."
    )
    processes: int | None = Field(
        default=None,
        ge=1,
        description="Training processes on this machine; none is one a GPU, one on the CPU.",
    )
    launch: str = Field(
        default="",
        description="Further arguments of `accelerate launch`, such as --num_machines 2 --machine_rank 0 "
        "--main_process_ip HOST.",
    )
    endpoint_url: str | None = Field(
        default=None,
        description="OpenAI-compatible endpoint that `augment` asks, such as http://localhost:8000/v1.",
    )
    endpoint_key: SecretStr | None = Field(
        default=None, description="The endpoint's key, sent as a bearer token."
    )
    evaluate_endpoint_url: str | None = Field(
        default=None,
        description="OpenAI-compatible endpoint that serves the models `evaluate.endpoint` names; none is "
        "endpoint_url.",
    )
    evaluate_endpoint_key: SecretStr | None = Field(
        default=None, description="The key of evaluate_endpoint_url, sent as a bearer token."
    )
    endpoint_parallel: int = Field(default=8, ge=1, description="Requests that are under way at a time.")
    endpoint_requests_per_minute: float | None = Field(
        default=None, gt=0, description="Requests that begin in a minute at most; none sets no limit."
    )
    endpoint_timeout: float = Field(default=120.0, gt=0, description="Seconds that a reply may take.")
    mlflow_tracking_uri: str = Field(
        default="sqlite:///.finetune/mlflow.db",
        validation_alias="MLFLOW_TRACKING_URI",
        description="MLflow's tracking and registry server or database.",
    )
    mlflow_ui_url: str | None = Field(
        default=None, description="MLflow as a browser reaches it; none is the tracking server's address."
    )
    prefect_api_url: str | None = Field(
        default=None,
        validation_alias="PREFECT_API_URL",
        description="Prefect server; none starts a temporary one.",
    )


@lru_cache(maxsize=1)
def settings() -> Settings:
    """Return this process's settings, read once; ConfigError where a variable cannot be what it is set to."""
    try:
        return Settings()
    except ValidationError as error:
        raise ConfigError("\n".join(map(_explain, error.errors()))) from None


def _explain(error: Mapping[str, Any]) -> str:
    name = str(error["loc"][0])
    variable = name if name.isupper() else f"FINETUNE_{name.upper()}"
    message = str(error["msg"])
    return f"{variable}: {message[0].lower() + message[1:]} (given: {str(error['input'])[:80]!r})"


def home() -> Path:
    """Return the directory that holds this project's local state (``.finetune``)."""
    store = settings().store
    return Path(".finetune") if "://" in store else Path(store).parent


def file_digests() -> FileDigests:
    """Return the digests of files outside the store, remembered between runs."""
    return FileDigests(home() / "memo.json")
