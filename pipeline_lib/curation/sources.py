"""Sources: where conversations come from, which files that means, and the digest of their content.

A *source* is one entry of ``ingest.sources``: a path (file, glob, folder, fsspec URL), a dataset of the
Hugging Face hub, or a source by name (``pydocs``). Every run, up to date or not, comes through here, so this
module imports nothing heavy; ``hub`` knows the hub, ``readers`` open the files.
"""

from __future__ import annotations

import difflib
import hashlib
import io
import itertools
import os
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, Literal

from pydantic import Field, field_validator, model_validator

from pipeline_lib.core.config import StageConfig
from pipeline_lib.core.errors import ConfigError, DataError
from pipeline_lib.core.fingerprint import BLOCK, digest_entries
from pipeline_lib.core.outside import FileDigests
from pipeline_lib.core.stage import syntax_hash
from pipeline_lib.curation import hub
from pipeline_lib.curation.readers import is_readable_name
from pipeline_lib.curation.shapes import COLUMNS, Format
from pipeline_lib.settings import file_digests

_MAGIC = "*?["
_NOT_DATA = ("readme", "license", "dataset_info", "dataset_infos", "changelog")
_SECRET = re.compile(r"://(?:[^/?#]*@|.*[?&][^=&]*(?:token|secret|passw|key|sig)[^=&]*=)", re.IGNORECASE)
"""What lets a reader in: user and password, or a token or signature among the parameters of a URL."""
_ETAGS = ("ETag", "etag", "sha256", "md5Hash", "content_md5", "checksum")


class Source(StageConfig):
    """One place that conversations come from: exactly one of path, hub and name."""

    path: str | None = Field(default=None, description="File, glob, folder or fsspec URL.")
    hub: str | None = Field(
        default=None, description="Dataset on the Hugging Face hub: owner/name, or owner/name/folder."
    )
    name: Literal["pydocs"] | None = Field(
        default=None, description="Source by name: pydocs, the documentation of this Python."
    )
    format: Format | None = Field(
        default=None, description="What the rows mean; none detects it from their keys."
    )
    columns: dict[str, str] = Field(
        default={}, description="Our names to the file's: {instruction: question, output: answer}."
    )
    revision: str | None = Field(
        default=None, description="Branch, tag or commit of a hub dataset; none is main."
    )
    split: str | None = Field(
        default=None, description="Split of a hub dataset whose files are read; none reads all."
    )
    weight: float = Field(
        default=1.0, gt=0, description="Share of the conversations that is kept, chosen by hash, over 0 to 1."
    )
    limit: int | None = Field(
        default=None, ge=1, description="Conversations kept at most, from the beginning; none keeps all."
    )

    @model_validator(mode="before")
    @classmethod
    def _is_a_mapping(cls, value: Any) -> Any:
        if isinstance(value, str):
            raise ValueError(f"a source is a mapping: write {{path: {value}}}, or hub or name for path")
        return value

    @field_validator("path")
    @classmethod
    def _no_secret(cls, path: str | None) -> str | None:
        if path and _SECRET.search(path):
            raise ValueError(
                "a secret in a URL would stand in every manifest; give it by fsspec's environment, such as "
                """FSSPEC_HTTPS='{"headers": {"Authorization": "…"}}' or AWS_…, and take it out of the URL"""
            )
        return path

    @field_validator("weight")
    @classmethod
    def _no_repeats(cls, weight: float) -> float:
        if weight > 1:
            raise ValueError(
                "a weight over 1 would repeat conversations; lower the weights of the other sources instead"
            )
        return weight

    @field_validator("columns")
    @classmethod
    def _names_columns(cls, columns: dict[str, str]) -> dict[str, str]:
        for ours, theirs in columns.items():
            # `prompt_id` is a name of its own, `promt` is not.
            known = [name for name in sorted(COLUMNS) if name.count("_") == ours.count("_")]
            near = difflib.get_close_matches(ours, known, n=1, cutoff=0.75)
            if near and ours not in COLUMNS:
                raise ValueError(f"no format knows a column {ours!r}; did you mean {near[0]!r}?")
            twice = [name for name, column in columns.items() if column == theirs]
            if len(twice) > 1:
                raise ValueError(f"{' and '.join(twice)} are both to be the file's {theirs!r}; name it once")
        return columns

    @model_validator(mode="after")
    def _one_place(self) -> Source:
        given = [key for key in ("path", "hub", "name") if getattr(self, key) is not None]
        if len(given) != 1:
            raise ValueError(
                f"a source has exactly one of path, hub and name, here: {', '.join(given) or 'none'}"
            )
        if not self.hub and (self.revision or self.split):
            raise ValueError("revision and split belong to a source with hub")
        if self.name and (self.format or self.columns):
            raise ValueError("format and columns belong to a source with path or hub")
        return self

    @property
    def label(self) -> str:
        """What the source is called in the records: the dataset's or the file's name, or ``pydocs``."""
        return self.place.rstrip("/").rsplit("/", 1)[-1] if self.path else self.place

    @property
    def place(self) -> str:
        """The source as the config names it."""
        return str(self.name or self.hub or self.path)


@dataclass(frozen=True)
class File:
    """A file of a source: its name relative to the source's root, and how to open it."""

    name: str
    place: str
    """Where it is, in the words of the config: for errors."""
    open: Callable[[], BinaryIO]
    bytes: int
    path: Path | None = None
    mark: str = ""
    """What stands for the content of a remote file (its ETag or checksum); empty where nothing does."""


def source_digests(config: Any) -> dict[str, str]:
    """Return the digest of every source's content as ``{"source.0": …}``.

    Raises ConfigError without any source, DataError where a file is missing or a dataset cannot be resolved.
    """
    if not config.sources:
        raise ConfigError(
            "ingest.sources is empty; name a source, such as --set 'ingest.sources=[{path: data.jsonl}]'"
        )
    memo = file_digests()
    return {f"source.{i}": _digest(source, memo) for i, source in enumerate(config.sources)}


def files_of(source: Source) -> list[File]:
    """Return the files of a source with a path or a hub dataset (which is downloaded), sorted by name."""
    if source.hub:
        found = [
            replace(file, place=f"{source.hub}/{file.name}")
            for file in _local_files(hub.download(source.hub, source.revision))
        ]
        wanted = [file for file in found if source.split is None or hub.is_of_split(file.name, source.split)]
        if not wanted:
            raise DataError(
                f"{source.hub}: none of its {len(found)} data files is of split {source.split!r}; check it"
            )
        return wanted
    path = str(source.path)
    if path.startswith("file://"):
        path = path.removeprefix("file://")
    return _remote_files(path) if "://" in path else _local_files(Path(path).expanduser())


def digest_of_files(files: list[File], memo: FileDigests) -> str:
    """Return one digest of files by their names and contents (of remote ones by ETag, where there is one)."""
    return digest_entries(
        (file.name, memo.of(file.path) if file.path else file.mark or _hashed(file)) for file in files
    )


def _digest(source: Source, memo: FileDigests) -> str:
    if source.name:
        own = Path(__file__).with_name("pydocs.py").read_text(encoding="utf-8")
        version = ".".join(map(str, sys.version_info[:3]))
        return f"pydocs@{sys.implementation.name}-{version}-{sys.platform}-{syntax_hash(own)}"
    if source.hub:
        return f"{source.hub}@{hub.commit(source.hub, source.revision)}"
    return digest_of_files(files_of(source), memo)


def _local_files(path: Path) -> list[File]:
    try:
        return _found_files(path)
    except OSError as error:
        raise DataError(
            f"{error.filename or path}: cannot be read ({error.strerror}); check the path and its permissions"
        ) from error


def _found_files(path: Path) -> list[File]:
    if path.is_file():
        root, paths = path.parent, [path]
    elif path.is_dir():
        root = path
        paths = [found for found in _below(path) if _is_data(PurePosixPath(found.relative_to(path)))]
    elif any(sign in str(path) for sign in _MAGIC):
        plain = list(itertools.takewhile(lambda part: not any(sign in part for sign in _MAGIC), path.parts))
        root = Path(*plain)
        paths = [found for found in root.glob(str(Path(*path.parts[len(plain) :]))) if found.is_file()]
    else:
        raise DataError(f"{path}: no such file or folder; check the source's path")
    if not paths:
        why = "no data file in this folder" if path.is_dir() else "matches no file"
        raise DataError(f"{path}: {why}; check the source's path")
    return sorted((_local_file(found, root) for found in paths), key=lambda file: file.name)


def _below(folder: Path) -> Iterator[Path]:
    """Yield the files in a folder and below it; OSError for one that may not be looked into."""

    def refuse(error: OSError) -> None:
        raise error

    for here, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (found for name in names if (found := Path(here, name)).is_file())


def _local_file(path: Path, root: Path) -> File:
    name = path.relative_to(root).as_posix()
    return File(name, str(path), lambda: path.open("rb"), path.stat().st_size, path)


def _is_data(inside: PurePosixPath) -> bool:
    hidden = any(part.startswith(".") for part in inside.parts)
    return not hidden and is_readable_name(inside.name) and inside.name.split(".")[0].lower() not in _NOT_DATA


def _remote_files(url: str) -> list[File]:
    import fsspec

    try:
        system, path = fsspec.core.url_to_fs(url)
        names = sorted(system.glob(path)) if any(sign in path for sign in _MAGIC) else [path]
        if len(names) == 1 and system.isdir(names[0]):
            names = sorted(
                name for name in system.find(path) if _is_data(PurePosixPath(name).relative_to(path))
            )
        infos = [system.info(name) for name in names]
    except Exception as error:  # file systems raise what the libraries below them raise
        raise DataError(
            f"{url}: cannot be reached ({error}); check the address, the network and the credentials"
        ) from error
    if not infos:
        raise DataError(f"{url}: matches no file; check the source's path")
    return [_remote_file(system, info, path) for info in infos]


def _remote_file(system: Any, info: dict[str, Any], root: str) -> File:
    name, size = str(info["name"]), int(info.get("size") or 0)
    inside = name.removeprefix(root).lstrip("/") or name.rsplit("/", 1)[-1]
    mark = next((f"{key}={info[key]} {size}" for key in _ETAGS if info.get(key)), "")
    # fsspec's own files read no line up to a length, which a line without an end asks for.
    return File(
        inside,
        system.unstrip_protocol(name),
        lambda: io.BufferedReader(system.open(name, "rb")),
        size,
        mark=mark,
    )


def _hashed(file: File) -> str:
    sha = hashlib.sha256()
    try:
        with file.open() as stream:
            while block := stream.read(BLOCK):
                sha.update(block)
    except OSError as error:
        raise DataError(
            f"{file.place}: cannot be read ({error}); check the address and the network"
        ) from error
    return sha.hexdigest()
