"""The config of a pipeline: one block per use of a stage, read from YAML and overridden by ``--set``.

The models of the stages are the one home of defaults, bounds and descriptions. All errors of a config are
found at once and shown with file, key, value and the likely key meant.
"""

from __future__ import annotations

import difflib
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from pipeline_lib.core.errors import ConfigError, did_you_mean
from pipeline_lib.curation.augment import AugmentConfig
from pipeline_lib.curation.decontaminate import DecontaminateConfig
from pipeline_lib.curation.deduplicate import DeduplicateConfig
from pipeline_lib.curation.drift import DriftConfig
from pipeline_lib.curation.embed import EmbedConfig
from pipeline_lib.curation.filter import FilterConfig
from pipeline_lib.curation.format import FormatConfig
from pipeline_lib.curation.ingest import IngestConfig
from pipeline_lib.curation.normalize import NormalizeConfig
from pipeline_lib.curation.profile import ProfileConfig
from pipeline_lib.curation.score import ScoreConfig
from pipeline_lib.curation.scrub import ScrubConfig
from pipeline_lib.curation.split import SplitConfig
from pipeline_lib.evaluation.audit import AuditConfig
from pipeline_lib.evaluation.evaluate import EvaluateConfig
from pipeline_lib.evaluation.gate import GateConfig
from pipeline_lib.evaluation.human import HumanConfig
from pipeline_lib.operations import OperationsConfig
from pipeline_lib.publishing.register import RegisterConfig
from pipeline_lib.publishing.report import ReportConfig
from pipeline_lib.training.base_model import BaseModelConfig
from pipeline_lib.training.initialize import InitializeConfig
from pipeline_lib.training.merge import MergeConfig
from pipeline_lib.training.objectives import TOKENS_FOR
from pipeline_lib.training.tokenize import TokenizeConfig
from pipeline_lib.training.train import TrainConfig


class PipelineConfig(BaseModel):
    """What a pipeline makes, from raw text to a registered model."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
        max_length=64,
        description="Name of the pipeline: of its runs, its experiment and its model.",
    )
    seed: int = Field(default=42, ge=0, description="Seed of every stage that does not set its own.")
    ingest: IngestConfig = Field(description="Where the data come from.")
    normalize: NormalizeConfig = NormalizeConfig()
    scrub: ScrubConfig = ScrubConfig()
    augment: AugmentConfig | None = Field(
        default=None, description="What a model writes after the conversations' example; none leaves it out."
    )
    scorer: BaseModelConfig | None = Field(
        default=None,
        description="Model that scores conversations, named as base_model is; none leaves `score` out.",
    )
    score: ScoreConfig = ScoreConfig()
    embedder: BaseModelConfig | None = Field(
        default=None,
        description="Model whose embeddings tell `deduplicate` which conversations mean the same, named as "
        "base_model is; none leaves `embed` out.",
    )
    embed: EmbedConfig = EmbedConfig()
    deduplicate: DeduplicateConfig = DeduplicateConfig()
    filter: FilterConfig = FilterConfig()
    decontaminate: DecontaminateConfig = DecontaminateConfig()
    format: FormatConfig = FormatConfig()
    split: SplitConfig = SplitConfig()
    profile: ProfileConfig | None = Field(
        default=ProfileConfig(), description="The page on the data before and after; none leaves it out."
    )
    base_model: BaseModelConfig | None = Field(
        default=None, description="What training starts from; none starts from `initialize`."
    )
    initialize: InitializeConfig | None = Field(
        default=None, description="The shape of a new model, where there is no base model."
    )
    tokenize: TokenizeConfig = TokenizeConfig()
    train: TrainConfig = TrainConfig()
    merge: MergeConfig | None = Field(
        default=MergeConfig(), description="How base and adapter become one; none ends with the adapter."
    )
    evaluate: EvaluateConfig | None = Field(
        default=EvaluateConfig(),
        description="How models are measured; none ends the pipeline with the merged model.",
    )
    audit: AuditConfig | None = Field(
        default=AuditConfig(),
        description="What is looked for in answers and training data; none leaves it out.",
    )
    general: IngestConfig | None = Field(
        default=None,
        description="Conversations beside the task, measured before and after: what the training forgot.",
    )
    human: HumanConfig | None = Field(
        default=None, description="A blind sheet of answers for people to rate, and their ratings."
    )
    gate: GateConfig = GateConfig()
    report: ReportConfig = ReportConfig()
    register_: RegisterConfig = Field(default=RegisterConfig(), alias="register")
    drift: DriftConfig = DriftConfig()
    operations: OperationsConfig = OperationsConfig()

    @model_validator(mode="before")
    @classmethod
    def _share(cls, value: Any) -> Any:
        """Give every stage what it shares with others and does not set: name, seed, rendering."""
        if not isinstance(value, dict) or not isinstance(value.get("seed", 42), int):
            return value
        blocks = dict(value)
        always = {
            field.alias or name
            for name, field in cls.model_fields.items()
            if isinstance(field.default, BaseModel)
        }
        for name, model in block_models().items():
            block = blocks.get(name, {} if name in always else None)
            if "seed" in model.model_fields and isinstance(block, dict):
                blocks[name] = {"seed": value.get("seed", 42), **block}
        return _render_alike(_named_alike(_tokens_alike(blocks)))

    @model_validator(mode="after")
    def _starts_from_something(self) -> PipelineConfig:
        if (self.base_model is None) == (self.initialize is None):
            raise ValueError("name either base_model or initialize: training starts from one of them")
        return self

    @model_validator(mode="after")
    def _counts_with_a_tokenizer(self) -> PipelineConfig:
        if self.filter.counts_tokens and self.base_model is None:
            raise ValueError("filter's limits in tokens need base_model, whose tokenizer counts them")
        return self

    @model_validator(mode="after")
    def _ends_as_it_can(self) -> PipelineConfig:
        wanted = TOKENS_FOR[self.train.objective]
        if self.tokenize.objective not in wanted:
            raise ValueError(f"train.objective {self.train.objective} needs tokenize.objective={wanted[0]}")
        if self.merge is not None and not self.train.merges:
            raise ValueError(
                f"train.method {self.train.method} learns tokens before the input, which cannot be merged "
                "into the weights: set merge: null and evaluate: null, and serve the adapter with PEFT"
            )
        if self.evaluate is not None and self.merge is None:
            raise ValueError("evaluate measures the merged model: set evaluate: null beside merge: null")
        if self.evaluate is not None and self.train.objective == "reward":
            raise ValueError("a reward model scores answers and gives none: set evaluate: null")
        return self


def _tokens_alike(blocks: dict[str, Any]) -> dict[str, Any]:
    """Make the tokens that the training's objective needs, where tokenize does not say."""
    trained, made = blocks.get("train", {}), blocks.get("tokenize", {})
    if isinstance(trained, dict) and isinstance(made, dict):
        wanted = TOKENS_FOR.get(str(trained.get("objective", "sft")), ())
        if wanted and "supervised" not in wanted:
            blocks["tokenize"] = {"objective": wanted[0], **made}
    return blocks


def _named_alike(blocks: dict[str, Any]) -> dict[str, Any]:
    """Register under the pipeline's name: its model and its experiment are called what it is called."""
    published, name = blocks.get("register", {}), blocks.get("name")
    if isinstance(published, dict) and isinstance(name, str):
        blocks["register"] = {"model_name": name, "experiment": name, **published}
    return blocks


def _render_alike(blocks: dict[str, Any]) -> dict[str, Any]:
    """Measure conversations as they were learnt: what tokenize says holds for evaluate, and its for audit."""
    learnt, measured = blocks.get("tokenize"), blocks.get("evaluate", {})
    if isinstance(learnt, dict) and isinstance(measured, dict):
        shared = {key: learnt[key] for key in ("template", "learn") if key in learnt}
        blocks["evaluate"] = {**shared, **measured}
    audited, measured = blocks.get("audit", {}), blocks.get("evaluate", {})
    if isinstance(audited, dict) and isinstance(measured, dict):
        shared = {key: measured[key] for key in ("template", "precision") if key in measured}
        blocks["audit"] = {**shared, **audited}
    return blocks


def block_models() -> dict[str, type[BaseModel]]:
    """Return the model of every block of a config, by the block's name."""
    return {
        field.alias or name: model
        for name, field in PipelineConfig.model_fields.items()
        for model in models_in(field.annotation)[:1]
    }


def models_in(annotation: Any) -> list[type[BaseModel]]:
    """Return the pydantic models that a type annotation admits."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in typing.get_args(annotation) for model in models_in(part)]


def load(path: str | Path, overrides: Sequence[str] = ()) -> PipelineConfig:
    """Return the config in a YAML file with ``a.b=c`` overrides; ConfigError with every mistake in it."""
    values = _read(Path(path))
    for override in overrides:
        _apply(values, override)
    try:
        return PipelineConfig.model_validate(values)
    except ValidationError as error:
        raise ConfigError("\n".join(_explain(str(path), item) for item in error.errors())) from None


def _read(path: Path) -> dict[str, Any]:
    import yaml

    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is no UTF-8 text ({error.reason} at byte {error.start})") from error
    except OSError as error:
        near = difflib.get_close_matches(path.name, [p.name for p in path.parent.glob("*.yaml")], n=1)
        hint = f"; did you mean {path.parent / near[0]}?" if near else ""
        raise ConfigError(f"{path}: cannot be read ({error.strerror or error}){hint}") from error
    try:
        values = yaml.load(text, Loader=_loader())
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f":{mark.line + 1}" if mark else ""
        raise ConfigError(f"{path}{line}: {error.problem or error.context}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        found = "empty" if values is None else f"a {type(values).__name__}"
        raise ConfigError(f"{path}: a config is a mapping of blocks, this is {found}")
    return values


def _loader() -> Any:
    """Return a YAML 1.2 loader (core schema), which refuses a key given twice.

    PyYAML reads YAML 1.1, in which 2e-4 is a text, `no` and `on` are booleans, 010 is eight, 1:30 is ninety
    and 2024-01-01 is no text.
    """
    import re

    import yaml

    class Loader(yaml.SafeLoader):
        def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
            seen: list[Any] = []
            for key_node, _ in node.value:
                key = self.construct_object(key_node, deep=True) if key_node.tag != _MERGE else None
                if key is not None and key in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"key {str(key)!r} is given twice", key_node.start_mark
                    )
                seen.append(key)
            return super().construct_mapping(node, deep)

    Loader.yaml_implicit_resolvers = {}
    for tag, form, begins in _SCALARS:
        Loader.add_implicit_resolver(tag, re.compile(form), begins and list(begins))
    return Loader


_MERGE = "tag:yaml.org,2002:merge"
_SCALARS = (
    ("tag:yaml.org,2002:null", r"^(?:~|null|Null|NULL|)$", None),
    ("tag:yaml.org,2002:bool", r"^(?:true|True|TRUE|false|False|FALSE)$", "tTfF"),
    ("tag:yaml.org,2002:int", r"^[-+]?(?:0|[1-9][0-9_]*)$", "-+0123456789"),
    (
        "tag:yaml.org,2002:float",
        r"^[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))(?:[eE][-+]?[0-9]+)?$",
        "-+0123456789.",
    ),
    ("tag:yaml.org,2002:float", r"^(?:[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$", "-+."),
    (_MERGE, r"^<<$", "<"),
)


def _apply(values: dict[str, Any], override: str) -> None:
    import yaml

    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"--set {override}: write it as key=value, e.g. --set train.learning_rate=2e-4")
    try:
        value = yaml.load(text, Loader=_loader())
    except yaml.YAMLError as error:
        problem = getattr(error, "problem", None) or "unreadable"
        raise ConfigError(
            f"--set {override}: {text!r} is not YAML ({problem}); put a text in quotes: --set '{key}=\"…\"'"
        ) from error
    values.update(_set(values, key.strip().split("."), value, override))


def _set(held: Any, keys: list[str], value: Any, override: str) -> Any:
    """Return ``held`` with ``value`` below ``keys``; a number is a place in a list."""
    key, rest = keys[0], keys[1:]
    if isinstance(held, list):
        if not key.isdigit() or int(key) >= len(held):
            raise ConfigError(
                f"--set {override}: {key!r} is no place in a list of {len(held)}; count from 0, or set the "
                "whole list"
            )
        return [_below(item, rest, value, override) if i == int(key) else item for i, item in enumerate(held)]
    block = dict(held) if isinstance(held, dict) else {}
    inner = (
        {"source": block[key]}
        if key == "base_model" and rest and isinstance(block.get(key), str)
        else block.get(key)
    )
    return {**block, key: _below(inner, rest, value, override)}


def _below(held: Any, keys: list[str], value: Any, override: str) -> Any:
    return _set(held, keys, value, override) if keys else value


def _explain(path: str, error: Mapping[str, Any]) -> str:
    where = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        *parents, key = error["loc"]
        return f"{path}: {where}: unknown key; {did_you_mean(str(key), _keys(parents))}"
    message = str(error["msg"]).removeprefix("Value error, ")
    given = "" if error["type"] in ("missing", "value_error") else f" (given: {str(error['input'])[:80]!r})"
    if error["input"] == "none":
        given += "; for none write null"
    return f"{path}: {where + ': ' if where else ''}{message[0].lower() + message[1:]}{given}"


def _keys(parents: Sequence[str | int]) -> list[str]:
    models: list[type[BaseModel]] = [PipelineConfig]
    for parent in parents:
        fields = [(name, field) for model in models for name, field in model.model_fields.items()]
        inner = [
            model
            for name, field in fields
            if parent in (name, field.alias)
            for model in models_in(field.annotation)
        ]
        models = inner or models
    return [field.alias or name for model in models for name, field in model.model_fields.items()]
