"""A remote: the files of a store on any fsspec file system, read and written in spite of refused requests.

A *key* is a path below the remote's base. What is refused for a moment (a busy server, a broken connection)
is tried again with growing pauses; what is wrong for good (no such bucket, no permission) is a StoreError
at once. Messages name the URL without the user and password that it may hold. Credentials and endpoints
are the file system's own affair: environment or its config files (``AWS_…``, ``FSSPEC_…``).

`pipeline_lib.core.mirror` decides what is written where; `pipeline_lib.core.lease` waits for other builders.
"""

from __future__ import annotations

import errno
import hashlib
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from pipeline_lib.core.errors import ConfigError, StoreError

T = TypeVar("T")
TRIES = 7
FIRST_PAUSE = 0.1
"""Seconds; doubled after each try, so that the last one comes after about six."""
ANSWERS = (FileNotFoundError, FileExistsError)
FINAL = (PermissionError, IsADirectoryError, NotADirectoryError, ValueError, TypeError, NotImplementedError)
OWN_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


def without_user(url: str) -> str:
    """Return ``url`` without the user and password, the query and the fragment that it may hold.

    What is no URL comes back as it is.
    """
    if "://" not in url:
        return url
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}".rstrip("/")


@dataclass(frozen=True)
class Remote:
    """A prefix on an fsspec file system."""

    fs: Any = field(repr=False)
    base: str = field(repr=False)
    url: str
    """For messages: holds no user and no password."""
    secrets: tuple[str, ...] = field(default=(), repr=False)
    """What is blotted out where a message of the file system repeats it."""

    @classmethod
    def at(cls, url: str) -> Remote:
        """Return the remote at an fsspec URL; ConfigError where no file system answers for it."""
        from fsspec.core import url_to_fs

        shown = without_user(url)
        try:
            fs, base = url_to_fs(url)
        except ImportError as error:
            raise ConfigError(
                f"FINETUNE_STORE={shown}: {_line(error)}; s3:// comes with `pip install 'finetune-flows[s3]'`"
            ) from error
        except ValueError as error:
            raise ConfigError(
                f"FINETUNE_STORE={shown}: no such kind of store; give a directory or an fsspec URL"
            ) from error
        user = urlsplit(url).netloc.rpartition("@")[0]
        return cls(fs, str(base).rstrip("/"), shown, tuple(filter(None, (user, *user.split(":")))))

    def read(self, key: str) -> bytes | None:
        """Return the bytes under ``key``, or None where there are none."""
        try:
            found: bytes = self._tried(key, lambda: self.fs.cat_file(self._path(key)))
        except FileNotFoundError:
            return None
        return found

    def write(self, key: str, data: bytes) -> None:
        """Write a small object whole."""
        self._put(key, lambda: self.fs.pipe_file(self._path(key), data))

    def create(self, key: str, data: bytes) -> bool:
        """Write a small object unless there is one, and say whether it was written.

        As one step where the file system can (S3 by ``If-None-Match``); else two may both hear True.
        """
        try:
            self._put(key, lambda: self._create(key, data))
        except FileExistsError:
            return self.read(key) == data
        return True

    def _create(self, key: str, data: bytes) -> None:
        try:
            self.fs.pipe_file(self._path(key), data, mode="create")
        except OSError as error:
            # How s3fs words "precondition failed" where the server does not name the condition.
            if error.errno == errno.EINVAL:
                raise FileExistsError(key) from error
            raise

    def remove(self, key: str) -> None:
        """Remove one object; none is fine."""
        try:
            self._tried(key, lambda: self.fs.rm_file(self._path(key)))
        except FileNotFoundError:
            return

    def push(self, file: Path, key: str) -> None:
        """Upload a local file."""
        self._put(key, lambda: self.fs.put_file(str(file), self._path(key)))

    def pull(self, key: str, file: Path) -> None:
        """Download to a local file; FileNotFoundError where there is nothing under ``key``."""
        self._tried(key, lambda: self.fs.get_file(self._path(key), str(file)))

    def size(self, key: str) -> int | None:
        """Return the bytes of an object; None where there is none."""
        try:
            return self._tried(key, lambda: self._size(key))
        except FileNotFoundError:
            return None

    def _size(self, key: str) -> int:
        self.fs.invalidate_cache()
        return int(self.fs.size(self._path(key)))

    def digest(self, key: str) -> str | None:
        """Return the sha256 (hex) of an object, read in pieces; None where there is none."""
        try:
            return self._tried(key, lambda: self._digest(key))
        except FileNotFoundError:
            return None

    def _digest(self, key: str) -> str:
        with self.fs.open(self._path(key), "rb") as data:
            return hashlib.file_digest(data, "sha256").hexdigest()

    def remove_all(self, key: str) -> None:
        """Remove every object below ``key``; none is fine."""
        try:
            self._tried(key, lambda: self._remove_all(key))
        except FileNotFoundError:
            return

    def _remove_all(self, key: str) -> None:
        self.fs.invalidate_cache()
        self.fs.rm(self._path(key), recursive=True)

    def names(self, key: str = "") -> list[str]:
        """Return the names right below ``key``, sorted; none where there is nothing."""
        return self._tried(key, lambda: self._names(key))

    def _names(self, key: str) -> list[str]:
        self.fs.invalidate_cache()
        try:
            found = self.fs.ls(self._path(key), detail=False)
        except FileNotFoundError:
            return []
        return sorted({str(path).rstrip("/").rpartition("/")[2] for path in found} - {""})

    def _path(self, key: str) -> str:
        return f"{self.base}/{key}".rstrip("/")

    def _put(self, key: str, call: Callable[[], object]) -> None:
        try:
            self._tried(key, lambda: self._in_its_place(key, call))
        except FileNotFoundError as error:
            raise self._error(key, error, "create the bucket or directory first") from error

    def _in_its_place(self, key: str, call: Callable[[], object]) -> None:
        # fsspec's object stores are its asynchronous file systems; they have no directories, and s3fs would
        # answer the wish for one with a new bucket.
        if not self.fs.async_impl:
            self.fs.makedirs(self._path(key).rpartition("/")[0], exist_ok=True)
        call()

    def _tried(self, key: str, call: Callable[[], T]) -> T:
        """Return what ``call`` returns, tried again where it fails for what may pass."""
        for left in reversed(range(TRIES)):
            try:
                return call()
            except ANSWERS:
                raise
            except FINAL as error:
                raise self._error(key, error, "check the credentials and the address") from error
            except Exception as error:  # each file system has error classes of its own
                if isinstance(error, OSError) and error.errno in OWN_DISK:
                    raise
                if not left:
                    raise self._error(key, error, "what is done is kept; run again later") from error
                pause = FIRST_PAUSE * 2 ** (TRIES - 1 - left)
                time.sleep(pause * random.uniform(0.75, 1.25))
        raise AssertionError("the last try returns or raises")

    def _error(self, key: str, error: Exception, remedy: str) -> StoreError:
        text = _line(error)
        for secret in self.secrets:
            text = text.replace(secret, "***")
        return StoreError(f"{self.url}/{key}: {type(error).__name__}: {text}; {remedy}")


def _line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), "no message")
