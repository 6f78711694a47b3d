"""Digests of what stands outside the store: files by content or meaning, memoised on path, size and time.

The memo is a convenience: a file whose path, size and modification time (ns) are unchanged is not
read again. Losing it costs a re-read, nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from pipeline_lib.core.errors import DataError
from pipeline_lib.core.fingerprint import digest_entries, digest_file


class FileDigests:
    """SHA-256 of files, or another hash of each, remembered in a JSON file between processes."""

    def __init__(self, memo: Path, digest: Callable[[Path], str] = digest_file) -> None:
        """Read what is remembered at ``memo``, if anything."""
        self._path, self._digest = memo, digest
        try:
            self._known: dict[str, list[object]] = json.loads(memo.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            self._known = {}

    def of(self, path: Path) -> str:
        """Return the hash of a file; DataError where it cannot be read."""
        try:
            path = path.resolve(strict=True)
            stat = path.stat()
            state: list[object] = [stat.st_size, stat.st_mtime_ns]
            known = self._known.get(str(path))
            if known and known[:2] == state:
                return str(known[2])
            digest = self._digest(path)
        except OSError as error:
            raise DataError(
                f"{path}: cannot be read ({error.strerror or error}); check the path and its permissions"
            ) from error
        self._known[str(path)] = [*state, digest]
        self._save()
        return digest

    def of_all(self, paths: Sequence[Path], base: Path) -> str:
        """Return one digest over several files, by their paths relative to ``base``."""
        return digest_entries((p.relative_to(base).as_posix(), self.of(p)) for p in paths)

    def _save(self) -> None:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            fresh = self._path.with_suffix(".new")
            fresh.write_text(json.dumps(self._known), encoding="utf-8")
            fresh.replace(self._path)
        except OSError:
            # A memo that cannot be kept costs time, never correctness.
            return
