"""Curation beside rensa, datasketch, datatrove and Presidio, on generated documents of 600 bytes.

``curation_documents`` makes the documents, ``curation_ours`` and ``curation_peers`` are the two sides, each
in processes of their own. Slow peers get the first of the same documents; every rate is per document or byte.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks import curation_documents as made
from benchmarks.harness import Case, Peer, Session, Skipped, bench, main

OURS, THEIRS = "benchmarks.curation_ours", "benchmarks.curation_peers"
RENSA = Peer("rensa", ("rensa==0.5.0", "numpy"))
DATASKETCH = Peer("datasketch", ("datasketch==2.0.0",))
PRESIDIO = Peer("presidio", ("presidio-analyzer==2.2.366",), small=False)
DATATROVE = Peer("datatrove", ("datatrove[io,processing]==0.10.1", "xxhash<4", "spacy"), small=False)
COUNT, QUICK_COUNT = 100_000, 10_000
SLOW, QUICK_SLOW = 5_000, 1_000
"""Documents for peers of some hundred documents a second."""
SCALES, QUICK_SCALES, FULL_SCALES = (10_000, 100_000, 1_000_000), (10_000, 50_000), (10_000_000,)
SHORT = 30
"""Words of a row in the cases of growing size."""
THRESHOLD = 0.7

Made = dict[str, Any]


def cases(session: Session) -> Iterator[Case]:
    """Near-dedup, personal data, rules, the whole of curation, decontamination, splits, growing sizes."""
    count, slow = (QUICK_COUNT, QUICK_SLOW) if session.quick else (COUNT, SLOW)
    path = bench() / "documents" / f"{count}.jsonl"
    made.write(path, count)
    yield from _near_dedup(session, path, count, slow)
    yield from _personal_data(session, path, count, slow)
    yield from _rules(session, path, count, slow)
    yield from _whole(session, path, count, slow)
    yield from _decontamination(session, path, count)
    yield from _split(session)
    yield from _scale(session)


def _near_dedup(session: Session, path: Path, count: int, slow: int) -> Iterator[Case]:
    repeats = 1 if session.quick else 3
    pairs = made.planted(count)
    one, two = (
        _try(lambda threads=threads: session.run(OURS, "near_dedup", path, repeats, threads=threads))
        for threads in (1, 2)
    )
    ours = _rate(one, count)
    yield _case("near-dedup from JSON Lines, 1 thread", "documents/s", one, ours, target=25_000)
    yield _case(
        "near-dedup in memory, 1 thread",
        "documents/s",
        one,
        count / one["memory"] if "memory" in one else None,
    )
    yield _case("near-dedup, 2 threads", "documents/s", two, _rate(two, count), "1 thread", ours)
    yield from _found("ours", one, pairs, count, (0.999, 0.99, 0))
    for peer, command, aim, most in (
        (RENSA, "rensa", 3, count),
        (DATASKETCH, "datasketch", None, count),
        (DATATROVE, "datatrove_dedup", 60, slow),
    ):
        extra = (most,) if peer is DATATROVE else ()
        theirs = _try(lambda: session.run(THEIRS, command, path, 1, *extra, peer=peer))  # noqa: B023 - at once
        name = "near-dedup from JSON Lines, 1 thread"
        yield _case(name, "documents/s", one | theirs, ours, peer.name, _rate(theirs, most), aim)
        if "result" in theirs:
            yield from _found(peer.name, theirs, [pair for pair in pairs if pair[1] < most], most)


def _found(
    whose: str,
    run: Made,
    pairs: Sequence[tuple[int, int, float]],
    count: int,
    aims: tuple[float | None, ...] = (None, None, None),
) -> Iterator[Case]:
    """Yield recall by similarity, and how many removed documents are like no other."""
    if "result" not in run:
        return
    gone, label = set(run["result"]), "" if whose == "ours" else f" of {whose}"
    for least, below, aim in ((0.8, 1.01, aims[0]), (0.7, 0.8, aims[1])):
        near = [{left, right} for left, right, jaccard in pairs if least <= jaccard < below]
        share = sum(bool(pair & gone) for pair in near) / max(len(near), 1)
        between = "0.8 and above" if least == 0.8 else "0.7 to 0.8"
        yield Case(f"recall{label} at Jaccard {between}, {len(near):,} pairs", share, "share", target=aim)
    alike = {place for left, right, jaccard in pairs if jaccard >= THRESHOLD for place in (left, right)}
    name = f"removed{label} without a partner of 0.7, {count:,} documents"
    yield Case(name, float(len(gone - alike)), "documents", target=aims[2], less_is_better=True)


def _personal_data(session: Session, path: Path, count: int, slow: int) -> Iterator[Case]:
    most, repeats = min(count, 20_000), 3
    ours = _try(lambda: session.run(OURS, "scrub", path, repeats, most))
    rate = _megabytes(ours, path, most)
    name = "personal data, 1 thread"
    yield _case(name, "MB/s", ours, rate, target=20)
    theirs = _try(lambda: session.run(THEIRS, "presidio", path, 1, slow // 5, peer=PRESIDIO))
    yield _case(name, "MB/s", ours | theirs, rate, "presidio patterns", _megabytes(theirs, path, slow // 5))
    theirs = _try(lambda: session.run(THEIRS, "datatrove_pii", path, repeats, most, peer=DATATROVE))
    yield _case(name, "MB/s", ours | theirs, rate, "datatrove e-mail and IP", _megabytes(theirs, path, most))


def _rules(session: Session, path: Path, count: int, slow: int) -> Iterator[Case]:
    most = min(count, 10_000)
    ours = _try(lambda: session.run(OURS, "rules", path, 3, most))
    rate, name = _megabytes(ours, path, most), "Gopher, C4 and FineWeb rules, 1 thread"
    yield _case(name, "MB/s", ours, rate, target=5)
    theirs = _try(lambda: session.run(THEIRS, "datatrove_rules", path, 1, slow, peer=DATATROVE))
    yield _case(name, "MB/s", ours | theirs, rate, "datatrove filters", _megabytes(theirs, path, slow))


def _whole(session: Session, path: Path, count: int, slow: int) -> Iterator[Case]:
    ours = [
        _try(lambda threads=threads: session.run(OURS, "curate", path, 1, threads=threads))
        for threads in (1, 2)
    ]
    one, two = (_rate(run, count) for run in ours)
    name = f"all of curation, {count:,} documents"
    theirs = _try(lambda: session.run(THEIRS, "datatrove_curate", path, 1, slow, peer=DATATROVE))
    peer = "datatrove pipeline"
    yield _case(f"{name}, 1 worker", "documents/s", ours[0] | theirs, one, peer, _rate(theirs, slow), 20)
    yield _case(f"{name}, 2 workers", "documents/s", ours[0] | ours[1], two, "1 worker", one, 1.7)
    yield _case(f"peak memory, {name}", "MiB", ours[0], ours[0].get("peak_mib"), less_is_better=True)
    for stage, seconds in ours[0].get("parts", {}).items():
        yield Case(f"{stage}, {count:,} documents, 1 worker", count / seconds, "documents/s")
    grown = _try(lambda: session.run(OURS, "grow", path, 1))
    share = grown["seconds"] / grown["whole"] if "seconds" in grown else None
    yield _case(f"{name}, 1 % of them new", "of the whole's time", grown, share, less_is_better=True)


def _decontamination(session: Session, path: Path, count: int) -> Iterator[Case]:
    most = min(count, 20_000)
    ours = _try(lambda: session.run(OURS, "decontaminate", path, 3, most))
    yield _case("decontamination against 1,000 prompts", "rows/s", ours, _rate(ours, most), target=25_000)
    for what in ("missed", "false"):
        wrong = ours["result"][what] if "result" in ours else None
        name = f"decontamination, {what}, of 100 planted in {most:,}"
        yield _case(name, "rows", ours, wrong, target=0, less_is_better=True)


def _split(session: Session) -> Iterator[Case]:
    """Leaks by plain sets: of our split, and of a random one of the same size."""
    count = 10_000
    path = bench() / "documents" / f"{count}.jsonl"
    made.write(path, count)
    texts, ours = made.read(path), _try(lambda: session.run(OURS, "split", path, 1))
    if "result" not in ours:
        yield _case("split leaks", "share of test", ours, None)
        return
    shares = []
    for places in (ours["result"], random.Random(1).sample(range(count), len(ours["result"]))):
        test = [place in chosen for chosen in [set(places)] for place in range(count)]
        shares.append(made.leaks(texts, test, THRESHOLD) / len(places))
    name = f"test rows with a partner of 0.7 elsewhere, {count:,} documents"
    yield Case(name, shares[0], "share of test", target=0, less_is_better=True)
    yield Case(name, shares[0], "share of test", "a random split", shares[1], less_is_better=True)
    off = abs(len(ours["result"]) / count - 0.1) * 100
    yield Case("test share, off what was asked for", off, "points", target=0.5, less_is_better=True)


def _scale(session: Session) -> Iterator[Case]:
    sizes = QUICK_SCALES if session.quick else SCALES + (FULL_SCALES if session.flags.get("full") else ())
    first: float | None = None
    for count in sizes:
        path = bench() / "documents" / f"{count}-short.jsonl"
        made.write(path, count, SHORT)
        run = _try(lambda: session.run(OURS, "curate", path, 1, SHORT // 2))  # noqa: B023 - run at once
        cost = run["seconds"] / count * 1e6 if "seconds" in run else None
        name = f"all of curation, {count:,} rows of {SHORT} words"
        yield _case(f"{name}: cost", "µs/row", run, cost, less_is_better=True)
        if first and cost:
            yield Case(
                f"{name}: growth of cost", cost / first, "times the first", target=1.3, less_is_better=True
            )
        first = first or cost
        yield _case(
            f"{name}: peak memory", "MiB", run, run.get("peak_mib"), target=2_048, less_is_better=True
        )


def _case(
    name: str,
    unit: str,
    run: Made,
    ours: float | None,
    peer: str | None = None,
    theirs: float | None = None,
    target: float | None = None,
    less_is_better: bool = False,
) -> Case:
    """Return the case, skipped where one of its runs was."""
    return Case(name, ours, unit, peer, theirs, target, less_is_better, run.get("skipped"))


def _try(run: Callable[[], Made]) -> Made:
    """Return what a run says, or why there was none."""
    try:
        return run()
    except Skipped as why:
        return {"skipped": str(why)}


def _rate(run: Made, count: int) -> float | None:
    return count / run["seconds"] if "seconds" in run else None


def _megabytes(run: Made, path: Path, most: int) -> float | None:
    size = sum(len(text.encode()) for text in made.read(path, most)) / 1e6
    return size / run["seconds"] if "seconds" in run else None


if __name__ == "__main__":
    main("curation", cases, {"full": "ten million rows too: an hour or so"})
