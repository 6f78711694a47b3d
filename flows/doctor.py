"""Doctor: what is installed, which devices and servers there are, and what to do about what is not."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit, urlunsplit

from flows.lines import paint, size
from pipeline_lib.core.errors import FinetuneError
from pipeline_lib.core.mirror import MirroredStore, open_store
from pipeline_lib.core.store import writable
from pipeline_lib.launch import cpu_has_bf16
from pipeline_lib.settings import home, settings

NEEDED = (
    "pydantic",
    "typer",
    "pyarrow",
    "numba",
    "torch",
    "transformers",
    "peft",
    "trl",
    "accelerate",
    "datasets",
    "evaluate",
    "prefect",
    "mlflow",
)
OPTIONAL = {"bitsandbytes": "gpu"}
"""Packages that some configs need, and the extra that brings each."""
TIMEOUT_SECONDS = 2.0
DEVICE_SECONDS = 60.0
LITTLE_SPACE = 5e9
DEVICES = """
import json, torch
gpus = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
found = [{"name": gpu.name, "memory": gpu.total_memory} for gpu in gpus]
print(json.dumps({"torch": torch.__version__, "threads": torch.get_num_threads(), "gpus": found}))
"""
State = Literal["ok", "note", "bad"]
MARKS: dict[State, str] = {"ok": "+", "note": "-", "bad": "!"}


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at: how it is, and what to do about it where it is not well."""

    area: str
    name: str
    state: State
    found: str
    remedy: str = ""


def examine() -> list[Finding]:
    """Return every finding, area by area."""
    return [*_python(), *_packages(), *_devices(), *_settings(), *_store(), *_servers()]


def as_json(findings: list[Finding]) -> list[dict[str, str]]:
    """Return the findings as JSON values."""
    return [asdict(finding) for finding in findings]


def is_ill(findings: list[Finding]) -> bool:
    """Return whether something is wrong that a run would stumble over."""
    return any(finding.state == "bad" for finding in findings)


def lines_of(findings: list[Finding]) -> Iterator[str]:
    """Yield the findings area by area, and what to do at the end."""
    width = max(len(finding.name) for finding in findings)
    area = ""
    for finding in findings:
        if finding.area != area:
            area = finding.area
            yield from ("", area) if finding is not findings[0] else (area,)
        yield f"  {paint(MARKS[finding.state], finding.state)} {finding.name:<{width}}  {finding.found}"
    remedies = [finding for finding in findings if finding.remedy]
    yield from ("", "to do" if is_ill(findings) else "worth knowing") if remedies else ("", "all is well")
    yield from (
        f"  {paint(MARKS[finding.state], finding.state)} {finding.name}: {finding.remedy}"
        for finding in remedies
    )


def _python() -> Iterator[Finding]:
    enough = sys.version_info >= (3, 11)
    found = f"{platform.python_version()} at {sys.executable}"
    yield Finding(
        "python",
        "version",
        "ok" if enough else "bad",
        found,
        "" if enough else "install Python 3.11 or newer and run `make PYTHON=python3.11 install`",
    )
    yield Finding(
        "python", "machine", "ok", f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores"
    )


def _packages() -> Iterator[Finding]:
    for name in (*NEEDED, *OPTIONAL):
        try:
            yield Finding("packages", name, "ok", metadata.version(name))
        except metadata.PackageNotFoundError:
            extra = OPTIONAL.get(name)
            wanted = (
                f"only if a config needs it: pip install 'finetune-flows[{extra}]'"
                if extra
                else f"pip install {name}, or `make install` again"
            )
            yield Finding("packages", name, "note" if extra else "bad", "not installed", wanted)


def _devices() -> Iterator[Finding]:
    """Ask torch in a process of its own: a broken driver must not take the doctor with it."""
    try:
        asked = subprocess.run(
            [sys.executable, "-c", DEVICES],
            capture_output=True,
            text=True,
            timeout=DEVICE_SECONDS,
            check=True,
        )
        found = json.loads(asked.stdout)
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        reason = (getattr(error, "stderr", "") or str(error)).strip().splitlines()[-1:]
        yield Finding(
            "devices",
            "torch",
            "bad",
            f"cannot be started ({''.join(reason)[:120]})",
            "install torch again, as `make install` does",
        )
        return
    yield Finding("devices", "cpu", "ok", f"torch {found['torch']}, threads: {found['threads']}")
    if not cpu_has_bf16():
        yield Finding(
            "devices", "bf16", "note", "emulated on this CPU", "on the CPU train with train.precision=fp32"
        )
    for i, gpu in enumerate(found["gpus"]):
        yield Finding("devices", f"cuda:{i}", "ok", f"{gpu['name']}, {size(gpu['memory'])}")
    if not found["gpus"]:
        driver = Path("/proc/driver/nvidia/version").exists()
        remedy = (
            "the driver is there: install a CUDA build of torch" if driver else "training runs on the CPU"
        )
        wanted = settings().device == "cuda"
        yield Finding(
            "devices",
            "cuda",
            "bad" if wanted else "note",
            "none" + (", but FINETUNE_DEVICE=cuda" if wanted else ""),
            remedy,
        )


def _settings() -> Iterator[Finding]:
    own = settings()
    for name, info in type(own).model_fields.items():
        variable = (
            info.validation_alias if isinstance(info.validation_alias, str) else f"FINETUNE_{name.upper()}"
        )
        value = getattr(own, name)
        shown = "none" if value in (None, "") else without_secrets(str(value))
        yield Finding(
            "settings", variable, "ok", shown + ("" if name in own.model_fields_set else "  (default)")
        )


def without_secrets(text: str) -> str:
    """Return a URL with its password and its parameters masked; other texts as they are."""
    if "://" not in text:
        return text
    parts = urlsplit(text)
    if not parts.netloc:
        return text  # a file's path: sqlite:////srv/mlflow.db
    user, at, host = parts.netloc.rpartition("@")
    shown = f"{user.split(':')[0]}:***@{host}" if at else host
    return urlunsplit(parts._replace(netloc=shown, query="***" if parts.query else ""))


def _store() -> Iterator[Finding]:
    root = settings().store
    if "://" in root:
        yield _remote_store(root)
        return
    path = Path(root)
    try:
        with writable(path), tempfile.TemporaryFile(dir=path):
            yield Finding("store", "place", "ok", f"{path.resolve()} can be written")
    except FinetuneError as error:
        yield Finding("store", "place", "bad", f"{path} cannot be written", str(error))
        return
    free = shutil.disk_usage(path).free
    little = free < LITTLE_SPACE
    yield Finding(
        "store",
        "free space",
        "note" if little else "ok",
        size(free),
        "`finetune prune` removes what nothing refers to" if little else "",
    )


def _remote_store(url: str) -> Finding:
    """Look whether a store elsewhere answers, by listing what stages it has."""
    shown = without_secrets(url)
    try:
        store = open_store(url, home() / "mirrors")
        if isinstance(store, MirroredStore):
            store.remote.names()
    except FinetuneError as error:
        return Finding("store", "place", "bad", shown, str(error))
    return Finding("store", "place", "ok", f"{shown} answers; its mirror is {store.root}")


def _servers() -> Iterator[Finding]:
    own = settings()
    yield _server("MLflow", own.mlflow_tracking_uri, "/health", "MLFLOW_TRACKING_URI")
    yield _server("Prefect", own.prefect_api_url, "/health", "PREFECT_API_URL")


def _server(name: str, url: str | None, health: str, variable: str) -> Finding:
    if not url:
        return Finding("servers", name, "ok", "no server named; a temporary one is started for each run")
    if not url.startswith("http"):
        return Finding("servers", name, "ok", f"no server needed; {without_secrets(url)} is a database")
    shown = without_secrets(url)
    try:
        with urllib.request.urlopen(url.rstrip("/") + health, timeout=TIMEOUT_SECONDS) as answer:
            return Finding("servers", name, "ok", f"{shown} answers ({answer.status})")
    except (OSError, ValueError) as error:
        if isinstance(error, urllib.error.HTTPError) and error.code in (401, 403):
            return Finding(
                "servers",
                name,
                "note",
                f"{shown} answers, but refuses ({error.code})",
                f"check the credentials in {variable}",
            )
        reason = getattr(error, "reason", None) or error
        return Finding(
            "servers",
            name,
            "bad",
            f"{shown} does not answer ({reason})",
            f"start it, or unset {variable} to go on without",
        )
