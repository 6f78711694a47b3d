"""Evaluation beside the loops that anyone would write over Transformers, and metrics with their intervals.

The *sorted* loop is the fastest plain one: conversations of like length in one batch, the loss taken from the
logits of each batch alone; the best of several batch sizes counts. The *one by one* loop has no batches.
Questions are docstrings of the running Python, the model is the bundled one; ours and theirs take turns in
one process.
"""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.harness import Case, Session, Skipped, main

WORK = "benchmarks.evaluation_loops"
QUESTIONS, QUICK_QUESTIONS = 512, 96
ANSWERS, QUICK_ANSWERS = 10_000, 2_000
WITHIN = 1 / 1.1
"""At most 1.1 times the time of the sorted loop."""
FASTER = 3.0
METRICS_SECONDS = 20.0


def cases(session: Session) -> Iterator[Case]:
    """Perplexity and generation against plain loops; metrics with 1,000 bootstrap draws."""
    questions = QUICK_QUESTIONS if session.quick else QUESTIONS
    for what in ("perplexity", "generation"):
        yield from _loops(session, what, questions)
    yield from _metrics(session, QUICK_ANSWERS if session.quick else ANSWERS)


def _loops(session: Session, what: str, questions: int) -> Iterator[Case]:
    name = f"{what}, {questions} conversations"
    shape = {"unit": "s", "less_is_better": True}
    try:
        found = session.run(WORK, what, questions)
    except Skipped as why:
        yield Case(name, None, peer="plain loops", target=WITHIN, skipped=str(why), **shape)
        return
    batch = f"sorted loop, best of batches ({found['batch']})"
    yield Case(name, found["ours"], peer=batch, theirs=found["sorted"], target=WITHIN, **shape)
    yield Case(name, found["ours"], peer="one by one", theirs=found["single"], target=FASTER, **shape)


def _metrics(session: Session, answers: int) -> Iterator[Case]:
    name = f"all metrics and 1,000 draws, {answers:,} answers"
    try:
        found = session.run(WORK, "metrics", answers)
    except Skipped as why:
        yield Case(name, None, unit="s", target=METRICS_SECONDS, less_is_better=True, skipped=str(why))
        return
    aim = METRICS_SECONDS * answers / ANSWERS
    yield Case(name, found["ours"], unit="s", target=aim, less_is_better=True)
    yield Case(
        f"the same scores without intervals, {answers:,} answers",
        found["scores"],
        unit="s",
        peer="rouge_score and sacreBLEU",
        theirs=found["libraries"],
        less_is_better=True,
    )


if __name__ == "__main__":
    main("evaluation", cases)
