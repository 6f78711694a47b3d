"""The child of ``benchmarks.evaluation``: ours and the plain loops in turns, and that they agree."""

from __future__ import annotations

import inspect
import json
import pkgutil
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from importlib import import_module
from types import ModuleType
from typing import Any

from benchmarks.harness import root

MODEL = root() / "pipeline_lib" / "bundled" / "pydocs-5m"
PACKAGES = (
    "argparse asyncio collections concurrent ctypes email html http inspect json logging os re unittest"
)
NEW_TOKENS = 64
BATCHES = (8, 16, 32, 64)
ROUNDS = 3
SAME = 1e-3
"""Relative difference of perplexities in fp32 that batching may make."""


def pairs(count: int) -> list[tuple[str, str]]:
    """Return questions about the standard library with the docstrings that answer them, spread evenly."""
    found: dict[str, str] = {}
    for name in PACKAGES.split():
        package = import_module(name)
        inner = (f"{name}.{part.name}" for part in pkgutil.iter_modules(getattr(package, "__path__", [])))
        for module in (name, *inner):
            if (imported := _imported(module)) is not None:
                found |= dict(_documented(imported))
    whole = [(f"What does `{name}` do?", text) for name, text in sorted(found.items())]
    return whole[:: max(1, len(whole) // count)][:count]


def _imported(name: str) -> ModuleType | None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return None if "__main__" in name or "windows" in name else import_module(name)
        except ImportError:
            return None


def _documented(module: ModuleType) -> Iterator[tuple[str, str]]:
    for name, value in list(vars(module).items()):
        inner = (
            [(f"{name}.{key}", member) for key, member in vars(value).items()]
            if inspect.isclass(value)
            else []
        )
        for called, thing in [(name, value), *inner]:
            text = inspect.getdoc(thing) if inspect.isroutine(thing) or inspect.isclass(thing) else None
            if text and 40 < len(text) < 1200:
                yield f"{module.__name__}.{called}", text


def in_turns(works: dict[str, Callable[[], Any]], rounds: int = ROUNDS) -> dict[str, tuple[float, Any]]:
    """Return median seconds and last result of each work, every round taking each of them once."""
    times: dict[str, list[float]] = {name: [] for name in works}
    results: dict[str, Any] = {}
    for _ in range(rounds):
        for name, work in works.items():
            start = time.perf_counter()
            results[name] = work()
            times[name].append(time.perf_counter() - start)
    return {name: (statistics.median(times[name]), results[name]) for name in works}


def prepared(count: int) -> tuple[Any, Any, list[Any]]:
    """Return the bundled model, its tokenizer, and the questions as training would render them."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from pipeline_lib import chat
    from pipeline_lib.evaluation.questions import Question, settle_template

    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    settle_template(tokenizer, None)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    model = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32).eval()
    cuts = [
        chat.pieces(tokenizer, [{"role": "user", "content": asked}, {"role": "assistant", "content": said}])
        for asked, said in pairs(count)
    ]
    questions = [
        Question(row, str(row), encoded.ids, encoded.mask, encoded.mask.index(True))
        for row, encoded in enumerate(chat.encode(tokenizer, cuts))
        if len(encoded.ids) <= model.config.max_position_embeddings
    ]
    return model, tokenizer, questions


def sorted_batches(lengths: Sequence[int], size: int) -> list[list[int]]:
    """Return places in batches of ``size``, longest first."""
    order = sorted(range(len(lengths)), key=lambda place: -lengths[place])
    return [order[start : start + size] for start in range(0, len(order), size)]


def plain_loss(model: Any, questions: Sequence[Any], pad: int, size: int) -> tuple[float, int]:
    """Return summed loss and tokens: right-padded batches, logits of a batch at a time."""
    import torch
    from torch.nn.functional import cross_entropy

    total, tokens = 0.0, 0
    for batch in sorted_batches([len(q.ids) for q in questions], size):
        some = [questions[place] for place in batch]
        longest = max(len(q.ids) for q in some)
        ids = torch.tensor([q.ids + [pad] * (longest - len(q.ids)) for q in some])
        mask = torch.tensor([[1] * len(q.ids) + [0] * (longest - len(q.ids)) for q in some])
        learnt = torch.tensor([q.mask + [False] * (longest - len(q.ids)) for q in some])
        with torch.inference_mode():
            logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, :-1]
            labels = torch.where(learnt, ids, -100)[:, 1:]
            total += float(cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum"))
        tokens += int((labels != -100).sum())
    return total, tokens


def our_loss(model: Any, questions: Sequence[Any], pad: int) -> tuple[float, int]:
    """Return summed loss and tokens as `evaluate` measures them."""
    from pipeline_lib.likelihood import negative_log_likelihoods

    found = [item for batch in negative_log_likelihoods(model, questions, pad) for item in batch]
    return sum(item.nll for item in found), sum(item.tokens for item in found)


def perplexity(count: int) -> dict[str, Any]:
    """Return the seconds of each loop over the same conversations; they must find the same perplexity."""
    import math

    model, tokenizer, questions = prepared(count)
    pad = tokenizer.pad_token_id
    works: dict[str, Callable[[], Any]] = {"ours": partial(our_loss, model, questions, pad)}
    works |= {str(size): partial(plain_loss, model, questions, pad, size) for size in BATCHES}
    works["single"] = partial(plain_loss, model, questions, pad, 1)
    our_loss(model, questions[:4], pad)
    found = in_turns(works)
    values = [math.exp(total / tokens) for _, (total, tokens) in found.values()]
    if max(values) / min(values) - 1 > SAME:
        raise SystemExit(f"the loops disagree: perplexities {values}")
    return _told(found)


def plain_answers(
    model: Any, questions: Sequence[Any], stops: list[int], pad: int, size: int
) -> list[list[int]]:
    """Return the generated ids of every question: left-padded batches to their end, nothing thinned."""
    import torch
    from transformers import GenerationConfig

    how = GenerationConfig(max_new_tokens=NEW_TOKENS, eos_token_id=stops, pad_token_id=pad, do_sample=False)
    answers: list[list[int]] = [[] for _ in questions]
    for batch in sorted_batches([q.prompt_length for q in questions], size):
        prompts = [questions[place].prompt for place in batch]
        longest = max(map(len, prompts))
        ids = torch.tensor([[pad] * (longest - len(p)) + p for p in prompts])
        mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts])
        with torch.inference_mode():
            said = model.generate(ids, attention_mask=mask, generation_config=how)[:, longest:].tolist()
        for place, row in zip(batch, said, strict=True):
            end = next((i for i, token in enumerate(row) if token in stops), len(row))
            answers[place] = row[:end]
    return answers


def our_answers(model: Any, questions: Sequence[Any], stops: list[int], pad: int) -> list[list[int]]:
    """Return the generated ids of every question as `evaluate` generates them."""
    from pipeline_lib.evaluation.generate import Decoding, generate_answers

    decoding = Decoding(NEW_TOKENS, 0.0, stops, pad)
    batches = generate_answers(model, questions, decoding, model.config.max_position_embeddings)
    found = {answer.row: answer.ids for batch in batches for answer in batch}
    return [found[question.row] for question in questions]


def generation(count: int) -> dict[str, Any]:
    """Return the seconds of each loop over the same prompts; greedy answers must be the same."""
    from pipeline_lib import chat

    model, tokenizer, questions = prepared(count)
    questions = [q for q in questions if q.prompt_length + NEW_TOKENS <= model.config.max_position_embeddings]
    stops, pad = chat.stop_ids(tokenizer), tokenizer.pad_token_id
    works: dict[str, Callable[[], Any]] = {"ours": partial(our_answers, model, questions, stops, pad)}
    works |= {
        str(size): partial(plain_answers, model, questions, stops, pad, size) for size in (*BATCHES, 128)
    }
    our_answers(model, questions[:4], stops, pad)
    found = in_turns(works)
    found |= in_turns({"single": partial(plain_answers, model, questions, stops, pad, 1)}, 1)
    ours, single = found["ours"][1], found["single"][1]
    same = sum(a == b for a, b in zip(ours, single, strict=True)) / len(ours)
    # Greedy ties within rounding may fall otherwise in another batch; more than a few would be a defect.
    if same < 0.97:
        raise SystemExit(f"the loops disagree: {same:.1%} of answers are the same")
    return _told(found)


def _told(found: dict[str, tuple[float, Any]]) -> dict[str, Any]:
    batched = {name: seconds for name, (seconds, _) in found.items() if name.isdigit()}
    best = min(batched, key=lambda name: batched[name])
    return {
        "ours": found["ours"][0],
        "sorted": batched[best],
        "batch": int(best),
        "single": found["single"][0],
    }


def metrics(count: int) -> dict[str, Any]:
    """Return the seconds of all scores with intervals, of the scores alone, of the reference libraries."""
    from pipeline_lib.evaluation.metrics import ALONE, REFERENCED, score_answers

    base = pairs(2000)
    texts = [base[i % len(base)][1] for i in range(count)]
    answers = [base[(i * 7 + 3) % len(base)][1] for i in range(count)]
    score_answers(answers[:10], texts[:10])

    def everything() -> None:
        scores = score_answers(answers, texts)
        for name in (*REFERENCED, *ALONE):
            scores.interval(name)

    found = in_turns(
        {
            "ours": everything,
            "scores": partial(score_answers, answers, texts),
            "libraries": partial(_libraries, answers, texts),
        },
        1,
    )
    return {name: seconds for name, (seconds, _) in found.items()}


def _libraries(answers: Sequence[str], texts: Sequence[str]) -> None:
    from rouge_score.rouge_scorer import RougeScorer
    from sacrebleu import corpus_bleu, corpus_chrf

    scorer = RougeScorer(["rouge1", "rouge2", "rougeL", "rougeLsum"])
    for answer, text in zip(answers, texts, strict=True):
        scorer.score(text, answer)
    corpus_bleu(answers, [texts])
    corpus_chrf(answers, [texts])


if __name__ == "__main__":
    what = {"perplexity": perplexity, "generation": generation, "metrics": metrics}[sys.argv[1]]
    print(json.dumps(what(int(sys.argv[2]))))
