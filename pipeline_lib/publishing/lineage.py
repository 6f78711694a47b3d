"""Lineage: every artifact that stands behind one, found by the addresses in the manifests.

An *ancestor* is an artifact with its label: the stage's name, numbered from the second use of a stage on
(``train``, ``train.2``). The one without a number is behind the result, if one is: this model's training and
not the champion's; then the one with the most behind it: the fine-tuning and not the pretraining.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pipeline_lib.core.artifact import Artifact
from pipeline_lib.core.manifest import MANIFEST, Manifest


@dataclass(frozen=True)
class Ancestor:
    """An artifact behind a result, and the name under which a reader finds it."""

    label: str
    path: Path
    manifest: Manifest

    @property
    def address(self) -> str:
        """``<stage>/<fingerprint>``, the place in the store."""
        return f"{self.path.parent.name}/{self.path.name}"


def lineage(artifacts: Iterable[Artifact], result: Artifact | None = None) -> list[Ancestor]:
    """Return the artifacts and all that they were made from, each once, what came first first.

    What is no longer in the store is left out. What is behind ``result`` is labelled before the rest.
    """
    found: dict[str, tuple[Path, Manifest]] = {}
    for artifact in artifacts:
        _visit(artifact.path, found)
    labels = _labels(found, set(_behind(result.path)) if result else set())
    return [Ancestor(labels[address], path, manifest) for address, (path, manifest) in found.items()]


def _labels(found: dict[str, tuple[Path, Manifest]], own: set[str]) -> dict[str, str]:
    """Name each use of a stage, ``own`` first, then the most behind it, in whatever order they were found."""
    uses: Counter[str] = Counter()
    labels = {}

    def rank(address: str) -> tuple[bool, int, str]:
        return address not in own, -len(_behind(found[address][0])), address

    for address in sorted(found, key=rank):
        stage = found[address][1].stage
        uses[stage] += 1
        labels[address] = stage if uses[stage] == 1 else f"{stage}.{uses[stage]}"
    return labels


def _behind(path: Path) -> dict[str, tuple[Path, Manifest]]:
    found: dict[str, tuple[Path, Manifest]] = {}
    _visit(path, found)
    return found


def _visit(path: Path, found: dict[str, tuple[Path, Manifest]]) -> None:
    address = f"{path.parent.name}/{path.name}"
    if address in found or not (path / MANIFEST).exists():
        return
    manifest = Manifest.read(path / MANIFEST)
    for parent in _parents(path, manifest):
        _visit(parent, found)
    found[address] = (path, manifest)


def _parents(path: Path, manifest: Manifest) -> Iterator[Path]:
    root = path.parents[1]
    for reference in manifest.inputs.values():
        if not reference.address.startswith("outside:"):
            yield root / reference.address
