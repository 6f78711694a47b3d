"""What a model writes is asked for once, marked, accounted for and never tested on; endpoints may fail."""

import json
import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from pipeline_lib import completions
from pipeline_lib.core.errors import ConfigError, FinetuneError, ServiceError
from pipeline_lib.core.store import Store
from pipeline_lib.curation.augment import AugmentConfig, augment
from pipeline_lib.curation.split import SplitConfig, split
from pipeline_lib.curation.synthesis import FAMILY
from pipeline_lib.kinds import Dataset
from pipeline_lib.settings import settings
from tests.curation.completions_server import Answer, Server, completion, rewritten, serving
from tests.curation.conftest import Workshop, chat, found, pair, text

ROWS = [
    chat(f"What is thing {i}?", f"Thing {i} is the {i * 7} th of all things.", name=f"id{i:02d}")
    for i in range(12)
]
CONFIG = AugmentConfig(model="small", seeds=6, paraphrases=2)


@pytest.fixture(autouse=True)
def _own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the replies out of the project."""
    monkeypatch.setenv("FINETUNE_STORE", str(tmp_path / "state" / "store"))
    settings.cache_clear()


@pytest.fixture
def point(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Point the settings at a server."""

    def at(server: Server, **more: Any) -> None:
        given = {"url": server.url, "parallel": 4, **more}
        for name, value in given.items():
            monkeypatch.setenv(f"FINETUNE_ENDPOINT_{name.upper()}", str(value))
        settings.cache_clear()

    monkeypatch.setattr(completions, "FIRST_WAIT", 0.02)
    yield at
    monkeypatch.undo()
    settings.cache_clear()


def _made(shop: Workshop, config: AugmentConfig = CONFIG, rows: list[dict[str, Any]] = ROWS) -> Dataset:
    return shop.store.materialize(augment.recipe(config, shop.dataset(rows))).artifact


def _good(body: Mapping[str, Any], _: int) -> Answer:
    return rewritten(body)


def test_originals_stay_and_every_reply_is_a_row_marked_with_its_seed(workshop: Workshop, point: Any) -> None:
    with serving(_good) as server:
        point(server, key="sesame")
        made = _made(workshop)
    rows = found(made)
    assert [row["id"] for row in rows[:12]] == [row["id"] for row in ROWS]
    assert [row["messages"] for row in rows[:12]] == [row["messages"] for row in ROWS]
    synthetic = rows[12:]
    assert made.manifest.stats["read"] == 24 == len(rows)
    assert {row["source"] for row in synthetic} == {"synthetic"}
    assert len({row["id"] for row in rows}) == 24
    for row in synthetic:
        marks = json.loads(row["metadata"])
        assert marks["synthetic"] == "paraphrase"
        assert marks["model"] == "small"
        (seed,) = [one for one in rows if one["id"] in marks["seeds"]]
        assert marks[FAMILY] == json.loads(seed["metadata"])[FAMILY] == seed["id"]
        assert [one["content"].partition(": ")[2] for one in row["messages"]] == [
            one["content"] for one in seed["messages"]
        ]
    assert Counter(json.loads(row["metadata"])["seeds"][0] for row in synthetic).most_common()[0][1] == 2
    assert server.keys == {"Bearer sesame"}
    assert "sesame" not in made.file("manifest.json").read_text()


def test_the_order_of_answers_does_not_matter(
    tmp_path: Path, point: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slowly(body: Mapping[str, Any], _: int) -> Answer:
        time.sleep(0.03 * (len(json.dumps(body)) % 5) * (1 + body["seed"] % 2))
        return rewritten(body)

    digests = set()
    for parallel, answer in ((1, _good), (6, slowly)):
        monkeypatch.setenv("FINETUNE_STORE", str(tmp_path / f"state-{parallel}" / "store"))
        with serving(answer) as server:
            point(server, parallel=parallel)
            digests.add(_made(Workshop(Store(tmp_path / str(parallel)))).digest)
            assert server.most_at_once <= parallel
    assert len(digests) == 1


def test_a_new_conversation_is_written_after_several_seeds_that_are_one_family(
    workshop: Workshop, point: Any
) -> None:
    config = AugmentConfig(model="small", seeds=7, paraphrases=0, conversations=2, examples=3)
    with serving(_good) as server:
        point(server)
        rows = found(_made(workshop, config))
    synthetic = [json.loads(row["metadata"]) for row in rows[12:]]
    assert [len(one["seeds"]) for one in synthetic] == [3, 3, 3, 3, 1, 1]
    assert all(one["synthetic"] == "conversation" for one in synthetic)
    family = {row["id"]: json.loads(row["metadata"])[FAMILY] for row in rows[:12] if row["metadata"]}
    assert all({family[seed] for seed in one["seeds"]} == {one[FAMILY]} for one in synthetic)


def test_only_plain_questions_and_answers_are_shown(workshop: Workshop, point: Any) -> None:
    odd = [
        text("A plain text.", name="t"),
        pair("Why?", "So.", "No.", name="p"),
        {**chat("Is it?", "Yes.", name="l"), "label": True},
        {**chat("Call it.", "Done.", name="f"), "tools": "[]"},
    ]
    with serving(_good) as server:
        point(server)
        made = _made(workshop, CONFIG, [*odd, ROWS[0]])
    assert made.manifest.stats["seeds"] == 1
    assert len(server.asked) == 2


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (completion("I would rather not."), "malformed_reply"),
        (completion('{"messages": [{"role": "user", "content": "broken'), "malformed_reply"),
        (completion('{"messages": "none"}'), "malformed_reply"),
        (completion('{"messages": [{"role": "user"}, 7]}'), "malformed_reply"),
        (
            completion('{"messages": [{"role": "pirate", "content": "a"}, {"role": "x", "content": "b"}]}'),
            "malformed_reply",
        ),
        (completion("[" * 5000 + "{}"), "malformed_reply"),
        (completion(""), "no_reply"),
        (completion('{"messages": [', "length"), "cut_off_reply"),
    ],
)
def test_a_reply_that_is_no_conversation_is_dropped_with_its_words(
    workshop: Workshop, point: Any, reply: Answer, reason: str
) -> None:
    with serving(lambda body, _: reply if body["seed"] == 43 else rewritten(body)) as server:
        point(server)
        made = _made(workshop)
    dropped = found(made, "dropped")
    assert {row["reason"] for row in dropped} == {reason}
    assert len(dropped) == 6
    assert all(row["detail"] for row in dropped)
    assert dropped[0]["messages"][0]["content"] == json.loads(reply[2])["choices"][0]["message"]["content"]
    assert made.manifest.stats["read"] == made.count() + 6 == 24
    assert len(server.asked) == 12


@pytest.mark.parametrize(
    "trouble",
    [
        (429, {"Retry-After": "0"}, b"slow down"),
        (500, {}, b"oops"),
        (503, {"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}, b""),
        (200, {}, b"<html>not a completion</html>"),
        (200, {}, b'{"choices": []}'),
    ],
)
def test_trouble_that_passes_is_waited_out(workshop: Workshop, point: Any, trouble: Answer) -> None:
    with serving(lambda body, before: trouble if before < 2 else rewritten(body)) as server:
        point(server)
        made = _made(workshop, AugmentConfig(model="small", seeds=3))
    assert made.count() == 15
    assert sorted(Counter(json.dumps(one) for one in server.asked).values()) == [3, 3, 3]


def test_an_answer_that_takes_too_long_is_asked_for_again(workshop: Workshop, point: Any) -> None:
    def late(body: Mapping[str, Any], before: int) -> Answer:
        time.sleep(0 if before else 0.6)
        return rewritten(body)

    with serving(late) as server:
        point(server, timeout=0.2)
        assert _made(workshop, AugmentConfig(model="small", seeds=2)).count() == 14


@pytest.mark.parametrize(
    ("answer", "kind", "words"),
    [
        ((503, {}, b""), ServiceError, "HTTP 503"),
        ((200, {}, b"{}"), ServiceError, "no chat completion"),
        ((401, {}, b'{"error":\n"bad key"}'), ConfigError, "FINETUNE_ENDPOINT_KEY"),
        ((404, {}, b"no model small"), ConfigError, "no model small"),
    ],
)
def test_trouble_that_stays_is_one_line_and_leaves_nothing(
    workshop: Workshop, point: Any, answer: Answer, kind: type[FinetuneError], words: str
) -> None:
    with serving(lambda body, _: answer) as server:
        point(server)
        with pytest.raises(kind, match=words) as raised:
            _made(workshop)
        assert "\n" not in str(raised.value)
        assert not list((workshop.store.root / "augment").glob("*"))


def test_an_endpoint_that_is_not_there_or_not_named_is_one_line(
    workshop: Workshop, point: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(_good) as server:
        point(server)
    with pytest.raises(ServiceError, match="no reply after 6 tries"):
        _made(workshop)
    point(server, url="ftp://somewhere")
    with pytest.raises(ConfigError, match="neither http nor https"):
        _made(workshop)
    monkeypatch.delenv("FINETUNE_ENDPOINT_URL")
    settings.cache_clear()
    with pytest.raises(ConfigError, match="set FINETUNE_ENDPOINT_URL"):
        _made(workshop)


def test_what_was_answered_is_not_asked_again_after_a_failure_or_with_more_data(
    workshop: Workshop, point: Any
) -> None:
    with serving(lambda body, _: (500, {}, b"") if body["seed"] == 43 else rewritten(body)) as server:
        point(server)
        with pytest.raises(ServiceError):
            _made(workshop)
    answered = set(server.answered)
    assert answered
    with serving(_good) as server:
        point(server)
        _made(workshop, CONFIG.model_copy(update={"seeds": 6}))
        assert not answered & set(server.answered)
        whole = len(server.asked)
        assert whole == 12 - len(answered)
        _made(workshop, CONFIG, [*ROWS, chat("What is new?", "This is, of course.", name="zz")])
        assert len(server.asked) - whole <= 2


def test_requests_keep_the_pace_that_is_set(workshop: Workshop, point: Any) -> None:
    with serving(_good) as server:
        point(server, requests_per_minute=600)
        _made(workshop, AugmentConfig(model="small", seeds=5))
    gaps = [after - before for before, after in zip(server.times, server.times[1:], strict=False)]
    assert sum(gaps) >= 0.38


RUN = """
    import json, sys
    from pathlib import Path
    from pipeline_lib.core.store import Store
    from pipeline_lib.curation.augment import AugmentConfig, augment
    from tests.curation.conftest import Workshop
    from tests.curation.test_augment import ROWS
    shop = Workshop(Store(Path(sys.argv[1])))
    config = AugmentConfig(model="small", seeds=12, paraphrases=3)
    made = shop.store.materialize(augment.recipe(config, shop.dataset(ROWS))).artifact
    print(made.digest, made.count())
"""


def _start(store: Path, url: str) -> "subprocess.Popen[str]":
    own = {"FINETUNE_ENDPOINT_URL": url, "FINETUNE_ENDPOINT_PARALLEL": "2", "PYTHONPATH": str(Path.cwd())}
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(RUN), str(store)],
        env={**os.environ, **own},
        stdout=subprocess.PIPE,
        text=True,
    )


def test_a_run_that_is_killed_goes_on_and_pays_only_for_what_was_under_way(
    tmp_path: Path, point: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slowly(body: Mapping[str, Any], _: int) -> Answer:
        time.sleep(0.1)
        return rewritten(body)

    with serving(slowly) as server:
        first = _start(tmp_path / "store", server.url)
        until = time.monotonic() + 120
        while len(server.answered) < 9 and time.monotonic() < until:
            time.sleep(0.02)
        first.send_signal(signal.SIGKILL)
        first.communicate()
        answered = len(server.answered)
        assert 9 <= answered < 36
        assert not (tmp_path / "store" / "augment").exists()
        said, _ = _start(tmp_path / "store", server.url).communicate()
        assert said.split()[1] == "48"
        again = Counter(server.answered)
        # Two connections: at most so many answers were on their way when the process was killed.
        assert sum(count - 1 for count in again.values()) <= 2
        point(server)
        monkeypatch.setenv("FINETUNE_STORE", str(tmp_path / "other" / "store"))
        settings.cache_clear()
        config = AugmentConfig(model="small", seeds=12, paraphrases=3)
        assert said.split()[0] == _made(Workshop(Store(tmp_path / "other")), config).digest


def test_families_are_for_training_alone(workshop: Workshop, point: Any) -> None:
    draw = random.Random(3)
    rows = [
        chat(*(" ".join(f"{draw.random():.6f}" for _ in range(9)) for _ in range(2)), name=f"n{i:03d}")
        for i in range(200)
    ]
    with serving(_good) as server:
        point(server)
        more = _made(workshop, AugmentConfig(model="small", seeds=60), rows)
    for config in (SplitConfig(minimum=0), SplitConfig(minimum=0, test=20, validation=20)):
        made = workshop.run(split, config, more)
        for part in ("validation", "test"):
            held_out = found(made, part)
            assert held_out
            assert not any(FAMILY in (row["metadata"] or "") for row in held_out)
        assert sum(row["source"] == "synthetic" for row in found(made, "train")) == 60


def test_a_prompt_without_a_place_for_seeds_and_a_wish_for_nothing_are_refused() -> None:
    with pytest.raises(ValidationError, match="where the seeds stand"):
        AugmentConfig(model="m", paraphrase_prompt="Rewrite it.")
    with pytest.raises(ValidationError, match="leave augment out"):
        AugmentConfig(model="m", paraphrases=0)
