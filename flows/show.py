"""Show: one artifact with a look into it, or one conversation on its way through curation."""

from __future__ import annotations

import json
import shutil
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from flows.call import call_of, look, open_store
from flows.lines import duration, figure, size
from pipeline_lib import kinds
from pipeline_lib.core.artifact import Artifact
from pipeline_lib.core.errors import ConfigError, FinetuneError, did_you_mean
from pipeline_lib.core.manifest import MANIFEST, Manifest
from pipeline_lib.core.runs import links, runs_of
from pipeline_lib.core.store import Store
from pipeline_lib.kinds import Dataset, Evaluation, Tokens, Verdict

MESSAGE_LENGTH = 400
LAST_OF_CURATION = "split"
DROPPED = "dropped"


def artifacts_of(config: Path | None, overrides: list[str], needed: str | None = None) -> dict[str, Artifact]:
    """Return the artifacts of a config's pipeline by name, or those of the latest run (that used ``needed``).

    Raises ConfigError where no run is recorded.
    """
    if config:
        return look(call_of(config, overrides)).artifacts
    runs = [named for run in runs_of(open_store().root) if (named := links(run))]
    if not runs:
        raise ConfigError(
            "no run is recorded in the store; `finetune run CONFIG` makes one, or name a CONFIG"
        )
    latest = next((named for named in runs if needed in named), runs[0])
    return {name: open_artifact(path) for name, path in _in_order(latest).items()}


def _in_order(named: Mapping[str, Path]) -> dict[str, Path]:
    """Return a run's links in the order in which the artifacts were made from each other."""
    known = {path.resolve(): name for name, path in named.items()}
    ordered: dict[str, Path] = {}

    def visit(name: str) -> None:
        if name in ordered or not (named[name] / MANIFEST).exists():
            return
        root = named[name].parents[1]
        for ref in Manifest.read(named[name] / MANIFEST).inputs.values():
            if before := known.get((root / ref.address).resolve()):
                visit(before)
        ordered[name] = named[name]

    for name in named:
        visit(name)
    return ordered


def open_artifact(path: Path) -> Artifact:
    """Return the artifact in a directory, as the kind that its manifest says."""
    manifest = Manifest.read(path / MANIFEST)
    kind = getattr(kinds, manifest.kind, Artifact)
    opened: Artifact = kind(path, manifest.digest, manifest.fingerprint)
    return opened


def find(what: str, config: Path | None, overrides: list[str]) -> Artifact:
    """Return the artifact at a path, or that of a stage in the config's pipeline or the latest run."""
    if (Path(what) / MANIFEST).exists():
        return open_artifact(Path(what))
    known = artifacts_of(config, overrides, what)
    if what in known:
        return known[what]
    store = open_store()
    if path := _by_fingerprint(store, what):
        return open_artifact(path)
    where = f"{config}'s pipeline" if config else "the latest run"
    raise ConfigError(
        f"{what!r} is neither an artifact's directory nor a stage that {where} has built; "
        + did_you_mean(what, known)
    )


def _by_fingerprint(store: Store, what: str) -> Path | None:
    """Return the directory of ``stage/fingerprint`` or of a fingerprint, as far as tables print it."""
    stage, _, beginning = what.rpartition("/")
    found = [
        path.parent
        for path in store.root.glob(f"{stage or '[!.]*'}/{beginning}*/{MANIFEST}")
        if path.parent.parent.name != "runs"
    ]
    return found[0] if len(found) == 1 and len(beginning) >= 6 else None


def lines_of(artifact: Artifact, part: str | None, count: int) -> Iterator[str]:
    """Yield what a person wants to know about an artifact."""
    manifest = artifact.manifest
    yield f"{manifest.stage}  {artifact.fingerprint[:12]}  {manifest.kind}"
    yield from _facts(artifact, manifest)
    if manifest.stats:
        yield from ("", "stats", *(f"  {line}" for line in _tree(manifest.stats)))
    if isinstance(artifact, Dataset):
        yield from _rows(artifact, part, count)
    elif isinstance(artifact, Tokens) and part == DROPPED:
        yield from ("", *_unlearnt(artifact, count))
    elif isinstance(artifact, Evaluation):
        yield from ("", "scores", *(f"  {line}" for line in _tree(artifact.scores().get("scores", {}))))
    elif isinstance(artifact, Verdict):
        yield from (
            "",
            "rules",
            *(
                f"  {'passed' if rule['passed'] else 'failed'}  {rule['reason']}"
                for rule in artifact.read()["rules"]
            ),
        )


def _facts(artifact: Artifact, manifest: Manifest) -> Iterator[str]:
    made = manifest.provenance
    facts = {
        "path": str(artifact.path),
        "fingerprint": manifest.fingerprint,
        "digest": manifest.digest,
        "version": str(manifest.version),
        "built": f"{made.started} in {duration(made.seconds)}, {made.peak_memory_mb:.0f} MB at most",
        "command": made.command,
        "code": f"{made.git_commit[:12] if made.git_commit else 'no commit'}",
        "files": f"{len(manifest.files)}, {size(sum(file.bytes for file in manifest.files))}",
    }
    yield from (f"  {name:<12}{text}" for name, text in facts.items())
    for name, ref in manifest.inputs.items():
        stage, _, fingerprint = ref.address.partition("/")
        place = f"{stage}/{fingerprint[:12]}" if fingerprint else ref.address
        yield f"  {'input':<12}{name}: {place}  (digest {ref.digest[:12]})"
    yield f"  {'config':<12}{json.dumps(manifest.config, ensure_ascii=False)}"


def _tree(value: Mapping[str, Any], depth: int = 0) -> Iterator[str]:
    width = max((len(str(key)) for key in value), default=0)
    for key, inner in value.items():
        if isinstance(inner, Mapping) and inner:
            yield f"{'  ' * depth}{key}"
            yield from _tree(inner, depth + 1)
        elif isinstance(inner, list) and inner and isinstance(inner[0], Mapping):
            for i, item in enumerate(inner):
                yield f"{'  ' * depth}{key}.{i}"
                yield from _tree(item, depth + 1)
        else:
            yield f"{'  ' * depth}{key!s:<{width}}  {figure(inner)}"


def _rows(dataset: Dataset, part: str | None, count: int) -> Iterator[str]:
    from tasks.reading import head, parts_of

    chosen = part or parts_of(dataset)[0]
    rows = head(dataset, chosen, count)
    yield from ("", f"{chosen}: {len(rows)} of {dataset.count(chosen)}")
    for row in rows:
        yield ""
        yield from conversation_lines(row)


def _unlearnt(tokens: Tokens, count: int) -> Iterator[str]:
    from tasks.reading import unlearnt

    rows = unlearnt(tokens, count)
    yield f"{DROPPED}: {len(rows)} of {sum(part['dropped'] for part in tokens.manifest.stats.values())}"
    yield from (f"  {row['id']}  {row['part']}  {row['reason']}  {row['detail']}".rstrip() for row in rows)


def conversation_lines(row: Mapping[str, Any]) -> Iterator[str]:
    """Yield one conversation: its id and origin, why it was dropped, and its messages, shortened."""
    from tasks.reading import origin

    yield f"  {row['id']}  {origin(row)}"
    if row.get("reason"):
        yield f"  dropped: {row['reason']}  {row.get('detail') or ''}".rstrip()
    for column in ("messages", "chosen", "rejected"):
        for message in row[column] or ():
            who = message["role"] if column == "messages" else f"{column} {message['role']}"
            yield from _wrapped(who, message["content"] or "")


def _wrapped(who: str, text: str) -> Iterator[str]:
    shown = text if len(text) <= MESSAGE_LENGTH else f"{text[:MESSAGE_LENGTH]} … ({len(text)} characters)"
    width = max(60, min(shutil.get_terminal_size((110, 24)).columns, 140))
    for i, line in enumerate(shown.splitlines() or [""]):
        head = f"    {who if i == 0 else '':<10} "
        yield from textwrap.wrap(line, width, initial_indent=head, subsequent_indent=" " * len(head)) or [
            head.rstrip()
        ]


def as_json(artifact: Artifact, part: str | None, count: int) -> dict[str, Any]:
    """Return an artifact's path, manifest and first rows as JSON values."""
    from tasks.reading import head, parts_of, unlearnt

    rows: list[Any] = []
    if isinstance(artifact, Dataset):
        rows = head(artifact, part or parts_of(artifact)[0], count)
    elif isinstance(artifact, Tokens) and part == DROPPED:
        rows = unlearnt(artifact, count)
    return {"path": str(artifact.path), "manifest": artifact.manifest.model_dump(mode="json"), "rows": rows}


def trace_lines(wanted: str, config: Path | None, overrides: list[str]) -> Iterator[str]:
    """Yield where a conversation came from and what each stage did with it, up to what training learns."""
    from tasks.reading import trace

    first, fates = trace(_datasets(config, overrides), wanted)
    yield from conversation_lines(first)
    yield ""
    width = max(len(fate.stage) for fate in fates)
    for fate in fates:
        said = fate.part or "not there"
        changed = "  its text was changed" if fate.changed else ""
        reason = f"  {fate.reason}: {fate.detail}" if fate.reason else ""
        yield f"  {fate.stage:<{width}}  {said}{reason}{changed}"


def trace_json(wanted: str, config: Path | None, overrides: list[str]) -> dict[str, Any]:
    """Return a conversation and its fates as JSON values."""
    from dataclasses import asdict

    from tasks.reading import trace

    first, fates = trace(_datasets(config, overrides), wanted)
    return {"conversation": first, "fates": [asdict(fate) for fate in fates]}


def _datasets(config: Path | None, overrides: list[str]) -> dict[str, Dataset | Tokens]:
    found = {
        name: artifact
        for name, artifact in artifacts_of(config, overrides, LAST_OF_CURATION).items()
        if isinstance(artifact, Dataset | Tokens)
    }
    if not found:
        raise FinetuneError("no dataset is built yet; `finetune run` builds them")
    return found
