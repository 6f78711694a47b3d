"""Chat: talk to a model in the terminal, or ask it one question.

The model is a directory, a name in the registry (``NAME`` or ``NAME@alias``), a config (its merged model), or
where nothing is named the merged model of the latest run.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from flows.show import artifacts_of
from pipeline_lib.core.artifact import Artifact
from pipeline_lib.core.errors import ConfigError

if TYPE_CHECKING:
    from tasks.talk import Talker

MERGED = "merge"
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
    if not (Path(version.path) / "config.json").exists():
        raise ConfigError(
            f"{name} version {version.version} stood at {version.path or 'no known place'}, which is gone; "
            "run its config again"
        )
    return Path(version.path)


def _merged(artifacts: dict[str, Artifact], where: str) -> Path:
    if MERGED not in artifacts:
        raise ConfigError(f"{where} has built no merged model yet; `finetune run` builds it")
    return artifacts[MERGED].path


@dataclass
class Conversation:
    """What was said so far, and how the model is to answer."""

    talker: Talker
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
            for piece in self.talker.answer(
                [*opening, *self.messages], max_new_tokens=self.max_new_tokens, temperature=self.temperature
            ):
                said.append(piece)
                yield piece
        finally:
            self.messages.append({"role": "assistant", "content": "".join(said)})

    def reset(self) -> None:
        """Forget what was said."""
        self.messages.clear()


def open_conversation(
    path: Path, *, max_new_tokens: int, temperature: float, system: str | None
) -> Conversation:
    """Return a conversation with the model in a directory, nothing said yet."""
    from tasks.talk import load

    return Conversation(load(path), max_new_tokens, temperature, system)


def ask_once(conversation: Conversation, question: str) -> None:
    """Write one answer, and nothing else, on stdout."""
    _write(conversation.ask(question))


def talk(conversation: Conversation, name: str) -> None:
    """Answer line by line until the person has enough."""
    typer.echo(f"{name}\n{WELCOME}", err=True)
    while (question := _read()) is not None:
        if question == "/reset":
            conversation.reset()
            typer.echo("(a new conversation)", err=True)
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
