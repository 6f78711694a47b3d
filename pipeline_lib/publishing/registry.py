"""Versions of a registered model: which are there, which is the champion, and the way back.

*champion* and *candidate* are aliases in MLflow's registry. Who was champion before is kept on each
version (tag ``former_champion``), and every change with its reason on the model (tag ``history``, JSON).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline_lib.core.errors import ConfigError
from pipeline_lib.publishing.connection import connected

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion, RegisteredModel

CHAMPION, CANDIDATE = "champion", "candidate"
FORMER, HISTORY = "former_champion", "history"
HELD_AGAINST = "held_against"
"""Tag of a version whose verdict stands: the digest of the champion's model that it was held against."""
REASON = "reason"
"""Tag of every version that is or was champion: why it last became that or ceased to be."""
OURS = "fingerprint"
OVERRULED = "promote over a closed gate"
TAG_LENGTH = 5000  # of a registered model's and a version's tag in MLflow's database
REASON_LENGTH = 300


@dataclass(frozen=True)
class VersionRow:
    """One version in the registry, with the verdict that stands behind it."""

    name: str
    version: int
    aliases: tuple[str, ...]
    verdict: str
    created: str
    run_id: str
    fingerprint: str
    digest: str
    stored: str
    """``weights`` or ``adapter`` where MLflow holds them, ``reference`` where it holds the store's path."""
    path: str
    former_champion: int | None
    reason: str
    """Why it last became champion or ceased to be."""
    held_against: str
    """Digest of the champion's model of that time, or ``nobody``; empty where no verdict stands."""

    @property
    def address(self) -> str:
        """``<stage>/<fingerprint>`` of the model; its name and version where it came from elsewhere."""
        return "/".join(Path(self.path).parts[-2:]) or f"{self.name}/{self.version}"

    @property
    def gate_closed(self) -> bool:
        """Whether it was judged, and the gate did not open."""
        return self.verdict == "closed"


def versions(name: str | None = None) -> list[VersionRow]:
    """Return the versions of one model, or of all, newest first; ConfigError for an unknown name."""
    with connected() as client:
        models = [_model(client, name)] if name else client.search_registered_models(order_by=["name ASC"])
        return [row for model in models for row in _rows(client, model)]


def versions_of(client: MlflowClient, name: str) -> list[VersionRow]:
    """Return the versions of one model, newest first; none where the registry does not have it."""
    models = client.search_registered_models(f"name = '{quoted(name)}'")
    return [row for model in models for row in _rows(client, model)]


def _rows(client: MlflowClient, model: RegisteredModel) -> list[VersionRow]:
    aliases: dict[int, list[str]] = {}
    for alias, version in model.aliases.items():
        aliases.setdefault(int(version), []).append(alias)
    found = client.search_model_versions(f"name = '{quoted(model.name)}'")
    rows = [_row(version, aliases.get(int(version.version), [])) for version in found]
    return sorted(rows, key=lambda row: -row.version)


def _row(version: ModelVersion, aliases: list[str]) -> VersionRow:
    tags: dict[str, str] = version.tags
    return VersionRow(
        name=version.name,
        version=int(version.version),
        aliases=tuple(sorted(aliases)),
        verdict=tags.get("verdict", ""),
        created=datetime.fromtimestamp(version.creation_timestamp / 1000, UTC).isoformat(timespec="seconds"),
        run_id=version.run_id or "",
        fingerprint=tags.get("fingerprint", ""),
        digest=tags.get("digest", ""),
        stored=tags.get("stored", ""),
        path=tags.get("path", ""),
        former_champion=int(tags[FORMER]) if FORMER in tags else None,
        reason=tags.get(REASON, ""),
        held_against=tags.get(HELD_AGAINST, ""),
    )


def promote(name: str, version: int, reason: str) -> VersionRow:
    """Make ``version`` the champion, remember the former one, and return the version's row.

    A person may overrule a closed gate: that it was closed is kept beside the reason.
    """
    with connected() as client:
        _require(client, name, version)
        overruled = _find(client, name, version).gate_closed
        crown(client, name, version, reason, OVERRULED if overruled else "promote")
        return _find(client, name, version)


def rollback(name: str, version: int | None, reason: str) -> VersionRow:
    """Give the champion's alias back to the former champion, or to the earlier champion ``version``.

    Raises ConfigError where there is no champion, none before it, or ``version`` never was one.
    """
    with connected() as client:
        _model(client, name)
        current = champion(client, name)
        if current is None:
            raise ConfigError(
                f"{name} has no champion to roll back; `finetune promote {name} VERSION` makes one"
            )
        target = version if version is not None else _former(client, name, current)
        _require(client, name, target)
        if target == current:
            raise ConfigError(f"{name} version {target} is the champion; name an earlier one")
        if REASON not in client.get_model_version(name, str(target)).tags:
            raise ConfigError(
                f"{name} version {target} never was champion; use `finetune promote {name} {target}`"
            )
        crown(client, name, target, reason, "rollback")
        return _find(client, name, target)


def _former(client: MlflowClient, name: str, current: int) -> int:
    former = client.get_model_version(name, str(current)).tags.get(FORMER)
    if former is None:
        raise ConfigError(f"{name} version {current} is its first champion; name the version to go back to")
    return int(former)


def crown(client: MlflowClient, name: str, version: int, reason: str, action: str) -> None:
    """Set the champion's alias, and keep who it was before and why it changed, if it changed."""
    former = champion(client, name)
    if former == version:
        return
    reason = reason[:REASON_LENGTH]
    entry = {
        "action": action,
        "version": version,
        "former": former,
        "reason": reason,
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    _append_history(client, name, entry)
    # A rollback does not make the champion that failed the one to go back to next.
    if former is not None and action != "rollback":
        client.set_model_version_tag(name, str(version), FORMER, str(former))
        client.set_registered_model_tag(name, FORMER, str(former))
    client.set_model_version_tag(name, str(version), REASON, f"{action}: {reason}")
    if former is not None:
        client.set_model_version_tag(name, str(former), REASON, f"replaced by version {version}: {reason}")
    client.set_registered_model_alias(name, CHAMPION, str(version))


def champion(client: MlflowClient, name: str) -> int | None:
    """Return the version that has the champion's alias, if one has."""
    version = client.get_registered_model(name).aliases.get(CHAMPION)
    return int(version) if version is not None else None


def history(client: MlflowClient, name: str) -> list[dict[str, Any]]:
    """Return the changes of champion that are remembered, oldest first."""
    entries: list[dict[str, Any]] = json.loads(client.get_registered_model(name).tags.get(HISTORY, "[]"))
    return entries


def _append_history(client: MlflowClient, name: str, entry: dict[str, Any]) -> None:
    entries = [*history(client, name), entry]
    while len(text := json.dumps(entries, ensure_ascii=False)) > TAG_LENGTH:
        entries = entries[1:]
    client.set_registered_model_tag(name, HISTORY, text)


def require_name(client: MlflowClient, name: str) -> None:
    """Make the registered model unless it is there; ConfigError where the name is taken by others."""
    from mlflow import MlflowException

    try:
        client.create_registered_model(name)
        return
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    kept = client.search_model_versions(f"name = '{quoted(name)}'")
    # MLflow keeps prompts among the registered models, but leaves them out of this list.
    if not client.search_registered_models(f"name = '{quoted(name)}'"):
        there = "a prompt"
    elif kept and not any(OURS in version.tags for version in kept):
        there = "a model of another origin"
    else:
        return
    raise ConfigError(
        f"the registry keeps {there} under the name {name!r}; set register.model_name to another"
    )


def quoted(name: str) -> str:
    """Return a name as it stands in a filter of MLflow."""
    return name.replace("'", "''")


def _model(client: MlflowClient, name: str) -> RegisteredModel:
    known = {model.name: model for model in client.search_registered_models(order_by=["name ASC"])}
    if name not in known:
        raise ConfigError(f"the registry has no model {name!r}; it has {', '.join(known) or 'none yet'}")
    return known[name]


def _require(client: MlflowClient, name: str, version: int) -> None:
    known = [row.version for row in _rows(client, _model(client, name))]
    if version not in known:
        raise ConfigError(f"{name} has no version {version}; it has {', '.join(map(str, known)) or 'none'}")


def _find(client: MlflowClient, name: str, version: int) -> VersionRow:
    return next(row for row in _rows(client, _model(client, name)) if row.version == version)
