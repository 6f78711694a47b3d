"""Claims about the ``pydocs`` source: what it reads, always the same, and nothing stops it."""

import hashlib
import inspect
import json
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from pipeline_lib.curation.pydocs import read_pydocs, standard_modules

ROOT = Path(__file__).resolve().parents[2]

HOSTILE = {
    "a_kind": "def greet(name='you'):\n    '''Say hello.'''\n",
    "b_hangs": "while True:\n    pass\n",
    "c_prints": "'''Prints.'''\nimport os\nprint('noise')\nos.write(1, b'noise')\nos.write(2, b'noise')\n",
    "d_vanishes": "import os\nos._exit(0)\n",
    "e_exits": "raise SystemExit(3)\n",
    "f_sleeps": "import time\ntry:\n    time.sleep(600)\nexcept BaseException:\n    time.sleep(600)\n",
    "g_threads": "'''Threads.'''\nfrom threading import Event, Thread\nThread(target=Event().wait).start()\n",
    "h_forks": "'''Forks.'''\nimport os\nos.fork()\n",
    "i_reads": "'''Reads.'''\ntry:\n    input()\nexcept EOFError:\n    pass\n",
    "j_shows": "import os\nassert 'DISPLAY' not in os.environ\ndef shown():\n    '''No display.'''\n",
    "k_last": "class Last:\n    '''The last one.'''\n    def speak(self, word):\n        '''Speak.'''\n",
}

ODD_VALUES = '''
HOME = __import__("os").path.expanduser("~")
def odd(a=object(), b={"x", "y", "z"}, c=HOME, d=print, e=(1, object()), f="plain", *, g=None):
    """Odd."""
def long(%s):
    """Long."""
def addressed():
    """x"""
addressed.__doc__ = f"Made from {object()!r} here."
'''


@pytest.fixture(scope="module")
def rows() -> list[dict[str, Any]]:
    return list(read_pydocs())


def _by_name(rows: list[dict[str, Any]]) -> dict[tuple[str, str], dict[str, Any]]:
    return {(row["metadata"]["kind"], row["metadata"]["name"]): row for row in rows}


def _read_in_another_process(seed: str) -> str:
    code = (
        "import json; from pipeline_lib.curation.pydocs import read_pydocs;"
        "print(json.dumps(list(read_pydocs())), end='')"
    )
    return hashlib.sha256(_run(code, PYTHONHASHSEED=seed).encode()).hexdigest()


def _run(code: str, **variables: str) -> str:
    environment = os.environ | {"PYTHONPATH": str(ROOT)} | variables
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, check=True, text=True
    )
    assert done.stderr == ""
    return done.stdout


def test_every_hash_seed_gives_the_same_bytes(rows: list[dict[str, Any]]) -> None:
    here = hashlib.sha256(json.dumps(rows).encode()).hexdigest()
    assert {_read_in_another_process("0"), _read_in_another_process("4242")} == {here}


def test_more_than_ten_thousand_conversations_of_every_kind_are_read(rows: list[dict[str, Any]]) -> None:
    kinds = Counter(row["metadata"]["kind"] for row in rows)
    assert set(kinds) == {"module", "class", "function", "method", "topic"}
    assert len(rows) > 10_000


def test_rows_are_ordered_and_no_object_is_read_twice(rows: list[dict[str, Any]]) -> None:
    places = [(row["metadata"]["module"], row["metadata"]["name"]) for row in rows]
    assert places == sorted(places)
    assert len({row["origin"] for row in rows}) == len(rows)


def test_every_row_asks_and_answers(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        roles = [message["role"] for message in row["messages"]]
        assert roles == (["text"] if row["metadata"]["kind"] == "topic" else ["user", "assistant"])
        assert all(message["content"].strip() for message in row["messages"])


def test_a_known_function_has_its_real_docstring_and_signature(rows: list[dict[str, Any]]) -> None:
    row = _by_name(rows)["function", "json.dumps"]
    question, answer = (message["content"] for message in row["messages"])
    assert answer == inspect.getdoc(json.dumps)
    assert f"`json.dumps{inspect.signature(json.dumps)}`" in question


@pytest.mark.parametrize(
    ("kind", "name", "shown"),
    [
        ("function", "builtins.len", "`len(obj, /)`"),
        ("method", "builtins.str.join", "`str.join(iterable, /)`"),
        ("function", "textwrap.indent", "`textwrap.indent(text, prefix, predicate=None)`"),
        ("method", "datetime.date.fromtimestamp", "`datetime.date.fromtimestamp(timestamp, /)`"),
        ("class", "json.encoder.JSONEncoder", "`json.encoder.JSONEncoder`"),
        ("module", "json", "`json`"),
    ],
)
def test_a_question_shows_what_a_reader_has_in_hand(
    rows: list[dict[str, Any]], kind: str, name: str, shown: str
) -> None:
    assert shown in _by_name(rows)[kind, name]["messages"][0]["content"]


def test_answers_of_c_functions_hold_no_signature_marker(rows: list[dict[str, Any]]) -> None:
    assert _by_name(rows)["function", "builtins.len"]["messages"][1]["content"] == inspect.getdoc(len)
    answers = [row["messages"][-1]["content"] for row in rows]
    assert not [answer for answer in answers if re.match(r"\w+\(.*\)\n--\n\n", answer)]


def test_topics_are_plain_text(rows: list[dict[str, Any]]) -> None:
    topics = [row for row in rows if row["metadata"]["kind"] == "topic"]
    assert len(topics) > 70
    assert _by_name(rows)["topic", "assert"]["messages"][0]["content"].startswith('The "assert" statement')


def test_no_text_holds_an_address_or_a_place_of_this_machine(rows: list[dict[str, Any]]) -> None:
    text = json.dumps(rows)
    places = {str(Path.home()), str(ROOT), sys.prefix, sys.executable} - {"/", "/usr"}
    assert not re.search(r" at 0x[0-9a-f]{6,}", text)
    assert not [place for place in places if place in text]


def test_nothing_of_the_library_is_imported_here() -> None:
    code = (
        "import sys; from pipeline_lib.curation.pydocs import read_pydocs; before = set(sys.modules);"
        "next(read_pydocs(modules=['turtle', 'wave', 'colorsys'])); print(sorted(set(sys.modules) - before))"
    )
    assert _run(code) == "[]\n"


def test_modules_that_open_windows_or_run_programs_are_not_listed() -> None:
    names = set(standard_modules())
    unwanted = ("antigravity", "this", "idlelib", "turtledemo", "lib2to3")
    assert {"json", "json.encoder", "email.mime.text", "sys"} <= names
    assert not [name for name in names if name.startswith(unwanted) or "__main__" in name or ".test" in name]


def test_hostile_modules_neither_end_nor_pollute_the_reading(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, source in HOSTILE.items():
        (tmp_path / f"{name}.py").write_text(source)
    monkeypatch.setenv("DISPLAY", ":0")
    rows = list(read_pydocs(modules=sorted(HOSTILE), extra_path=tmp_path, module_seconds=0.5))
    assert capfd.readouterr() == ("", "")
    assert [row["origin"] for row in rows] == [
        "pydocs:function:a_kind.greet",
        "pydocs:module:c_prints",
        "pydocs:module:g_threads",
        "pydocs:module:h_forks",
        "pydocs:module:i_reads",
        "pydocs:function:j_shows.shown",
        "pydocs:class:k_last.Last",
        "pydocs:method:k_last.Last.speak",
    ]


def test_the_culprit_is_named_in_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "vanishes.py").write_text(HOSTILE["d_vanishes"])
    assert list(read_pydocs(modules=["vanishes"], extra_path=tmp_path)) == []
    assert "module vanishes is left out" in caplog.text


def test_a_reading_beyond_its_time_is_one_clear_error(tmp_path: Path) -> None:
    errors = pytest.importorskip("pipeline_lib.core.errors")
    (tmp_path / "hangs.py").write_text(HOSTILE["b_hangs"])
    with pytest.raises(errors.DataError, match="took too long"):
        list(read_pydocs(modules=["hangs"], extra_path=tmp_path, total_seconds=0.5))


def test_values_that_differ_between_machines_are_left_out(tmp_path: Path) -> None:
    parameters = ", ".join(f"parameter_{number}=None" for number in range(20))
    (tmp_path / "odd_values.py").write_text(ODD_VALUES % parameters)
    read: list[dict[str, Any]] = list(read_pydocs(modules=["odd_values"], extra_path=tmp_path))
    addressed, long, odd = ([message["content"] for message in row["messages"]] for row in read)
    assert "`odd_values.odd(a=..., b=..., c=..., d=..., e=..., f='plain', *, g=None)`" in odd[0]
    assert f"({', '.join(f'parameter_{number}' for number in range(20))})" in long[0]
    assert addressed[1] == "Made from ... here."
