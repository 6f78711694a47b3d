"""The champion that a model is held against, told without MLflow where its database has not changed.

A model that the registry has keeps the judgement that it was registered with: it is held against the champion
of that time (tag ``held_against``), whoever came after. So a run that promoted its model finds its verdict
where it left it, today and after ten later champions. Any other model is held against the champion there is.

What the registry said is remembered for as long as an SQLite file keeps its size and time, since importing
MLflow takes longer than all else that a run without work does. A server is asked each time; where it does
not answer, what it said last counts.
"""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline_lib.core.errors import ServiceError
from pipeline_lib.core.progress import mention
from pipeline_lib.core.remote import without_user
from pipeline_lib.publishing.connection import connected, database_of, tracking_uri
from pipeline_lib.publishing.registry import CHAMPION, VersionRow, versions_of
from pipeline_lib.settings import home

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from pipeline_lib.kinds import Evaluation, Verdict

NOBODY = "nobody"
RULE = "holds_against_champion"
"""The gate's rule that a champion is measured for."""
MEMO = "champions.json"


def rival(name: str, digest: str) -> VersionRow | None:
    """Return the version of ``name`` that a model of this digest is held against; None without another."""
    known = registered(name)
    champion = next((row for row in known if CHAMPION in row.aliases), None)
    if champion is None:
        return None
    judged = next((row.held_against for row in known if row.digest == digest and row.held_against), None)
    if judged is None:
        return champion if champion.digest != digest else None
    return next((row for row in known if row.digest == judged), None)


def registered(name: str) -> list[VersionRow]:
    """Return the versions of a registered model, newest first, as far as the registry can be asked."""
    database = database_of(tracking_uri())
    if database and not database.exists():
        return []
    known = _memo().get(_key(name))
    if known and database and known["state"] == _state(database):
        return _rows(known)
    try:
        with connected() as client:
            return remember(client, name)
    except ServiceError as error:
        mention(f"{name}: nobody knows who is champion now; {error}")
        return _rows(known) if known else []


def remember(client: MlflowClient, name: str) -> list[VersionRow]:
    """Return the versions of a registered model as they are now, and keep what the registry said."""
    rows, database = versions_of(client, name), database_of(tracking_uri())
    said = {"state": _state(database) if database else None, "versions": [asdict(row) for row in rows]}
    memo, fresh = home() / MEMO, home() / f"{MEMO}.new"
    with suppress(OSError):  # a memo that cannot be kept costs a question, nothing else
        memo.parent.mkdir(parents=True, exist_ok=True)
        fresh.write_text(json.dumps({**_memo(), _key(name): said}), encoding="utf-8")
        fresh.replace(memo)
    return rows


def held_against(verdict: Verdict, champion: Evaluation | None) -> str | None:
    """Return the digest of the model that a verdict is about, or `NOBODY`; None where nobody asked."""
    if not any(rule["rule"] == RULE for rule in verdict.read()["rules"]):
        return None
    return champion.manifest.inputs["model"].digest if champion else NOBODY


def overtaken(client: MlflowClient, name: str, digest: str, against: str | None) -> VersionRow | None:
    """Return the champion that came since a model was held ``against`` another; None where none has."""
    champion = next((row for row in versions_of(client, name) if CHAMPION in row.aliases), None)
    return champion if champion and against and champion.digest not in (against, digest) else None


def _memo() -> dict[str, Any]:
    try:
        known: dict[str, Any] = json.loads((home() / MEMO).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        # Losing the memo costs a question, nothing else.
        return {}
    return known


def _key(name: str) -> str:
    return f"{without_user(tracking_uri())} {name}"


def _state(database: Path) -> list[int]:
    stat = database.stat()
    return [stat.st_size, stat.st_mtime_ns]


def _rows(known: dict[str, Any]) -> list[VersionRow]:
    return [VersionRow(**row | {"aliases": tuple(row["aliases"])}) for row in known["versions"]]
