"""Human evaluation: a blind sheet of answers for people to rate, and what their ratings say.

``sheet.html`` works offline in a browser and saves the ratings as CSV; ``sheet.csv`` is the same for a
spreadsheet. Both name answers by letters in an order drawn anew for every question; ``key.json`` says whose
they are. Ratings given back (``human.ratings``) become ``ratings.json``: agreement by Krippendorff's alpha
(Krippendorff 2011, Computing Krippendorff's Alpha-Reliability), mean ratings and win rates with intervals.
"""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import Field

from pipeline_lib.core.config import StageConfig
from pipeline_lib.core.output import Output
from pipeline_lib.core.stage import stage
from pipeline_lib.kinds import Evaluation, Ratings
from pipeline_lib.settings import file_digests


class HumanConfig(StageConfig):
    """Which answers people rate, and the ratings that came back."""

    questions: int = Field(
        default=50, ge=1, le=1000, description="Test conversations on the sheet, spread over the split."
    )
    ratings: tuple[Path, ...] = Field(
        default=(), description="CSV files with ratings that came back, one or more people in each."
    )
    seed: int = Field(default=42, ge=0, description="Seed of the order in which answers are shown.")


def ratings_digest(config: HumanConfig) -> dict[str, str]:
    """Return the digest of every file of ratings; DataError where one cannot be read."""
    digests = file_digests()
    return {f"ratings.{i}": digests.of(path.expanduser()) for i, path in enumerate(config.ratings)}


@stage(produces=Ratings, version=1, outside=ratings_digest)
def human(out: Output, config: HumanConfig, base: Evaluation, tuned: Evaluation) -> None:
    """A blind sheet of both models' answers, and where ratings were given what they come to."""
    from pipeline_lib.evaluation import ratings, sheet

    made = sheet.make({"base": base, "tuned": tuned}, config.questions, config.seed)
    sheet.write(out.path, made)
    out.stats = {"questions": len(made.items), "sheet": made.name, "raters": 0}
    if config.ratings:
        found = ratings.summarize(made, ratings.read([path.expanduser() for path in config.ratings], made))
        text = json.dumps(found, indent=1, ensure_ascii=False, allow_nan=False)
        (out.path / "ratings.json").write_text(text + "\n", encoding="utf-8")
        out.stats |= {"raters": found["raters"], "alpha": found["alpha"]}
