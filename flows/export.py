"""Export: which model a person names, what it was made from, and how its export is shown.

Parity with the merged model is part of every export; where the store knows the adapter and the base that the
model was made from, they are held against it too.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.chat import MERGED
from flows.lines import size, table
from pipeline_lib.core.errors import ConfigError
from pipeline_lib.core.manifest import MANIFEST, Manifest
from pipeline_lib.kinds import Adapter, Registration, Trained

if TYPE_CHECKING:
    from tasks.export import Exported


def export(model: Path, form: str, out: Path | None, quantization: str, *, force: bool) -> Exported:
    """Write the model in a directory in the format named, proven the same; return what was written."""
    from tasks.export import FORMATS, QUANTIZATIONS, export_model

    chosen = next((known for known in FORMATS if known == form), None)
    rounded = next((known for known in QUANTIZATIONS if known == quantization), None)
    if chosen is None:
        raise ConfigError(f"--format {form}: no such format; known are {', '.join(FORMATS)}")
    if rounded is None:
        raise ConfigError(f"--quantization {quantization}: none such; known are {', '.join(QUANTIZATIONS)}")
    adapter, base = behind(model)
    destination = out or Path("export") / chosen
    return export_model(
        model, chosen, destination, adapter=adapter, base=base, quantization=rounded, force=force
    )


def behind(model: Path) -> tuple[Path | None, Path | None]:
    """Return the adapter and the base that a merged model was made from, as far as the store has them."""
    if not (model / MANIFEST).exists():
        return None, None
    manifest = Manifest.read(model / MANIFEST)
    root = model.resolve().parents[1]
    places = {name: root / reference.address for name, reference in manifest.inputs.items()}
    trained, base = places.get("trained"), places.get("base")
    if manifest.stage != MERGED or not (trained and trained.is_dir() and base and base.is_dir()):
        return None, None
    return (trained, base) if Trained.kind_of(trained) is Adapter else (None, None)


def check_push(repository: str) -> None:
    """Raise ConfigError where a push to ``repository`` could not even begin."""
    from tasks.export import check_push as check

    check(repository)


def push(exported: Exported, repository: str, model: Path, *, public: bool) -> str:
    """Upload an export of ``model`` to a hub, with the card it was registered with; return where it is."""
    from tasks.export import push as upload

    return upload(exported.path, repository, card_of(model), public=public)


def card_of(model: Path) -> Path | None:
    """Return the card of a model that the store knows a registration of; of several the newest."""
    if not (model / MANIFEST).exists():
        return None
    digest = Manifest.read(model / MANIFEST).digest
    cards = [
        (path.stat().st_mtime, path.with_name(Registration.CARD))
        for path in model.resolve().parents[1].glob(f"register/*/{MANIFEST}")
        if Manifest.read(path).inputs["model"].digest == digest
    ]
    return max(cards)[1] if cards else None


def as_json(exported: Exported, pushed: str | None = None) -> dict[str, Any]:
    """Return the export as JSON values: where it is, its files in bytes, and every figure of parity."""
    return {
        "format": exported.format,
        "path": str(exported.path),
        "files": {str(f.relative_to(exported.path)): f.stat().st_size for f in exported.files},
        "parity": [vars(comparison) for comparison in exported.parity.comparisons],
        "notes": list(exported.parity.notes),
        "pushed": pushed,
    }


def lines_of(exported: Exported, pushed: str | None = None) -> Iterator[str]:
    """Yield parity's figures with their bounds, and where the export stands."""
    for comparison in exported.parity.comparisons:
        yield f"parity: {comparison.name}"
        rows = [
            (
                "",
                key,
                f"{value:.3g}",
                f"bound {comparison.bounds[key]:.3g}" if key in comparison.bounds else "",
            )
            for key, value in comparison.figures.items()
        ]
        yield from table(rows)
    yield from (f"note: {note}" for note in exported.parity.notes)
    yield ""
    yield f"{exported.format}  {exported.path}  {size(sum(f.stat().st_size for f in exported.files))}"
    if pushed:
        yield f"pushed  {pushed}"
