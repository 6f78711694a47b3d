"""What gives a benchmark's prompt away is found wherever it stands, and what only looks like it is not."""

import json
import random
from pathlib import Path
from typing import Any

import pytest

from pipeline_lib.core.errors import DataError
from pipeline_lib.curation.decontaminate import DecontaminateConfig, decontaminate
from pipeline_lib.curation.overlap import Benchmarks
from pipeline_lib.curation.shingles import words_of
from tests.curation.conftest import Row, Workshop, chat, found, message, pair, reasons, text

WORDS = [f"term{i}" for i in range(500)]
LONG = " ".join(WORDS[:40])
MEDIUM = " ".join(WORDS[100:120])
SHORT = "Which river flows through the old town of Basel?"
BRIEF = "Who are you?"
CHINESE = "一个农夫有十七只羊除了九只以外都死了还剩下几只羊请给出答案"


def config(directory: Path, prompts: list[str], **changes: Any) -> DecontaminateConfig:
    """Return a config whose benchmark holds the prompts."""
    file = directory / "benchmark.jsonl"
    file.write_text("\n".join(json.dumps({"question": p, "answer": "x"}) for p in prompts), encoding="utf-8")
    return DecontaminateConfig.model_validate({"sources": [{"path": str(file)}], **changes})


def fill(count: int, seed: int = 0) -> str:
    """Return words that stand in no prompt."""
    return " ".join(random.Random(seed).choices([f"filler{i}" for i in range(300)], k=count))


PLANTED: list[Row] = [
    chat(f"{fill(30)} {' '.join(WORDS[10:23])} {fill(5)}", "ok", name="13-gram in the prompt"),
    chat("Say it.", f"{fill(9)}, {' '.join(WORDS[10:23]).upper()}!", name="13-gram in the answer"),
    pair("Which?", f"{' '.join(WORDS[20:33])}", "that", "13-gram in a chosen answer"),
    text(f"{fill(200)} {' '.join(WORDS[:13])}", "13-gram in a text"),
    chat(f"{' '.join(WORDS[100:108])} {fill(4)} {' '.join(WORDS[110:118])}", "ok", name="half in 8-grams"),
    chat(f"{fill(6)} {SHORT.lower()} {fill(6)}", "The Rhine.", name="a short prompt within"),
    chat("  who ARE you", "A helper.", name="a very short prompt"),
    chat("Hello", "Yes?", "Who are you?", "A helper.", name="a very short prompt later on"),
    chat(f"Frage: {CHINESE[:20]}", "九", name="13 ideographs"),
    chat("Which wide river flows through the old town of Basel?", "The Rhine.", name="in nearly its words"),
]
INNOCENT: list[Row] = [
    chat(f"{fill(30)} {' '.join(WORDS[10:22])}", "ok", name="12 words"),
    chat(f"{fill(9, 1)} {' '.join(WORDS[100:109])}", "ok", name="less than half in 8-grams"),
    chat(f"{' '.join(WORDS[100:108])} x " * 6, "ok", name="one 8-gram often"),
    chat("Tell me who are you going to meet today", "Ann.", name="a very short prompt's words"),
    chat("Which river flows through the old town?", "The Rhine.", name="part of a short prompt"),
    chat(fill(300), fill(300, 1), name="nothing"),
    {"id": "empty", "messages": [message("user", None), message("assistant", "")]},
]


def test_what_is_planted_is_found_and_nothing_else(workshop: Workshop, tmp_path: Path) -> None:
    settings = config(tmp_path, [LONG, MEDIUM, SHORT, BRIEF, CHINESE])
    made = workshop.run(decontaminate, settings, [*PLANTED, *INNOCENT])
    assert set(reasons(made)) == {row["id"] for row in PLANTED}
    assert set(reasons(made).values()) == {"contaminated"}
    assert made.manifest.stats["benchmark_prompts"] == 5


def test_the_detail_names_the_prompt(workshop: Workshop, tmp_path: Path) -> None:
    made = workshop.run(decontaminate, config(tmp_path, [LONG, MEDIUM, SHORT, BRIEF, CHINESE]), PLANTED)
    details = {row["id"]: row["detail"] for row in found(made, "dropped")}
    assert details["13-gram in the answer"].startswith("13-gram of ")
    assert details["half in 8-grams"].endswith("by 8-grams")
    assert "80%" in details["half in 8-grams"]
    assert details["a very short prompt"].startswith("the same as ")
    assert details["a very short prompt"].endswith("prompt 3")


def test_a_template_that_many_prompts_share_gives_none_of_them_away(
    workshop: Workshop, tmp_path: Path
) -> None:
    template = "The following is a multiple choice question with four answers about one subject of a school:"
    prompts = [f"{template} {' '.join(WORDS[20 * i : 20 * i + 15])}" for i in range(20)]
    rows = [
        chat(f"{template} {fill(15)}", "b", name="template"),
        chat(f"{fill(3)} {prompts[3]}", "c", name="prompt"),
    ]
    made = workshop.run(decontaminate, config(tmp_path, prompts), rows)
    assert set(reasons(made)) == {"prompt"}


def test_a_prompt_that_a_benchmark_repeats_is_no_template(workshop: Workshop, tmp_path: Path) -> None:
    made = workshop.run(decontaminate, config(tmp_path, [LONG] * 30), PLANTED[:1])
    assert len(reasons(made)) == 1


def test_a_report_drops_nothing_and_marks_what_it_found(workshop: Workshop, tmp_path: Path) -> None:
    made = workshop.run(decontaminate, config(tmp_path, [LONG], action="report"), PLANTED)
    assert reasons(made) == {}
    assert made.manifest.stats["contaminated"] == 4
    marks = [json.loads(row["metadata"] or "{}").get("contaminated") for row in found(made)]
    assert [mark is not None for mark in marks].count(True) == 4
    assert {mark for mark in marks if mark} == {detail for detail in marks if detail and "prompt 0" in detail}


def test_without_benchmarks_everything_stays(workshop: Workshop) -> None:
    made = workshop.run(decontaminate, DecontaminateConfig(), [*PLANTED, *INNOCENT])
    assert made.manifest.stats["kept"] == len(PLANTED) + len(INNOCENT)


def test_a_benchmark_without_any_prompt_is_an_error(workshop: Workshop, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"benchmark\.jsonl has no prompt to look for"):
        workshop.run(decontaminate, config(tmp_path, [""]), PLANTED)


def covered_by_hand(prompt: list[str], said: list[str], size: int) -> float:
    """Return the share of a prompt's words that lie in an n-gram which the text has too."""
    grams = {tuple(said[i : i + size]) for i in range(len(said) - size + 1)}
    hit = [i for i in range(len(prompt) - size + 1) if tuple(prompt[i : i + size]) in grams]
    return len({i + k for i in hit for k in range(size)}) / len(prompt)


def test_coverage_is_the_share_of_the_prompts_words() -> None:
    draw = random.Random(0)
    for _ in range(300):
        prompt = draw.choices(WORDS[:3], k=draw.randint(14, 30))
        said = draw.choices(WORDS[:3], k=draw.randint(5, 40))
        benchmarks = Benchmarks([("p", " ".join(prompt))], 64, 4, coverage=0.5, similarity=1.0)
        benchmarks._whole.clear()
        (hit,) = benchmarks.find([" ".join(said)], [[]])
        assert (hit is not None) == (covered_by_hand(prompt, said, 4) >= 0.5)


def test_words_are_lower_case_and_ideographs_are_words() -> None:
    whole, apart = words_of(["It's 2 Häuser: 你好!"]), words_of(["it", "S", "2", "HÄUSER", "你", "好"])
    assert whole.hashes.tolist() == apart.hashes.tolist()
    assert apart.sizes.tolist() == [1] * 6


def test_workers_and_shards_do_not_change_a_byte(same_bytes: Any, tmp_path: Path) -> None:
    same_bytes(decontaminate, config(tmp_path, [LONG, SHORT]), [*PLANTED, *INNOCENT])
