"""What every benchmark shares: its arguments, its peers, its child processes and its report.

A benchmark is a module with a generator of cases:

    def cases(session: Session) -> Iterator[Case]: ...

    if __name__ == "__main__":
        main("curation", cases)

A **peer** is another project's package in a virtual environment of its own, ``.bench/<name>/`` below the
working directory (``FINETUNE_BENCH`` names another place), installed with pip in pinned versions when it is
missing. Whatever is timed runs in a **child process**, ours and theirs alike: the same documents, the same
number of threads, a memory of its own whose peak can be read. What a child has to say is the last line of
its output, as JSON; ``measured`` is how a child times itself. A peer that cannot be installed, or a child
that fails, makes its case **skipped**, with the reason.

    made = session.run("benchmarks.curation_peers", "rensa", documents, peer=RENSA, threads=1)
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMBA_NUM_THREADS",
    "RAYON_NUM_THREADS",
    "POLARS_MAX_THREADS",
    "FINETUNE_WORKERS",
)
"""What tells the libraries of both sides how many threads they may use."""
PACKAGES = (
    "numpy",
    "pyarrow",
    "numba",
    "torch",
    "transformers",
    "trl",
    "peft",
    "accelerate",
    "prefect",
    "mlflow",
)


class Skipped(Exception):  # noqa: N818 - an outcome, not an error
    """Why a case could not be measured."""


@dataclass(frozen=True)
class Case:
    """One comparison, or one figure of ours where there is no peer."""

    name: str
    ours: float | None
    unit: str
    peer: str | None = None
    theirs: float | None = None
    target: float | None = None
    """The aim: for the ratio where there is a peer, else for our own figure, in its unit."""
    less_is_better: bool = False
    skipped: str | None = None

    @property
    def ratio(self) -> float | None:
        """How many times better ours is than theirs; None where either is missing or nothing was measured."""
        if self.ours is None or self.theirs is None:
            return None
        better, worse = (self.theirs, self.ours) if self.less_is_better else (self.ours, self.theirs)
        return better / worse if worse else None

    @property
    def met(self) -> bool | None:
        """Whether the aim is reached; None where there is none or it was not measured."""
        if self.target is None:
            return None
        if self.peer:
            return None if self.ratio is None else self.ratio >= self.target
        if self.ours is None:
            return None
        return self.ours <= self.target if self.less_is_better else self.ours >= self.target

    def to_json(self) -> dict[str, Any]:
        """Return the case as `--json` prints it."""
        told = {
            "name": self.name,
            "peer": self.peer,
            "ours": self.ours,
            "theirs": self.theirs,
            "unit": self.unit,
            "ratio": self.ratio,
            "target": self.target,
        }
        return told | ({"skipped": self.skipped} if self.skipped else {})


@dataclass(frozen=True)
class Peer:
    """Another project's package, in an environment of its own."""

    name: str
    requirements: tuple[str, ...]
    """What pip installs, in pinned versions; the first is the peer itself."""
    small: bool = True
    """Whether it installs within half a minute, so that ``--quick`` may do it."""

    def python(self, quick: bool = False) -> Path:
        """Return the interpreter of the peer's environment, made when it is missing; raises Skipped."""
        place = bench() / self.name
        interpreter, note = place / "bin" / "python", place / "installed.txt"
        wanted = "\n".join(self.requirements) + "\n"
        if interpreter.exists() and note.exists() and note.read_text() == wanted:
            return interpreter
        if quick and not self.small:
            raise Skipped(f"not installed under {place}; a run without --quick installs it")
        say(f"installing {', '.join(self.requirements)} into {place}")
        try:
            if not interpreter.exists():
                _quietly(sys.executable, "-m", "venv", str(place))
            _quietly(
                str(interpreter), "-m", "pip", "install", "--disable-pip-version-check", *self.requirements
            )
        except (OSError, subprocess.CalledProcessError) as error:
            raise Skipped(f"{self.requirements[0]} cannot be installed: {_last_line(error)}") from error
        note.write_text(wanted)
        return interpreter


@dataclass
class Session:
    """One run of a benchmark: how much is asked for, and what it ran with."""

    quick: bool = False
    flags: Mapping[str, bool] = field(default_factory=dict)
    """The benchmark's own switches."""
    versions: dict[str, str] = field(default_factory=dict)

    def run(
        self, module: str, *arguments: str | float | Path, peer: Peer | None = None, threads: int = 1
    ) -> Any:
        """Run a module in a child process, under our interpreter or a peer's, and return what it says.

        Raises Skipped where it fails.
        """
        python = Path(sys.executable) if peer is None else peer.python(self.quick)
        if peer is not None:
            self.versions[peer.name] = " ".join(peer.requirements)
        return child(python, module, *arguments, threads=threads)


def child(python: Path, module: str, *arguments: str | float | Path, threads: int = 1) -> Any:
    """Run a module with so many threads and return the JSON of its last line; raises Skipped if it fails."""
    environment = {**os.environ, **dict.fromkeys(THREAD_VARIABLES, str(threads))}
    environment |= {"PYTHONPATH": str(root()), "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
    command = [str(python), "-m", module, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        raise Skipped(f"{' '.join(command[2:4])} failed: {_last_line(done)}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def measured(
    work: Callable[[], Any], repeats: int = 3, before: Callable[[], Any] | None = None
) -> dict[str, Any]:
    """Return the median wall seconds of ``work``, every time, its last result, and the process's peak memory.

    ``cpu`` is the median of the processor's seconds, of ended child processes too: on a machine with other
    work it says more than the clock. For use within a child. ``before`` runs ahead of each repeat, untimed.
    """
    seconds, processor, result = [], [], None
    for _ in range(repeats):
        if before is not None:
            before()
        start, spent = time.perf_counter(), _processor_seconds()
        result = work()
        seconds.append(time.perf_counter() - start)
        processor.append(_processor_seconds() - spent)
    return {
        "seconds": statistics.median(seconds),
        "cpu": statistics.median(processor),
        "times": seconds,
        "result": result,
        "peak_mib": peak_mib(),
    }


def _processor_seconds() -> float:
    return sum(os.times()[:4])


def peak_mib() -> float:
    """Return the most memory this process, and the largest of its children, ever held (resident, MiB)."""
    import resource

    kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return sum(resource.getrusage(kind).ru_maxrss for kind in kinds) / 1024


def main(
    name: str,
    cases: Callable[[Session], Iterator[Case]],
    flags: Mapping[str, str] | None = None,
    arguments: Sequence[str] | None = None,
) -> None:
    """Run a benchmark from the command line; ``flags`` are its own switches with their explanation."""
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{name}", description=cases.__doc__)
    parser.add_argument("--quick", action="store_true", help="small sizes, done within three minutes")
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout and nothing else")
    parser.add_argument(
        "--output", type=Path, metavar="DIR", help=f"leave {name}.json and {name}.txt there too"
    )
    for flag, told in (flags or {}).items():
        parser.add_argument(f"--{flag}", action="store_true", help=told)
    options = vars(parser.parse_args(arguments))
    session = Session(options["quick"], {flag: options[flag] for flag in flags or ()}, versions())
    found = []
    for case in cases(session):
        say(_told(case))
        found.append(case)
    document, table = json.dumps(report(session, found), indent=1), _table(name, session, found)
    if options["output"]:
        options["output"].mkdir(parents=True, exist_ok=True)
        for suffix, text in (("json", document), ("txt", table)):
            (options["output"] / f"{name}.{suffix}").write_text(f"{text}\n", encoding="utf-8")
    print(document if options["json"] else table)


def report(session: Session, cases: Sequence[Case]) -> dict[str, Any]:
    """Return the whole run as `--json` prints it."""
    return {"machine": machine(), "versions": session.versions, "cases": [case.to_json() for case in cases]}


@lru_cache(maxsize=1)
def machine() -> dict[str, Any]:
    """Return what this machine is: processor, cores, memory, GPU if any, system, and how busy it was."""
    return {
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "gpu": _gpu(),
        "system": f"{platform.system()} {platform.release()}",
        "load_at_start": round(os.getloadavg()[0], 2),
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
    }


def versions() -> dict[str, str]:
    """Return the versions of Python, this project and the packages it stands on."""
    from pipeline_lib.core.provenance import git_commit

    found = {"python": platform.python_version(), "finetune-flows": git_commit() or "unknown"}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def root() -> Path:
    """Return the project's directory."""
    return Path(__file__).resolve().parents[1]


def bench() -> Path:
    """Return where the peers' environments stand."""
    return Path(os.environ.get("FINETUNE_BENCH", ".bench")).absolute()


def say(line: str) -> None:
    """Tell how far the benchmark is, on stderr."""
    print(line, file=sys.stderr, flush=True)


def _table(name: str, session: Session, cases: Sequence[Case]) -> str:
    """Return an aligned table with the machine and the versions."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"benchmarks.{name}", title_justify="left", box=None, pad_edge=False)
    for heading in ("case", "peer"):
        table.add_column(heading, overflow="fold")
    for heading in ("ours", "theirs"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("unit")
    for heading in ("ratio", "aim", "met"):
        table.add_column(heading, justify="right", no_wrap=True)
    for case in cases:
        if case.skipped:
            table.add_row(
                case.name, case.peer or "", "", "", f"skipped: {case.skipped}", "", _figure(case.target), ""
            )
            continue
        met = {True: "yes", False: "no", None: ""}[case.met]
        figures = (_figure(case.ours), _figure(case.theirs))
        table.add_row(
            case.name, case.peer or "", *figures, case.unit, _figure(case.ratio), _figure(case.target), met
        )
    console = Console(width=None if sys.stdout.isatty() else 160, highlight=False)
    with console.capture() as captured:
        console.print(table)
        for told in (machine(), session.versions):
            console.print(", ".join(f"{key} {value}" for key, value in told.items()), soft_wrap=True)
    return "\n".join(line.rstrip() for line in captured.get().splitlines())


def _told(case: Case) -> str:
    beside = f" against {case.peer}" if case.peer else ""
    if case.skipped:
        return f"{case.name}{beside}: skipped: {case.skipped}"
    ratio = f" (ratio {_figure(case.ratio)})" if case.ratio is not None else ""
    theirs = f", theirs {_figure(case.theirs)}" if case.theirs is not None else ""
    return f"{case.name}{beside}: {_figure(case.ours)}{theirs} {case.unit}{ratio}"


def _figure(value: float | None) -> str:
    """Return a number with three to four digits that count."""
    if value is None:
        return ""
    size = abs(value)
    if value == int(value) or size >= 100:
        return f"{value:,.0f}"
    if size < 1e-3:
        return f"{value:.1e}"
    return f"{value:.1f}" if size >= 10 else f"{value:.2f}" if size >= 1 else f"{value:.4f}"


def _quietly(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True)


def _last_line(failure: Any) -> str:
    """Return the last line that a failed process wrote, or the error itself."""
    lines = (getattr(failure, "stderr", None) or "").strip().splitlines()
    return lines[-1][:300] if lines else str(failure)


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")


def _gpu() -> str | None:
    try:
        found = subprocess.run(
            ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return ", ".join(found.stdout.split("\n")).strip(", ") or None
