"""Ratings that came back: read with every mistake named, and summed up."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline_lib.core.errors import ConfigError, DataError
from pipeline_lib.evaluation.sheet import COLUMNS, SCALE, Sheet, key_of
from pipeline_lib.evaluation.statistics import Floats, Interval, bootstrap, paired_bootstrap


@dataclass(frozen=True)
class Rating:
    """One person's rating of one answer."""

    rater: str
    item: str
    model: str
    value: int


def read(paths: Sequence[Path], sheet: Sheet) -> list[Rating]:
    """Return the ratings in the files, blanks left out; DataError names file and line of what is wrong."""
    key = key_of(sheet)
    found: dict[tuple[str, str, str], Rating] = {}
    for path in paths:
        for where, row in _rows(path):
            if row["sheet"] != sheet.name:
                raise DataError(
                    f"{where}: a rating of sheet {row['sheet'] or '(none)'}, this one is {sheet.name}; "
                    "the answers have changed since, so have them rated again"
                )
            if (row["item"], row["answer"]) not in key:
                raise DataError(f"{where}: the sheet has no answer {row['answer']!r} to {row['item']!r}")
            if not row["rating"]:
                continue
            rating = Rating(
                row["rater"] or path.stem,
                row["item"],
                key[row["item"], row["answer"]],
                _value(where, row["rating"]),
            )
            place = (rating.rater, rating.item, rating.model)
            if found.setdefault(place, rating) != rating:
                raise DataError(f"{where}: {rating.rater} rates this answer twice, and not alike")
    if not found:
        raise DataError("human: no rating in the files given; fill in the rating column, or save the page")
    return list(found.values())


def _rows(path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        missing = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
        if missing:
            raise DataError(f"{path}: no column {', '.join(missing)}; keep the sheet's first line")
        for row in reader:
            yield f"{path}:{reader.line_num}", {name: (row[name] or "").strip() for name in COLUMNS}


def _value(where: str, text: str) -> int:
    if text not in map(str, SCALE):
        raise DataError(f"{where}: rating {text!r}; ratings are {SCALE[0]} to {SCALE[-1]}, or left open")
    return int(text)


def summarize(sheet: Sheet, ratings: Sequence[Rating]) -> dict[str, Any]:
    """Return raters, agreement, every model's mean rating and every pair's win rate, with intervals.

    An item's rating of a model is the mean over its raters; items are resampled. A win counts 1, a tie 1/2.
    """
    raters = sorted({rating.rater for rating in ratings})
    means = _means(sheet, ratings)
    return {
        "sheet": sheet.name,
        "raters": len(raters),
        "ratings": len(ratings),
        "alpha": alpha(sheet, ratings),
        "models": {
            model: _bounds(bootstrap(_given(means[model]))) for model in sheet.models if _rated(means[model])
        },
        "pairs": [
            pair
            for i, model in enumerate(sheet.models)
            for other in sheet.models[i + 1 :]
            if (pair := _pair(other, model, means))
        ],
    }


def alpha(sheet: Sheet, ratings: Sequence[Rating]) -> float | None:
    """Return Krippendorff's alpha of ordinal ratings: 1 is agreement, 0 chance; None where it is not defined.

    It needs two people who rated the same answers, and ratings that are not all alike.
    """
    try:
        import krippendorff
    except ImportError as error:
        raise ConfigError(
            "human.ratings needs krippendorff, which is not installed; pip install krippendorff"
        ) from error
    raters = sorted({rating.rater for rating in ratings})
    units = {unit: i for i, unit in enumerate(sorted({(rating.item, rating.model) for rating in ratings}))}
    table = np.full((len(raters), len(units)), np.nan)
    for rating in ratings:
        table[raters.index(rating.rater), units[rating.item, rating.model]] = rating.value
    twice = (~np.isnan(table)).sum(axis=0) > 1
    if not twice.any() or len(np.unique(table[:, twice][~np.isnan(table[:, twice])])) < 2:
        return None
    return float(
        krippendorff.alpha(reliability_data=table, level_of_measurement="ordinal", value_domain=list(SCALE))
    )


def _means(sheet: Sheet, ratings: Sequence[Rating]) -> dict[str, Floats]:
    """Return each model's mean rating of every item, NaN where nobody rated it."""
    places = {item.id: i for i, item in enumerate(sheet.items)}
    sums = {model: np.zeros((len(places), 2)) for model in sheet.models}
    for rating in ratings:
        sums[rating.model][places[rating.item]] += (rating.value, 1)
    return {
        model: np.where(both[:, 1] > 0, both[:, 0] / np.maximum(both[:, 1], 1), np.nan)
        for model, both in sums.items()
    }


def _given(values: Floats) -> Floats:
    return values[~np.isnan(values)]


def _rated(values: Floats) -> bool:
    return bool((~np.isnan(values)).any())


def _pair(one: str, other: str, means: dict[str, Floats]) -> dict[str, Any] | None:
    both = ~np.isnan(means[one]) & ~np.isnan(means[other])
    if not both.any():
        return None
    first, second = means[one][both], means[other][both]
    wins = (first > second) + (first == second) / 2
    difference = paired_bootstrap(first, second)
    return {
        "model": one,
        "against": other,
        "items": int(both.sum()),
        "ties": int((first == second).sum()),
        "win_rate": _bounds(bootstrap(wins)),
        "difference": {key: asdict(difference)[key] for key in ("value", "low", "high", "p_value")},
    }


def _bounds(interval: Interval) -> dict[str, float]:
    return {"value": interval.value, "low": interval.low, "high": interval.high}
