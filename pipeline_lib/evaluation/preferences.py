"""Preferences: what the likelihoods of answers, and a reward model, say of two models.

``table`` and ``other`` are the answers of two models to the same conversations, in one order.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline_lib.evaluation.statistics import Floats


def preferences(table: pa.Table, other: pa.Table | None) -> dict[str, Floats]:
    """Return the statistics of every preference, by metric, shape (rows that have it, columns).

    How often the chosen answer of a pair is likelier than the rejected one, and what a reward model gave the
    answers; beside an ``other`` model also what was gained on it, and how often the answers win.
    """
    leads = table["rejected_nll"].to_numpy() - table["nll"].to_numpy()
    rows = {"prefers_chosen": _wins(leads[np.isfinite(leads)]), **_rewards(table, other)}
    return rows if other is None else {**rows, **_implicit_rewards(table, other)}


def _implicit_rewards(table: pa.Table, other: pa.Table) -> dict[str, Floats]:
    """By how many nats chosen and rejected answers are likelier than under the other model.

    Over their beta these are the implicit rewards of DPO (Rafailov et al. 2023, section 4) and of KTO
    (Ethayarajh et al. 2024, section 4.1); an answer labelled true counts as chosen, one labelled false as
    rejected. A preference is learnt where the chosen answer of a pair gained more than the rejected one, or a
    single answer gained or lost as its label says.
    """
    gained, rejected = (
        np.asarray(other[name].to_numpy() - table[name].to_numpy(), np.float64)
        for name in ("nll", "rejected_nll")
    )
    label = np.array(table["label"].to_pylist(), dtype=object)
    pairs = np.isfinite(rejected)
    chosen = np.where(pairs | (label == True), gained, np.nan)  # noqa: E712
    rejected = np.where(label == False, gained, rejected)  # noqa: E712
    leads = np.where(pairs, chosen - rejected, np.where(np.isfinite(chosen), chosen, -rejected))
    rows = {
        "reward_chosen": with_ones(chosen[np.isfinite(chosen)]),
        "reward_rejected": with_ones(rejected[np.isfinite(rejected)]),
        "reward_accuracy": _wins(leads[np.isfinite(leads)]),
        "raises_chosen": _wins(chosen[np.isfinite(chosen)]),
        "lowers_rejected": _wins(-rejected[np.isfinite(rejected)]),
    }
    if len(rows["reward_chosen"]) and len(rows["reward_rejected"]):
        judged = np.isfinite(leads)
        rows["reward_margin"] = np.column_stack(
            [
                column[judged]
                for side in (chosen, rejected)
                for column in (np.nan_to_num(side), np.isfinite(side).astype(np.float64))
            ]
        )
    return rows


def _rewards(table: pa.Table, other: pa.Table | None) -> dict[str, Floats]:
    judged = pc.is_valid(table["reward"])
    own = table.filter(judged)["reward"].to_numpy()
    rows = {"reward": with_ones(own)}
    return (
        rows if other is None else rows | {"win_rate": _wins(own - other.filter(judged)["reward"].to_numpy())}
    )


def _wins(leads: Floats) -> Floats:
    """1 for a lead, 1/2 for none, 0 for a lag, with a column of ones."""
    return with_ones((np.sign(leads) + 1) / 2)


def with_ones(values: npt.ArrayLike) -> Floats:
    """Return values as statistics of their mean."""
    column = np.asarray(values, np.float64)
    return np.column_stack([column, np.ones(len(column))])
