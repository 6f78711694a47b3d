"""The ``pydocs`` source: the documentation of the running interpreter as conversations.

Every docstring of the standard library (modules, classes, functions, methods, C code included) becomes a
question with its signature and an answer, the docstring. The texts of ``pydoc_data.topics`` are plain text.

An *entry* is what is known of one documented object; a *culprit* is a module whose import hung or ended the
process. Modules are imported in a child process only, the *collector*, which is this very file run as an
isolated script (so its top imports only the standard library). Its standard streams are the null device,
it sees no display, and a watchdog ends it where a module hangs; the parent then starts another one behind the
culprit. The file holds the parent's side first and, from ``collect`` on, the collector's. Its
neighbour is ``ingest``, which turns the rows given here into records.
"""

import faulthandler
import functools
import hashlib
import importlib
import inspect
import json
import logging
import os
import pkgutil
import re
import subprocess
import sys
import tempfile
import time
import types
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TextIO, TypedDict

_LOG = logging.getLogger(__name__)

_TOPICS = "pydoc_data.topics"
_SKIPPED_TREES = frozenset({"antigravity", "this", "idlelib", "lib2to3", "turtledemo", "ensurepip._bundled"})
_SKIPPED_PARTS = frozenset({"test", "tests", "__main__"})

# Generous, because a module left out on a slow disk would change the data.
_MODULE_SECONDS = 30.0
_TOTAL_SECONDS = 300.0
_SIGNATURE_LIMIT = 160

# CPython leaves the marker in a C class's docstring whose signature bears another name than the class.
_LEFT_OVER_SIGNATURE = re.compile(r"\A\w+\([^\n]*\)\n--\n\n")
_ADDRESS = re.compile(r"<[^<>\n]* at 0x[0-9A-Fa-f]+[^<>\n]*>")
_HIDDEN_VARIABLES = ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER")
_ROUTINES = (
    types.FunctionType,
    types.BuiltinFunctionType,
    types.MethodType,
    types.WrapperDescriptorType,
    types.MethodWrapperType,
    types.MethodDescriptorType,
    types.ClassMethodDescriptorType,
    functools._lru_cache_wrapper,
)

_QUESTIONS = {
    "module": (
        "What is the module `{}` for?",
        "What does the module `{}` provide?",
        "Explain the module `{}`.",
    ),
    "class": ("What is the class `{}` for?", "Explain the class `{}`.", "How would you document `{}`?"),
    "function": ("What does the function `{}` do?", "Explain `{}`.", "How would you document `{}`?"),
    "method": ("What does the method `{}` do?", "Explain the method `{}`.", "How would you document `{}`?"),
}


class Entry(TypedDict):
    """One documented object; the signature is empty where it is unknown, the text is cleaned."""

    kind: str
    name: str
    module: str
    signature: str
    text: str


def read_pydocs(
    modules: Sequence[str] | None = None,
    extra_path: Path | None = None,
    module_seconds: float = _MODULE_SECONDS,
    total_seconds: float = _TOTAL_SECONDS,
) -> Iterator[dict[str, object]]:
    """Yield one row (``messages``, ``metadata``, ``origin``) per docstring or topic, by module, then name.

    ``modules`` defaults to the whole standard library; ``extra_path`` is a directory searched for them first.
    A module that cannot be imported, ends the process or takes over ``module_seconds`` is left out, logged.
    Raises DataError where no collector starts, or the reading takes over ``total_seconds``.
    """
    names = sorted(set(standard_modules() if modules is None else modules))
    entries = _collect_all(names, extra_path, module_seconds, time.monotonic() + total_seconds)
    for entry in sorted(entries, key=lambda entry: (entry["module"], entry["name"])):
        yield _row(entry)


def standard_modules() -> Iterator[str]:
    """Yield the names of the standard library's modules and submodules, found without importing any."""
    library = Path(os.__file__).parent
    for name in sys.stdlib_module_names:
        if _is_wanted(name):
            yield name
            yield from _submodules(name, library / name)


def _submodules(package: str, directory: Path) -> Iterator[str]:
    for found in pkgutil.iter_modules([str(directory)], prefix=f"{package}."):
        if _is_wanted(found.name):
            yield found.name
            if found.ispkg:
                yield from _submodules(found.name, directory / found.name.rpartition(".")[2])


def _is_wanted(name: str) -> bool:
    parts = name.split(".")
    trees = {".".join(parts[:depth]) for depth in range(1, len(parts) + 1)}
    return not (trees & _SKIPPED_TREES or _SKIPPED_PARTS.intersection(parts))


def _collect_all(
    names: Sequence[str], extra_path: Path | None, module_seconds: float, deadline: float
) -> list[Entry]:
    entries: list[Entry] = []
    while names:
        read, culprit = _run_collector(names, extra_path, module_seconds, deadline)
        entries += read
        if culprit is None:
            break
        _LOG.warning("pydocs: module %s is left out: its import hung or ended the process", culprit)
        names = names[names.index(culprit) + 1 :]
    return entries


def _run_collector(
    names: Sequence[str], extra_path: Path | None, module_seconds: float, deadline: float
) -> tuple[list[Entry], str | None]:
    """Return the entries that one collector wrote, and the culprit that ended it, if any."""
    with tempfile.TemporaryDirectory(prefix="pydocs-", ignore_cleanup_errors=True) as scratch:
        task, lines = Path(scratch, "task.json"), Path(scratch, "lines.jsonl")
        task.write_text(
            json.dumps({"modules": list(names), "path": str(extra_path or ""), "seconds": module_seconds})
        )
        _run_child([str(task), str(lines)], scratch, deadline)
        return _read_lines(lines, names)


def _run_child(arguments: Sequence[str], scratch: str, deadline: float) -> None:
    options = ["-I", "-S", "-X", "utf8", "-W", "ignore"]
    command = [sys.executable, *options, str(Path(__file__).resolve()), *arguments]
    environment = {name: value for name, value in os.environ.items() if name not in _HIDDEN_VARIABLES}
    environment |= {"HOME": scratch, "TMPDIR": scratch}
    null = subprocess.DEVNULL
    with subprocess.Popen(
        command, cwd=scratch, env=environment, stdin=null, stdout=null, stderr=null, start_new_session=True
    ) as child:
        try:
            child.wait(timeout=max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired as error:
            message = "pydocs: reading the documentation took too long; try again on a less busy machine"
            raise _data_error(message) from error
        finally:
            child.kill()


def _read_lines(path: Path, names: Sequence[str]) -> tuple[list[Entry], str | None]:
    entries: list[Entry] = []
    begun, ended = False, 0
    for line in path.read_text("utf-8").splitlines(keepends=True) if path.exists() else ():
        if not line.endswith("\n"):
            break
        message = json.loads(line)
        begun = True
        ended += "end" in message
        entries += message.get("entries", ())
        if message.get("error"):
            _LOG.info("pydocs: module %s is left out: %s", message["end"], message["error"])
    if not begun:
        raise _data_error(f"pydocs: {sys.executable} could not be started to read its documentation")
    return entries, None if ended == len(names) else names[ended]


def _data_error(message: str) -> Exception:
    # Imported here because the collector runs this file where the package cannot be found.
    from pipeline_lib.core.errors import DataError

    return DataError(message)


def _row(entry: Entry) -> dict[str, object]:
    kind, name = entry["kind"], entry["name"]
    if kind == "topic":
        messages = [{"role": "text", "content": entry["text"]}]
    else:
        messages = [
            {"role": "user", "content": _question(kind, name, entry["signature"])},
            {"role": "assistant", "content": entry["text"]},
        ]
    metadata = {
        "kind": kind,
        "name": name,
        "module": entry["module"],
        "signature": _title(name, entry["signature"]),
    }
    return {"messages": messages, "metadata": metadata, "origin": f"pydocs:{kind}:{name}"}


def _question(kind: str, name: str, signature: str) -> str:
    forms = _QUESTIONS[kind]
    choice = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") % len(forms)
    return forms[choice].format(_title(name, signature))


def _title(name: str, signature: str) -> str:
    return name.removeprefix("builtins.") + signature


class _Elided:
    """A default value that has no short form that is the same on every machine."""

    def __repr__(self) -> str:
        return "..."


def collect(task_path: Path, lines_path: Path) -> None:
    """Write a begin line and an end line (with the entries) for every module of the task, then exit."""
    task = json.loads(task_path.read_text("utf-8"))
    if task["path"]:
        sys.path.insert(0, task["path"])
    owner = os.getpid()
    with lines_path.open("w", encoding="utf-8") as lines, Path(os.devnull).open("w") as null:
        for name in task["modules"]:
            faulthandler.dump_traceback_later(task["seconds"], exit=True, file=null)
            _write(lines, {"begin": name})
            result = _collect_module(name)
            if os.getpid() != owner:  # a module that forks must not yield two collectors
                os._exit(0)
            _write(lines, {"end": name} | result)
        # Neither a thread nor an exit function that a module left behind may keep the process alive.
        os._exit(0)


def _write(lines: TextIO, message: dict[str, object]) -> None:
    lines.write(json.dumps(message) + "\n")
    lines.flush()


def _collect_module(name: str) -> dict[str, object]:
    try:
        module = importlib.import_module(name)
        return {"entries": list(_module_entries(name, module))}
    except BaseException as error:  # a module may raise anything, SystemExit included
        return {"error": type(error).__name__}


def _module_entries(name: str, module: types.ModuleType) -> Iterator[Entry]:
    yield from _entry("module", name, name, module.__doc__)
    for key, value in sorted(vars(module).items()):
        if issubclass(type(value), type):
            if getattr(value, "__module__", None) == name:
                yield from _class_entries(f"{name}.{key}", name, value)
        elif issubclass(type(value), _ROUTINES) and getattr(value, "__module__", None) in (name, None):
            yield from _entry("function", f"{name}.{key}", name, value.__doc__, _signature(value))
    if name == _TOPICS:
        for key, text in sorted(module.topics.items()):
            yield from _entry("topic", key, name, text)


def _class_entries(name: str, module: str, cls: type) -> Iterator[Entry]:
    yield from _entry("class", name, module, cls.__doc__)
    for key, value in sorted(vars(cls).items()):
        if issubclass(type(value), type):
            if value.__module__ == module and value.__qualname__ == f"{cls.__qualname__}.{key}":
                yield from _class_entries(f"{name}.{key}", module, value)
            continue
        function = value.__func__ if isinstance(value, classmethod | staticmethod) else value
        if issubclass(type(function), _ROUTINES):
            # A built-in function is bound already; any other but a static one takes the object first.
            bound = issubclass(type(function), types.BuiltinFunctionType)
            takes_self = not bound and (key == "__new__" or not isinstance(value, staticmethod))
            signature = _signature(function, takes_self)
            yield from _entry("method", f"{name}.{key}", module, function.__doc__, signature)


def _entry(kind: str, name: str, module: str, document: object, signature: str = "") -> Iterator[Entry]:
    if isinstance(document, str) and document.strip():
        text = _ADDRESS.sub("...", _LEFT_OVER_SIGNATURE.sub("", inspect.cleandoc(document))).strip()
        yield {"kind": kind, "name": name, "module": module, "signature": signature, "text": text}


def _signature(function: Callable[..., object], takes_self: bool = False) -> str:
    """Return the signature without annotations, names only where it is long, nothing where unknown."""
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (ValueError, TypeError, AttributeError):  # the last where a C default names what is not there
        return ""
    if takes_self and parameters and parameters[0].kind <= inspect.Parameter.POSITIONAL_OR_KEYWORD:
        del parameters[0]
    full = str(inspect.Signature([_plain(parameter) for parameter in parameters]))
    if len(full) <= _SIGNATURE_LIMIT:
        return full
    return f"({', '.join(parameter.name for parameter in parameters)})"


def _plain(parameter: inspect.Parameter) -> inspect.Parameter:
    empty = inspect.Parameter.empty
    default = parameter.default
    if default is not empty and not _is_plain(default):
        default = _Elided()
    return parameter.replace(annotation=empty, default=default)


def _is_plain(value: object) -> bool:
    """Say whether the value's repr is the same in every process and on every machine."""
    if isinstance(value, str):
        return type(value) is str and not value.startswith("/")
    if isinstance(value, tuple | list):
        return type(value) in (tuple, list) and all(map(_is_plain, value))
    if isinstance(value, dict):
        return type(value) is dict and not value
    return value is None or type(value) in (bool, int, float, bytes)


if __name__ == "__main__":
    collect(Path(sys.argv[1]), Path(sys.argv[2]))
