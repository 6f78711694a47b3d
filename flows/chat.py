"""Chat: talk to a model in the terminal, or ask it one question.

The model is a directory, a name in the registry (``NAME`` or ``NAME@alias``), a config (its merged model), or
where nothing is named the merged model of the latest run. Adapters named beside it share the base that they
were trained on, and take turns by name.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from flows.call import open_store
from flows.show import artifacts_of, open_artifact
from pipeline_lib.core.artifact import Artifact
from pipeline_lib.core.errors import ConfigError
from pipeline_lib.core.manifest import MANIFEST, Manifest

if TYPE_CHECKING:
    from tasks.talk import Talker

MERGED = "merge"
BASE = "base"
TRAINED = "train"
WELCOME = "Ask something. /reset begins anew, /exit ends."


def find_model(what: str | None, overrides: list[str]) -> Path:
    """Return the directory of the model that ``what`` means; ConfigError where it means none."""
    if what is None:
        return _merged(artifacts_of(None, [], MERGED), "the latest run")
    if what.endswith((".yaml", ".yml")):
        return _merged(artifacts_of(Path(what), overrides), what)
    if (Path(what) / "config.json").exists():
        return Path(what)
    if "/" in what or Path(what).exists():
        raise ConfigError(
            f"{what}: holds no model (no config.json); name a Model artifact, a registered model or a CONFIG"
        )
    from tasks.registry import find_version

    name, _, alias = what.partition("@")
    version = find_version(name, alias or None)
    store = open_store()
    there = store.manifest_at(version.address)
    if there and there.digest == version.digest:
        return store.fetch(open_artifact(store.root / version.address)).path
    if not (Path(version.path) / "config.json").exists():
        raise ConfigError(
            f"{name} version {version.version} stood at {version.path or 'no known place'}, which is gone; "
            "run its config again"
        )
    return Path(version.path)


def _merged(artifacts: dict[str, Artifact], where: str) -> Path:
    if MERGED not in artifacts:
        raise ConfigError(f"{where} has built no merged model yet; `finetune run` builds it")
    return open_store().fetch(artifacts[MERGED]).path


def find_adapters(named: list[str]) -> dict[str, Path]:
    """Return the directories of adapters given as NAME=DIRECTORY or NAME=CONFIG."""
    found: dict[str, Path] = {}
    for one in named:
        name, separator, what = one.partition("=")
        if not (name and separator) or name in (*found, BASE):
            raise ConfigError(
                f"--adapter {one}: give NAME=DIRECTORY or NAME=CONFIG, each name once and not {BASE!r}"
            )
        found[name] = _adapter(what)
    return found


def _adapter(what: str) -> Path:
    path = Path(what)
    if path.suffix in (".yaml", ".yml"):
        artifacts = artifacts_of(path, [])
        if TRAINED not in artifacts:
            raise ConfigError(f"{what} has trained nothing yet; `finetune run` trains it")
        path = open_store().fetch(artifacts[TRAINED]).path
    if not (path / "adapter_config.json").exists():
        raise ConfigError(f"{what}: holds no adapter (no adapter_config.json)")
    return path


def base_of(adapter: Path) -> Path:
    """Return the model that an adapter was trained on, as its manifest or its own config names it."""
    if (adapter / MANIFEST).exists():
        base = adapter.resolve().parents[1] / Manifest.read(adapter / MANIFEST).inputs["base"].address
    else:
        written = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
        base = Path(written["base_model_name_or_path"] or "")
    if not (base / "config.json").exists():
        raise ConfigError(f"{adapter}: its base is not at {base}; name the base's directory as the model")
    return base


@dataclass
class Conversation:
    """What was said so far, and how the model is to answer."""

    talkers: dict[str, Talker]
    """By the name of the adapter; one without a name where there are none."""
    speaking: str
    max_new_tokens: int
    temperature: float
    system: str | None = None
    messages: list[dict[str, str]] = field(default_factory=list)

    def ask(self, question: str) -> Iterator[str]:
        """Yield the answer piece by piece, and remember both."""
        self.messages.append({"role": "user", "content": question})
        said: list[str] = []
        opening = [{"role": "system", "content": self.system}] if self.system else []
        try:
            for piece in self.talkers[self.speaking].answer(
                [*opening, *self.messages], max_new_tokens=self.max_new_tokens, temperature=self.temperature
            ):
                said.append(piece)
                yield piece
        finally:
            self.messages.append({"role": "assistant", "content": "".join(said)})

    def turn_to(self, name: str) -> None:
        """Let another adapter answer, to whom nothing was said yet; ConfigError for one that is not there."""
        if name not in self.talkers:
            raise ConfigError(f"no adapter {name!r}; there are {', '.join(self.talkers)}")
        self.speaking = name
        self.reset()

    def reset(self) -> None:
        """Forget what was said."""
        self.messages.clear()


def open_conversation(
    path: Path, adapters: dict[str, Path], *, max_new_tokens: int, temperature: float, system: str | None
) -> Conversation:
    """Return a conversation with the model in a directory or the first adapter on it, nothing said yet."""
    from tasks.talk import load, load_adapters

    talkers = load_adapters(path, adapters) if adapters else {"": load(path)}
    return Conversation(talkers, next(iter(talkers)), max_new_tokens, temperature, system)


def ask_once(conversation: Conversation, question: str) -> None:
    """Write one answer, and nothing else, on stdout."""
    _write(conversation.ask(question))


def talk(conversation: Conversation, name: str) -> None:
    """Answer line by line until the person has enough."""
    typer.echo(f"{name}\n{WELCOME}", err=True)
    if conversation.speaking:
        names = ", ".join(conversation.talkers)
        typer.echo(f"{conversation.speaking} answers; /use NAME lets another: {names}", err=True)
    while (question := _read()) is not None:
        if question == "/reset":
            conversation.reset()
            typer.echo("(a new conversation)", err=True)
        elif question.startswith("/use "):
            try:
                conversation.turn_to(question.removeprefix("/use ").strip())
                typer.echo(f"({conversation.speaking} answers, a new conversation)", err=True)
            except ConfigError as error:
                typer.echo(str(error), err=True)
        elif question:
            try:
                _write(conversation.ask(question))
            except KeyboardInterrupt:
                # Ctrl-C cuts an answer short; at the prompt it ends the talk.
                typer.echo(" …")


def _read() -> str | None:
    import contextlib

    # Line editing and history, where this Python has them.
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401
    try:
        line = input("> " if sys.stdin.isatty() else "").strip()
    except (EOFError, KeyboardInterrupt):
        typer.echo(err=True)
        return None
    return None if line in ("/exit", "/quit") else line


def _write(pieces: Iterator[str]) -> None:
    for piece in pieces:
        typer.echo(piece, nl=False)
        sys.stdout.flush()
    typer.echo()
