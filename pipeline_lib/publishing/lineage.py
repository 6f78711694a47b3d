"""Lineage: every artifact that stands behind one, found by the addresses in the manifests.

An *ancestor* is an artifact with its label: the stage's name, numbered from the second use of a stage on
(``train``, ``train.2``), the use with the most behind it being the one without a number: the fine-tuning and
not the pretraining, the tuned model's evaluation and not the base model's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pipeline_lib.core.artifact import Artifact
from pipeline_lib.core.manifest import MANIFEST, Manifest
from pipeline_lib.kinds import Evaluation


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


def lineage(artifacts: Iterable[Artifact]) -> list[Ancestor]:
    """Return the artifacts and all that they were made from, each once, what came first first.

    What is no longer in the store is left out.
    """
    found: dict[str, tuple[Path, Manifest]] = {}
    for artifact in artifacts:
        _visit(artifact.path, found)
    labels = _labels(found)
    return [Ancestor(labels[address], path, manifest) for address, (path, manifest) in found.items()]


def _labels(found: dict[str, tuple[Path, Manifest]]) -> dict[str, str]:
    """Name each use of a stage, the one with the most behind it first, in whatever order they were found."""
    uses: Counter[str] = Counter()
    labels = {}
    for address in sorted(found, key=lambda address: (-_behind(found[address][0]), address)):
        stage = found[address][1].stage
        uses[stage] += 1
        labels[address] = stage if uses[stage] == 1 else f"{stage}.{uses[stage]}"
    return labels


def _behind(path: Path) -> int:
    found: dict[str, tuple[Path, Manifest]] = {}
    _visit(path, found)
    return len(found)


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


def descends_from(ancestor: Ancestor, address: str) -> bool:
    """Return whether the artifact at ``address`` is among what ``ancestor`` was made from."""
    found: dict[str, tuple[Path, Manifest]] = {}
    _visit(ancestor.path, found)
    return address in found


def base_evaluation(
    ancestors: Iterable[Ancestor], tuned: Evaluation, training: Artifact
) -> Evaluation | None:
    """Return the base model's evaluation: the one that ``training`` does not stand behind."""
    for ancestor in ancestors:
        other = ancestor.manifest.kind == Evaluation.__name__ and ancestor.address != tuned.address
        if other and not descends_from(ancestor, training.address):
            return Evaluation(ancestor.path, ancestor.manifest.digest, ancestor.manifest.fingerprint)
    return None
