"""A stage: a named, versioned, plain function that writes one artifact.

The signature is the wiring: ``(out, config, input, …)``. The types of the inputs are kinds of
artifacts; a tuple of a kind takes any number of them. What a stage reads from outside the store
(files, a hub) is named by ``outside``, and what it writes outside of it (a registry) by ``target``.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar

from pipeline_lib.core.artifact import Artifact
from pipeline_lib.core.config import StageConfig
from pipeline_lib.core.errors import ConfigError
from pipeline_lib.core.fingerprint import fingerprint
from pipeline_lib.core.output import Output

P = ParamSpec("P")
A = TypeVar("A", bound=Artifact)
Inputs = dict[str, Artifact | tuple[Artifact, ...]]


@dataclass(frozen=True)
class Stage(Generic[P, A]):
    """A stage function with its name, version and the kind of artifact that it produces."""

    name: str
    version: int
    produces: type[A]
    function: Callable[..., None]
    outside: Callable[[Any], Mapping[str, str]] | None = None
    target: Callable[[Any], str] | None = None

    @cached_property
    def parameters(self) -> dict[str, Any]:
        """The types of ``config`` and of every input, by parameter name."""
        hints = typing.get_type_hints(self.function)
        names = list(inspect.signature(self.function).parameters)
        return {name: hints[name] for name in names[1:]}

    @property
    def module(self) -> Path:
        """The file that the stage stands in."""
        return Path(inspect.getfile(self.function))

    @cached_property
    def code(self) -> str:
        """The hash of the stage module's syntax tree, comments and docstrings left out."""
        return code_of(self.module)

    def recipe(self, *args: P.args, **kwargs: P.kwargs) -> Recipe[A]:
        """Bind a config and inputs to this stage; ConfigError where a kind does not fit."""
        bound = inspect.signature(self.function).bind(None, *args, **kwargs)
        given = {name: bound.arguments[name] for name in self.parameters if name in bound.arguments}
        inputs = {name: value for name, value in given.items() if name != "config" and value is not None}
        for name, value in inputs.items():
            self._accept(name, value)
        return Recipe(stage=self, config=given["config"], inputs=inputs)

    def _accept(self, name: str, value: Any) -> None:
        kinds = accepted_kinds(self.parameters[name])
        for item in value if isinstance(value, tuple) else (value,):
            if not isinstance(item, kinds):
                wanted = " or ".join(kind.__name__ for kind in kinds)
                found = f"{type(item).__name__} {getattr(item, 'path', '')}"
                raise ConfigError(f"{self.name} needs a {wanted} for {name!r}, got {found}")


def accepted_kinds(hint: Any) -> tuple[type, ...]:
    """Return the artifact kinds that a type hint admits (unions and tuples opened)."""
    if isinstance(hint, type):
        return (hint,)
    return tuple(kind for part in typing.get_args(hint) if part is not ... for kind in accepted_kinds(part))


@dataclass(frozen=True)
class Recipe(Generic[A]):
    """A stage with everything its result depends on."""

    stage: Stage[Any, A]
    config: StageConfig
    inputs: Inputs

    @cached_property
    def artifacts(self) -> dict[str, Artifact]:
        """Every input artifact by name; members of a tuple are numbered."""
        flat: dict[str, Artifact] = {}
        for name, value in self.inputs.items():
            if isinstance(value, tuple):
                flat.update({f"{name}.{i}": item for i, item in enumerate(value)})
            else:
                flat[name] = value
        return flat

    @cached_property
    def outside(self) -> dict[str, str]:
        """Digests of what the stage reads from outside the store."""
        return dict(self.stage.outside(self.config)) if self.stage.outside else {}

    @cached_property
    def target(self) -> str | None:
        """The place outside the store that the stage writes to."""
        return self.stage.target(self.config) if self.stage.target else None

    @cached_property
    def digests(self) -> dict[str, str]:
        """The digest of every input, as it enters the fingerprint."""
        return {**{name: artifact.digest for name, artifact in self.artifacts.items()}, **self.outside}

    @cached_property
    def fingerprint(self) -> str:
        """The hash of the recipe: stage, version, config, input digests."""
        return fingerprint(self.stage.name, self.stage.version, self.config, self.digests)


def stage(
    *,
    produces: type[A],
    version: int,
    outside: Callable[[Any], Mapping[str, str]] | None = None,
    target: Callable[[Any], str] | None = None,
) -> Callable[[Callable[Concatenate[Output, P], None]], Stage[P, A]]:
    """Make a plain function ``(out, config, inputs…)`` a stage, under the function's own name."""

    def wrap(function: Callable[Concatenate[Output, P], None]) -> Stage[P, A]:
        return Stage(function.__name__, version, produces, function, outside, target)

    return wrap


def code_of(module: Path) -> str:
    """Return the hash of a module's syntax tree."""
    return syntax_hash(module.read_text(encoding="utf-8"))


@lru_cache(maxsize=256)
def syntax_hash(source: str) -> str:
    """Return a hash of Python source that comments, docstrings and layout do not change."""
    tree = _parse(source)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            first = body[0]
            if (
                isinstance(first, ast.Expr)
                and isinstance(first.value, ast.Constant)
                and isinstance(first.value.value, str)
            ):
                node.body = body[1:]
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest()[:16]


def _parse(source: str) -> ast.Module:
    # CPython 3.11 counts the depth of the tree in the making once for all threads: two that parse at the same
    # time (a library's and this one) may get a SystemError for it, and a second try does not.
    try:
        return ast.parse(source)
    except SystemError:
        return ast.parse(source)
