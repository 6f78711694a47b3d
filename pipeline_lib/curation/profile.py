"""Profile: what a dataset is before and after curation, on one page, and whether it is enough to train on.

``profile.html`` is self-contained, ``profile.md`` its short form, ``profile.json`` the figures. What the
stages between counted comes from their manifests; ``measures`` reads the conversations, ``advice`` warns.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from pydantic import Field

from pipeline_lib.core.config import StageConfig
from pipeline_lib.core.output import Output
from pipeline_lib.core.progress import mention
from pipeline_lib.core.stage import stage
from pipeline_lib.kinds import Dataset, Model, Profile
from pipeline_lib.pages.rendering import figure
from pipeline_lib.sample_sizes import SampleSizes, Strength, Task, conversations_needed

if TYPE_CHECKING:
    from markupsafe import Markup

    from pipeline_lib.curation.advice import Advice
    from pipeline_lib.curation.measures import Measures

SPLITS = ("train", "validation", "test")
MOST_GROUPS = 12
LEAST_SHARE = 0.005
"""Sources and languages with less are counted together: so rare a language is often a wrong guess."""
LENGTHS = {"median": 0.5, "95 %": 0.95, "longest": 1.0}


class ProfileConfig(StageConfig):
    """What is measured of the data, and for what they are meant."""

    sample: int = Field(
        default=2_000,
        ge=100,
        description="Conversations whose lengths and languages are measured, before and after; "
        "all are counted.",
    )
    task: Task = Field(
        default="simple", description="How hard what is to be learnt is: it decides how many are needed."
    )
    base_strength: Strength = Field(
        default="medium", description="How good the base model is at it: a weak one needs more."
    )
    knowledge_changes: bool = Field(
        default=False, description="Whether the answers hold knowledge that changes after the training."
    )


@dataclass(frozen=True)
class Change:
    """One figure before and after curation, as texts."""

    title: str
    before: str
    after: str


@dataclass(frozen=True)
class Share:
    """One group's share before and after curation, in per cent."""

    name: str
    before: float
    after: float


@dataclass(frozen=True)
class Found:
    """One kind of personal data: how often it was found, and a few examples, masked."""

    kind: str
    count: int
    examples: tuple[str, ...]


@stage(produces=Profile, version=3)
def profile(out: Output, config: ProfileConfig, curation: tuple[Dataset, ...], tokenizer: Model) -> None:
    """One page on the data as they came and as they are trained on, with advice on their number."""
    from pipeline_lib.curation import measures
    from pipeline_lib.curation.advice import Evidence, advice
    from pipeline_lib.curation.quality.lengths import token_counts
    from pipeline_lib.pages.funnel import funnel

    raw, final = curation[0], curation[-1]
    count = partial(token_counts, tokenizer.path)
    before = measures.measure(out, raw, ("kept", "dropped"), config.sample, count)
    after = measures.measure(out, final, SPLITS, config.sample, count)
    rows = funnel((dataset.manifest.stage, dataset.manifest.stats) for dataset in curation)
    reasons: Counter[str] = Counter()
    for row in rows:
        reasons.update({reason: number for reason, number, _ in row.reasons})
    sizes = {part: int(final.manifest.stats[part]) for part in SPLITS}
    needed = conversations_needed(config.task, config.base_strength)
    warnings = advice(Evidence(before, after, sizes, reasons, needed, config.knowledge_changes))
    stats = {dataset.manifest.stage: dataset.manifest.stats for dataset in curation}
    page = _page(config, before, after, stats) | {"funnel": rows, "warnings": warnings, "needed": needed}
    page |= {"sizes": sizes, "personal_data": _personal_data(curation)}
    for one in warnings:
        mention(f"profile: {one.text}")
    _write(out, page, _figures(before, after, sizes, needed, warnings))
    out.stats = {
        "train": sizes["train"],
        "tokens_to_train_on": round(
            after.total("conversation") * sizes["train"] / max(1, after.conversations)
        ),
        "warnings": len(warnings),
    }


def _write(out: Output, page: Mapping[str, Any], figures: Mapping[str, Any]) -> None:
    from pipeline_lib.pages.rendering import environment

    for name in ("profile.html", "profile.md"):
        text = environment("pipeline_lib.curation").get_template(f"{name}.j2").render(page)
        (out.path / name).write_text(text, encoding="utf-8", errors="replace")
    (out.path / "profile.json").write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


def _figures(
    before: Measures,
    after: Measures,
    sizes: Mapping[str, int],
    needed: SampleSizes,
    warnings: list[Advice],
) -> dict[str, Any]:
    return {
        "before": before.as_json(),
        "after": after.as_json(),
        "sizes": dict(sizes),
        "needed": asdict(needed),
        "warnings": [asdict(one) for one in warnings],
    }


def _page(
    config: ProfileConfig, before: Measures, after: Measures, stats: Mapping[str, Any]
) -> dict[str, Any]:
    return {
        "config": config,
        "before": before,
        "after": after,
        "changes": list(_changes(before, after)),
        "lengths": _lengths(before, after),
        "sources": _shares(before.sources, after.sources),
        "languages": _shares(before.languages, after.languages),
        "charts": _charts(before, after),
        "duplicates": _duplicates(stats.get("deduplicate", {})),
        "suspect": stats.get("ingest", {}).get("suspect", {}),
        "leaks": stats.get("split", {}).get("leaks"),
    }


def _changes(before: Measures, after: Measures) -> Iterator[Change]:
    both = (before, after)

    def change(title: str, *values: float | None) -> Change:
        return Change(title, *map(figure, values))

    yield change("Conversations", *(one.conversations for one in both))
    yield change("Characters", *(one.characters for one in both))
    yield change("Tokens, estimated", *(one.total("conversation") for one in both))
    yield change("Messages in a conversation", *(_mean(one.turns) for one in both))


def _lengths(before: Measures, after: Measures) -> dict[str, list[Change]]:
    """Return the lengths of prompts, answers and conversations: median, 95th percentile, longest."""
    return {
        name: [
            Change(title, figure(before.quantile(name, share)), figure(after.quantile(name, share)))
            for title, share in LENGTHS.items()
        ]
        for name in ("prompt", "answer", "conversation")
    }


def _mean(turns: Counter[int]) -> float | None:
    return sum(turns * count for turns, count in turns.items()) / turns.total() if turns else None


def _shares(before: Counter[str], after: Counter[str]) -> list[Share]:
    """Return the shares of the most frequent groups and of the rest together, in per cent."""

    def percent(counts: Counter[str], names: Iterable[str]) -> float:
        return 100 * sum(counts[name] for name in names) / max(1, counts.total())

    often = sorted((before + after).items(), key=lambda one: (-one[1], one[0]))
    least = LEAST_SHARE * (before + after).total()
    named = [name for name, count in often if count >= least][:MOST_GROUPS]
    rest = [name for name, _ in often if name not in named]
    groups = {**{name: [name] for name in named}, **({f"{len(rest)} others": rest} if rest else {})}
    return [Share(name, percent(before, names), percent(after, names)) for name, names in groups.items()]


def _charts(before: Measures, after: Measures) -> list[Markup]:
    from pipeline_lib.pages.charts import histogram

    drawn = [
        histogram(
            [("before", before.lengths[name]), ("after", after.lengths[name])],
            "tokens",
            f"{name.capitalize()}s by length (%)",
        )
        for name in ("prompt", "answer", "conversation")
    ]
    turns = [("before", _repeated(before.turns)), ("after", _repeated(after.turns))]
    drawn.append(histogram(turns, "messages", "Conversations by number of messages (%)"))
    return [chart for chart in drawn if chart]


def _repeated(turns: Counter[int]) -> list[int]:
    """Return at most about a thousand values in the proportions of the counts: what a histogram shows."""
    scale = min(1.0, 1_000 / max(1, turns.total()))
    return [size for size, count in sorted(turns.items()) for _ in range(round(count * scale))]


def _duplicates(stats: Mapping[str, Any]) -> list[tuple[str, int]]:
    found = {reason: count for reason, count in stats.get("reasons", {}).items() if "duplicate" in reason}
    return sorted(found.items(), key=lambda one: -one[1])


def _personal_data(curation: tuple[Dataset, ...]) -> list[Found]:
    """Return what `scrub` found in all its uses, the most frequent kind first."""
    counts: Counter[str] = Counter()
    examples: dict[str, list[str]] = {}
    for dataset in curation:
        if dataset.manifest.stage == "scrub":
            counts.update(dataset.manifest.stats["found"])
            shown = json.loads(dataset.file("examples.json").read_text(encoding="utf-8"))
            examples = {**shown, **examples}
    return [Found(kind, count, tuple(examples.get(kind, ()))) for kind, count in counts.most_common()]
