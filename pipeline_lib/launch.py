"""Work that needs a device runs in a child process, started with ``accelerate launch``.

The parent writes a spec (JSON), the child module reads it, does the work, appends progress lines and
exits. A crash, a kill or an out-of-memory in the child is an ordinary failure here. The child ends when
its parent dies: it holds the read end of a pipe that only the parent keeps open.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline_lib.core import errors, progress
from pipeline_lib.core.errors import FinetuneError, StageError
from pipeline_lib.settings import settings

POLL_SECONDS = 0.2
PROGRESS = "progress.jsonl"
FAILURE = "failure.json"
LOG = "child.log"
EMULATED = ("bf16", "fp16")
EMULATION = "this CPU emulates half precision, which takes many times longer; choose precision=fp32 here"


def run_child(module: str, spec: dict[str, Any], work: Path, what: str) -> None:
    """Run ``python -m module`` on ``spec`` under accelerate until it ends, showing its progress.

    Raises the child's own error where it named one, else StageError with the last line it printed.
    """
    work.mkdir(parents=True, exist_ok=True)
    for stale in (PROGRESS, FAILURE):
        (work / stale).unlink(missing_ok=True)
    path = work / "spec.json"
    path.write_text(json.dumps(spec), encoding="utf-8")
    with (work / LOG).open("wb") as log, progress.bar(what) as bar:
        child = subprocess.Popen(
            [*_command(), "-m", module, str(path)],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=_environment(),
            start_new_session=False,
        )
        try:
            code = _wait(child, work / PROGRESS, bar, what)
        finally:
            if child.poll() is None:
                child.terminate()
                child.wait()
            assert child.stdin
            child.stdin.close()
    if code:
        raise _failure(work, code, what)


def _command() -> list[str]:
    launch = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--mixed_precision",
        "no",
        "--dynamo_backend",
        "no",
    ]
    if device() == "cpu":
        return [
            *launch,
            "--cpu",
            "--num_processes",
            "1",
            "--num_machines",
            "1",
            "--num_cpu_threads_per_process",
            str(settings().workers),
        ]
    return [*launch, "--num_machines", "1", "--num_processes", str(_device_count())]


def device() -> str:
    """Return ``cuda`` or ``cpu``: what the settings ask for, or what there is."""
    wanted = settings().device
    if wanted != "auto":
        return wanted
    return "cuda" if _device_count() else "cpu"


def cpu_has_bf16() -> bool:
    """Return whether this CPU multiplies bf16 matrices by itself, or cannot tell."""
    try:
        return "bf16" in Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return True


def _device_count() -> int:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([part for part in visible.split(",") if part.strip() not in ("", "-1")])
    return len(list(Path("/proc/driver/nvidia/gpus").glob("*")))


def _environment() -> dict[str, str]:
    quiet = {
        "TOKENIZERS_PARALLELISM": "true",
        "TRANSFORMERS_VERBOSITY": "error",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "PYTHONUNBUFFERED": "1",
    }
    root = str(Path(__file__).resolve().parents[1])
    return {
        **os.environ,
        **quiet,
        "PYTHONPATH": os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])]),
    }


def _wait(child: subprocess.Popen[bytes], lines: Path, bar: progress.Bar, what: str) -> int:
    done, read = 0.0, 0
    while True:
        try:
            code: int | None = child.wait(POLL_SECONDS)
        except subprocess.TimeoutExpired:
            code = None
        if lines.exists():
            with lines.open("rb") as file:
                file.seek(read)
                for line in file:
                    if not line.endswith(b"\n"):
                        break
                    read += len(line)
                    done = _show(json.loads(line), done, bar, what)
        if code is not None:
            return code


def _show(event: dict[str, Any], done: float, bar: progress.Bar, what: str) -> float:
    if "mention" in event:
        progress.mention(f"{what}: {event['mention']}")
    if "done" in event:
        bar.advance(float(event["done"]) - done)
        done = float(event["done"])
    bar.total(event.get("total"))
    if event.get("note"):
        bar.note(str(event["note"]))
    return done


def _failure(work: Path, code: int, what: str) -> FinetuneError:
    failure = work / FAILURE
    if failure.exists():
        named = json.loads(failure.read_text(encoding="utf-8"))
        kind = getattr(errors, named["type"], None)
        if isinstance(kind, type) and issubclass(kind, FinetuneError):
            return kind(named["message"])
        return StageError(f"{what} failed: {named['type']}: {named['message']}")
    log = (work / LOG).read_text(encoding="utf-8", errors="replace").strip().splitlines()
    how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
    return StageError(
        f"{what} {how} ({log[-1][:200] if log else 'it printed nothing'}); "
        "run again to go on from its last checkpoint"
    )


def child_main(work: Callable[[dict[str, Any], Callable[..., None]], None]) -> None:
    """Run a child's work: read the spec named on the command line, report progress, name the failure."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    path = Path(sys.argv[1])
    main_process = os.environ.get("RANK", "0") == "0"

    def tell(**event: Any) -> None:
        if main_process:
            with (path.parent / PROGRESS).open("a", encoding="utf-8") as file:
                file.write(json.dumps(event) + "\n")

    try:
        spec = json.loads(path.read_text(encoding="utf-8"))
        if _is_emulated(spec):
            tell(mention=EMULATION)
        work(spec, tell)
    except Exception as error:
        traceback.print_exc()
        message = (str(error).strip().splitlines() or ["no message"])[0]
        (path.parent / FAILURE).write_text(
            json.dumps({"type": type(error).__name__, "message": message}), encoding="utf-8"
        )
        # Leave at once: what the libraries still hold (threads, process groups) must not delay the report.
        sys.stdout.flush()
        os._exit(1)


def _is_emulated(spec: dict[str, Any]) -> bool:
    precision = spec.get("config", {}).get("precision")
    return spec["device"] == "cpu" and precision in EMULATED and not cpu_has_bf16()


def _end_with_parent() -> None:
    # Not sys.stdin: a thread that waits in it holds its lock, and the interpreter cannot end without that.
    while os.read(0, 1):
        continue
    os._exit(1)
