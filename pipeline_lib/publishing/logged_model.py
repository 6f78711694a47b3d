"""The model in MLflow: its weights with everything needed to answer, or a reference to the store.

By value it is MLflow's ``transformers`` flavour: a chat model answers OpenAI-style messages through
``mlflow.pyfunc``, one without a chat template continues texts. By reference MLflow holds where the
weights are and their digest; `finetune chat` and vLLM take the path.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from pipeline_lib.core.errors import DataError
from pipeline_lib.kinds import Adapter, Model, brings_code
from pipeline_lib.publishing.quiet import transformers_quiet

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

REQUIREMENTS = ("mlflow", "torch", "transformers", "accelerate", "safetensors", "jinja2")
EXAMPLE_TOKENS = 64
CHAT_TASK = "llm/v1/chat"
TEXT_TASK = "text-generation"
MODELS = "models:/"


def size_mb(path: Path) -> float:
    """Return the size of all files below ``path`` in MB (10^6 bytes)."""
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file()) / 1e6


def requirements(*more: str) -> list[str]:
    """Return the packages that the logged model needs, at the versions that it was made with."""
    return [f"{name}=={metadata.version(name).partition('+')[0]}" for name in (*REQUIREMENTS, *more)]


def base_of(adapter: Adapter) -> Path:
    """Return the base model that an adapter was trained on; DataError where it is not on this machine."""
    base = adapter.path.parents[1] / adapter.manifest.inputs["base"].address
    if not (base / "config.json").exists():
        raise DataError(f"{base}: the adapter's base is not here; set register.logged to merged")
    return base


def loads_in_mlflow(model: Model) -> bool:
    """Return whether MLflow loads the class that the model is of.

    One with code of its own it finds by that code, unless Transformers has a class of the same name.
    """
    if not brings_code(model.path):
        return True
    import transformers

    named = json.loads((model.path / "config.json").read_text(encoding="utf-8"))["architectures"][0]
    return not hasattr(transformers, named)


def log_weights(
    run_id: str, model: Model, card: str, prompt: Sequence[dict[str, str]], adapter: Adapter | None = None
) -> str:
    """Log the model with its weights into the run and return its URI (``models:/m-…``).

    With ``adapter`` MLflow holds that alone, and the path of the base that it is put on when it is loaded.
    """
    import mlflow.transformers
    from huggingface_hub import ModelCard

    with transformers_quiet(), mlflow.start_run(run_id=run_id):
        weights, tokenizer = _load(model)
        further: dict[str, Any] = {}
        if adapter:
            base = base_of(adapter)
            weights = _adapted(base, adapter)
            further = {"base_model_path": str(base.resolve())}
        logged = mlflow.transformers.log_model(
            {"model": weights, "tokenizer": tokenizer},
            name="model",
            pip_requirements=requirements(*(["peft"] if adapter else [])),
            model_card=ModelCard(card),
            metadata={"digest": model.digest, "fingerprint": model.fingerprint},
            **_interface(tokenizer, prompt),
            **further,
        )
    return str(logged.model_uri)


def _load(model: Model) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    trusted = brings_code(model.path)
    weights = AutoModelForCausalLM.from_pretrained(model.path, dtype="auto", trust_remote_code=trusted)
    # Three parts make no hub id: MLflow would ask the hub about any name that could be one.
    weights.name_or_path = f"store/{model.address}"
    return weights, AutoTokenizer.from_pretrained(model.path, trust_remote_code=trusted)


def _adapted(base: Path, adapter: Adapter) -> PreTrainedModel:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    plain = AutoModelForCausalLM.from_pretrained(base, dtype="auto", trust_remote_code=brings_code(base))
    adapted: Any = PeftModel.from_pretrained(plain, adapter.path)
    return cast("PreTrainedModel", adapted)


def _interface(tokenizer: PreTrainedTokenizerBase, prompt: Sequence[dict[str, str]]) -> dict[str, Any]:
    """Return task, signature and input example; the chat task brings its own signature."""
    from mlflow.models import infer_signature

    if tokenizer.chat_template:
        return {"task": CHAT_TASK, "input_example": {"messages": list(prompt), "max_tokens": EXAMPLE_TOKENS}}
    text = prompt[-1]["content"]
    params = {"max_new_tokens": EXAMPLE_TOKENS}
    return {
        "task": TEXT_TASK,
        "signature": infer_signature(text, text, params),
        "input_example": (text, params),
    }


def log_reference(client: MlflowClient, run_id: str, model: Model) -> str:
    """Log where the weights stand and what they hash to, and return the URI of that record."""
    import mlflow

    tags = {"path": str(model.path.resolve()), "digest": model.digest, "fingerprint": model.fingerprint}
    experiment: str = client.get_run(run_id).info.experiment_id
    logged = mlflow.create_external_model(
        name="model", source_run_id=run_id, tags=tags, model_type=TEXT_TASK, experiment_id=experiment
    )
    return f"{MODELS}{logged.model_id}"


def delete_logged(client: MlflowClient, run_id: str) -> None:
    """Delete the models that a run which did not end had logged."""
    experiment = client.get_run(run_id).info.experiment_id
    for logged in client.search_logged_models([experiment], filter_string=f"source_run_id = '{run_id}'"):
        client.delete_logged_model(logged.model_id)
