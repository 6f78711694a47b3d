"""The options that several commands share, and the two ways in which they write a result on stdout."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

Config = Annotated[
    Path, typer.Argument(metavar="CONFIG", help="YAML file of the pipeline.", show_default=False)
]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Override a value of the config, e.g. train.epochs=1; repeatable."
    ),
]
Only = Annotated[
    str | None, typer.Option("--only", metavar="STAGE", help="This stage alone; what it needs must be there.")
]
Start = Annotated[
    str | None,
    typer.Option("--from", metavar="STAGE", help="From this stage on; what it needs must be there."),
]
Until = Annotated[str | None, typer.Option("--until", metavar="STAGE", help="Up to this stage.")]
Force = Annotated[
    list[str] | None,
    typer.Option("--force", metavar="STAGE", help="Build this stage though it is there; repeatable."),
]
Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout, and nothing else there.")]
Reason = Annotated[str, typer.Option("--reason", help="Why; it is kept in the registry.")]


def print_json(value: Any) -> None:
    """Write ``value`` as one JSON document."""
    typer.echo(json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False, default=str))


def print_lines(lines: Iterable[str]) -> None:
    """Write lines as they come."""
    for line in lines:
        typer.echo(line)
