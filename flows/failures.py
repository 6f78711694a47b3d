"""How a command ends: one line for every error, and the exit code that goes with it.

0 done, 1 the run failed or a gate is closed, 2 the call or the config is wrong, 130 interrupted (Ctrl-C),
143 terminated.
"""

from __future__ import annotations

import errno
import functools
import inspect
import os
import signal
import traceback
from collections.abc import Callable
from typing import Annotated, Any

import typer

from pipeline_lib.core.errors import FinetuneError
from pipeline_lib.core.interrupts import TerminatedError

INTERRUPTED, TERMINATED = 130, 143
Debug = Annotated[bool, typer.Option("--debug", help="Show tracebacks, and Prefect's own log.")]


def one_line(command: Callable[..., None]) -> Callable[..., None]:
    """Return the command with a ``--debug``; what stops it becomes a line on stderr and an exit code."""

    @functools.wraps(command)
    def call(*, debug: bool, **options: Any) -> None:
        if debug:
            os.environ.setdefault("PREFECT_LOGGING_LEVEL", "INFO")
        signal.signal(signal.SIGTERM, _terminate)
        try:
            command(**options)
        except typer.Exit:
            raise
        except (Exception, KeyboardInterrupt, TerminatedError) as error:
            if isinstance(error, OSError) and error.errno == errno.EPIPE:
                raise
            raise typer.Exit(tell(error, debug=debug)) from None

    own = list(inspect.signature(command, eval_str=True).parameters.values())
    own.append(inspect.Parameter("debug", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=Debug))
    call.__signature__ = inspect.Signature(own)  # type: ignore[attr-defined]
    call.__annotations__ = {parameter.name: parameter.annotation for parameter in own}
    return call


def tell(error: BaseException, *, debug: bool) -> int:
    """Write an error's line on stderr, with the traceback where it is asked for; return the exit code."""
    if debug:
        typer.echo("".join(traceback.format_exception(error)), err=True, nl=False)
    if isinstance(error, KeyboardInterrupt):
        return _line("interrupted; what is built is kept, run again to go on", INTERRUPTED)
    if isinstance(error, TerminatedError):
        return _line("terminated; what is built is kept, run again to go on", TERMINATED)
    if isinstance(error, FinetuneError):
        return _line("\n".join(f"error: {line}" for line in str(error).splitlines()), error.exit_code)
    reason = (str(error).strip().splitlines() or ["no message"])[0]
    return _line(f"error: {type(error).__name__}: {reason}; run again with --debug to see where", 1)


def tell_call(error: typer.TyperException) -> int:
    """Write on stderr why a call cannot be read, and where to read how it is made; return the exit code."""
    said, context = error.format_message().strip().rstrip("."), getattr(error, "ctx", None)
    typed = context.command_path if context else "finetune"
    return _line(f"error: {said[:1].lower()}{said[1:]}; see {typed} --help", error.exit_code)


def _line(text: str, code: int) -> int:
    typer.echo(text, err=True)
    return code


def _terminate(number: int, frame: Any) -> None:
    raise TerminatedError
