"""Data order: which sequences are seen when, drawn from the seed and the epoch alone.

Transformers draws batches of like length from PyTorch's common random state. Dropout and every look at the
validation split would change the order of later epochs, and a training that is resumed in its second epoch
would go on in the order of the first, with sequences seen twice and others not at all. The classes here stand
before a trainer of Transformers or TRL.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import TrainerState, TrainingArguments


@contextmanager
def random_states_kept() -> Iterator[None]:
    """Put the random states of Python, NumPy and PyTorch back as they were before the block."""
    import numpy as np
    import torch

    drawn, drawn_by_numpy = random.getstate(), np.random.get_state()
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices):
        yield
    random.setstate(drawn)
    np.random.set_state(drawn_by_numpy)


class LooksAside:
    """A trainer that goes on from a look at the validation split as if it had not looked."""

    def evaluate(self, *given: Any, **named: Any) -> dict[str, float]:
        """Return the figures of the split."""
        with random_states_kept():
            figures: dict[str, float] = super().evaluate(*given, **named)  # type: ignore[misc]
        return figures


class KnowsLengths:
    """A trainer that keeps the length of each row, by which rows are put together."""

    _signature_columns: list[str] | None

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()  # type: ignore[misc]
        if "length" not in (self._signature_columns or ()):
            self._signature_columns = [*(self._signature_columns or ()), "length"]


class InOrder(LooksAside):
    """A trainer whose every epoch has its own order, whatever was drawn before it and wherever it began."""

    args: TrainingArguments
    state: TrainerState
    train_dataset: Any

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        if self.args.train_sampling_strategy == "sequential":
            return super()._get_train_sampler(train_dataset)  # type: ignore[misc]
        return _Order(self)


class PromptsInOrder(LooksAside):
    """The same for TRL's GRPO and RLOO, whose own sampler says how often and where a prompt is repeated."""

    args: TrainingArguments
    state: TrainerState

    def _get_train_sampler(self, dataset: Any = None) -> Any:
        return _Redrawn(self, super()._get_train_sampler(dataset))  # type: ignore[misc]


class _Redrawn:
    """TRL's sampler, which draws on from where the former epoch ended, or from the start where it resumes."""

    def __init__(self, trainer: PromptsInOrder, sampler: Any) -> None:
        self._trainer, self._sampler = trainer, sampler

    def __len__(self) -> int:
        return len(self._sampler)

    def __iter__(self) -> Iterator[int]:
        self._sampler.generator.manual_seed(_seed(self._trainer))
        return iter(self._sampler)


def _seed(trainer: InOrder | PromptsInOrder) -> int:
    return int(trainer.args.seed + int(trainer.state.epoch or 0))


class _Order:
    """The places of the train split, at random or with those of like length together."""

    def __init__(self, trainer: InOrder) -> None:
        self._trainer = trainer
        self._lengths = list(trainer.train_dataset["length"])

    def __len__(self) -> int:
        return len(self._lengths)

    def __iter__(self) -> Iterator[int]:
        import torch
        from transformers.trainer_pt_utils import get_length_grouped_indices

        args = self._trainer.args
        draw = torch.Generator().manual_seed(_seed(self._trainer))
        if args.train_sampling_strategy == "random":
            yield from torch.randperm(len(self), generator=draw).tolist()
        else:
            together = args.train_batch_size * args.gradient_accumulation_steps
            yield from get_length_grouped_indices(  # type: ignore[no-untyped-call]
                self._lengths, together, generator=draw
            )
