"""Work that needs a device runs in child processes, started with ``accelerate launch``.

The parent writes a spec (JSON), the child module reads it, does the work, appends progress lines and
exits. A crash, a kill or an out-of-memory in the child is an ordinary failure here. When its parent dies the
child sends itself SIGTERM, which ends it, or which it answers by saving what it has: it holds the read end of
a pipe that only the parent keeps open. A child that is still at that holds a lock on the work directory, and
its successor waits.
"""

from __future__ import annotations

import fcntl
import json
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
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
LOCK = "child.lock"
OUT_OF_MEMORY = "OutOfMemoryError"
SHORT_OF_MEMORY = ("out of memory", "can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED")
"""What PyTorch says where a device has too little memory: its own allocator, a CPU's, and cuBLAS."""
GRACE_SECONDS = 60
"""How long a child whose parent is gone, or which is asked to stop, may take to save what it has."""

PARALLEL = {
    "ddp": (),
    "fsdp2": (
        "--use_fsdp",
        "--fsdp_version=2",
        "--fsdp_auto_wrap_policy=TRANSFORMER_BASED_WRAP",
        "--fsdp_state_dict_type=FULL_STATE_DICT",
        "--fsdp_cpu_ram_efficient_loading=true",
    ),
    "zero2": ("--use_deepspeed", "--zero_stage=2"),
    "zero3": ("--use_deepspeed", "--zero_stage=3", "--zero3_init_flag=true", "--zero3_save_16bit_model=true"),
}
"""What `accelerate launch` is told for each way of sharing a model among processes."""

KEEPS_MEMORY = "glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=1000000000000"
"""The C library's settings under which a child on a CPU keeps what tensors leave for the next ones.

Otherwise every large tensor is fetched from the kernel page by page, zeroed, and given back, at each step.
"""

EMULATED = ("bf16", "fp16")
EMULATION = "this CPU emulates half precision, which takes many times longer; choose precision=fp32 here"


class DeviceMemoryError(StageError):
    """The child ran out of its device's memory."""


def run_child(module: str, spec: dict[str, Any], work: Path, what: str) -> None:
    """Run ``python -m module`` on ``spec`` under accelerate until it ends, showing its progress.

    ``spec`` may say how many ``processes`` there are to be (else the settings and the devices do), and how
    they are to hold the model (``parallel``).

    Raises the child's own error where it named one, else StageError with the last line it printed.
    """
    work.mkdir(parents=True, exist_ok=True)
    for stale in (PROGRESS, FAILURE):
        (work / stale).unlink(missing_ok=True)
    path = work / "spec.json"
    path.write_text(json.dumps(spec), encoding="utf-8")
    with (work / LOG).open("wb") as log, progress.bar(what) as bar:
        child = subprocess.Popen(
            [*_command(spec.get("parallel", "ddp"), spec.get("processes")), "-m", module, str(path)],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=_environment(_count(spec.get("processes"))),
            start_new_session=False,
        )
        try:
            code = _wait(child, work / PROGRESS, bar, what)
        finally:
            assert child.stdin
            child.stdin.close()
            _end(child)
    if code:
        raise _failure(work, code, what)


def _end(child: subprocess.Popen[bytes]) -> None:
    """Wait for a child whose pipe was closed, and so was asked to stop; in the end, kill it."""
    try:
        child.wait(GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def _command(parallel: str, processes: int | None) -> list[str]:
    count = _count(processes)
    if device() == "cpu" and count > 1:
        # accelerate starts several processes on CPUs by MPI alone; PyTorch's own launcher needs nothing else.
        return [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)]
    if device() == "cpu" and not settings().launch:
        # The launcher would load torch for seconds to set what ``_environment`` sets.
        return [sys.executable]
    launch = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--mixed_precision",
        "no",
        "--dynamo_backend",
        "no",
        "--num_processes",
        str(count),
        *PARALLEL[parallel],
        *shlex.split(settings().launch),
    ]
    if device() == "cpu":
        launch += ["--cpu", "--num_cpu_threads_per_process", str(settings().workers)]
    return launch if "--num_machines" in launch else [*launch, "--num_machines", "1"]


def _count(processes: int | None) -> int:
    return processes or settings().processes or (1 if device() == "cpu" else _device_count())


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


def _environment(processes: int) -> dict[str, str]:
    quiet = {
        "TOKENIZERS_PARALLELISM": "true",
        "TRANSFORMERS_VERBOSITY": "error",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "PYTHONUNBUFFERED": "1",
    }
    threads = max(1, settings().workers // processes)
    # Nothing is compiled on a CPU, and importing what would compile it takes a second or two of each child.
    unless_set = {"GLIBC_TUNABLES": KEEPS_MEMORY, "TORCHDYNAMO_DISABLE": "1"}
    cpu = {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": str(threads)}
    root = str(Path(__file__).resolve().parents[1])
    return {
        **(unless_set if device() == "cpu" else {}),
        **os.environ,
        **quiet,
        **(cpu if device() == "cpu" else {}),
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
        if named["type"] == OUT_OF_MEMORY:
            return DeviceMemoryError(f"the device has too little memory ({named['message'][:120]})")
        return StageError(f"{what} failed: {named['type']}: {named['message']}")
    log = (work / LOG).read_text(encoding="utf-8", errors="replace").strip().splitlines()
    how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
    return StageError(
        f"{what} {how} ({log[-1][:200] if log else 'it printed nothing'}); "
        "run again to go on from its last checkpoint"
    )


def child_main(work: Callable[[dict[str, Any], Callable[..., None]], None]) -> None:
    """Run a child's work: read the spec named on the command line, report progress, name the failure."""
    path = Path(sys.argv[1])
    main_process = os.environ.get("RANK", "0") == "0"
    lock = (path.parent / LOCK).open("w")
    if main_process:
        fcntl.flock(lock, fcntl.LOCK_EX)
    threading.Thread(target=_end_with_parent, daemon=True).start()

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
        kind = OUT_OF_MEMORY if _is_short_of_memory(error) else type(error).__name__
        (path.parent / FAILURE).write_text(json.dumps({"type": kind, "message": message}), encoding="utf-8")
        # Leave at once: what the libraries still hold (threads, process groups) must not delay the report.
        sys.stdout.flush()
        os._exit(1)


def _is_short_of_memory(error: Exception) -> bool:
    return isinstance(error, RuntimeError) and any(words in str(error) for words in SHORT_OF_MEMORY)


def _is_emulated(spec: dict[str, Any]) -> bool:
    precision = spec.get("config", {}).get("precision")
    return spec["device"] == "cpu" and precision in EMULATED and not cpu_has_bf16()


def _end_with_parent() -> None:
    # Not sys.stdin: a thread that waits in it holds its lock, and the interpreter cannot end without that.
    while os.read(0, 1):
        continue
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE_SECONDS)
    os._exit(1)
