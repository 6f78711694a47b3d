"""Talk: one model in this process, answering message by message as it was trained to.

Prompts come from `pipeline_lib.chat`, so the model is asked exactly as in training and scoring.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any

from pipeline_lib.core.errors import DataError, StageError, first_line
from pipeline_lib.evaluation.loading import positions_of
from pipeline_lib.kinds import brings_code
from pipeline_lib.launch import device

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

WAIT_SECONDS = 600.0
BASE = "base"
"""The name under which the model answers without any adapter."""
UNFINISHED = "\ufffd"
"""What a decoder writes for a character whose last bytes have not come yet."""


@dataclass(frozen=True)
class Talker:
    """A loaded model with its tokenizer."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    adapter: str | None = None
    """Which of the adapters on a model that talkers share answers, or `BASE`; None where there are none."""

    @property
    def positions(self) -> int:
        """Tokens that prompt and answer may have together."""
        return positions_of(self.model)

    def answer(
        self, messages: Sequence[Mapping[str, Any]], *, max_new_tokens: int, temperature: float
    ) -> Iterator[str]:
        """Yield the answer piece by piece; ``temperature`` 0 takes the likeliest token each time."""
        from pipeline_lib.chat import prompt_ids

        self._choose()
        ids = prompt_ids(self.tokenizer, [messages])[0]
        room = min(max_new_tokens, self.positions - len(ids))
        if room < 1:
            raise DataError(
                f"{len(ids)} tokens so far, and the model takes {self.positions}; /reset begins anew"
            )
        yield from whole_characters(self.tokenizer, self._generate(ids, room, temperature))

    def _choose(self) -> None:
        shared: Any = self.model
        if self.adapter == BASE:
            shared.base_model.disable_adapter_layers()
        elif self.adapter:
            shared.base_model.enable_adapter_layers()
            shared.set_adapter(self.adapter)

    def _generate(self, ids: list[int], room: int, temperature: float) -> Iterator[int]:
        """Yield the generated ids up to the stop token, while a thread goes on generating."""
        import torch
        from transformers import GenerationConfig

        from pipeline_lib.chat import stop_ids

        stops = stop_ids(self.tokenizer)
        pad = self.tokenizer.pad_token_id if self.tokenizer.pad_token_id is not None else (stops or [0])[0]
        sampling = (
            {"do_sample": True, "temperature": temperature} if temperature > 0 else {"do_sample": False}
        )
        how = GenerationConfig(  # type: ignore[no-untyped-call]
            max_new_tokens=room, eos_token_id=stops or None, pad_token_id=pad, **sampling
        )
        prompt = torch.tensor([ids], device=self.model.device)
        stream = _Stream(len(ids))
        thread = Thread(target=stream.fill, args=(self.model, prompt, how), daemon=True)
        thread.start()
        yield from (token for token in stream if token not in stops)
        thread.join()


class _Stream:
    """Takes ids from ``generate`` in one thread and hands them out in another."""

    def __init__(self, prompt: int) -> None:
        from queue import Queue

        self._queue: Queue[int | BaseException | None] = Queue()
        self._skip = prompt
        self._stopped = False

    def fill(self, model: PreTrainedModel, prompt: Any, how: Any) -> None:
        """Generate; what goes wrong is raised where the ids are read."""
        import torch

        try:
            with torch.inference_mode():
                model.generate(  # type: ignore[operator]
                    prompt, attention_mask=torch.ones_like(prompt), generation_config=how, streamer=self
                )
        except BaseException as error:
            self._queue.put(error)
        self._queue.put(None)

    def put(self, value: Any) -> None:
        """Take the ids that ``generate`` has ready: first the prompt's, then one at a time."""
        if self._stopped:
            raise _NotWantedError
        ids = value.flatten().tolist()
        for token in ids[self._skip :]:
            self._queue.put(token)
        self._skip = max(0, self._skip - len(ids))

    def end(self) -> None:
        """Everything is generated; `fill` says so."""

    def __iter__(self) -> Iterator[int]:
        try:
            while (item := self._queue.get(timeout=WAIT_SECONDS)) is not None:
                if isinstance(item, BaseException):
                    raise StageError(f"the model failed: {type(item).__name__}: {item}") from item
                yield item
        finally:
            self._stopped = True


class _NotWantedError(Exception):
    """Nobody reads the answer any more."""


def whole_characters(tokenizer: PreTrainedTokenizerBase, ids: Iterator[int]) -> Iterator[str]:
    """Yield the text of ids as they come, never a part of a character."""
    held: list[int] = []
    shown = ""
    for token in ids:
        held.append(token)
        text = str(tokenizer.decode(held, skip_special_tokens=True))
        if not text.endswith(UNFINISHED) and len(text) > len(shown):
            yield text[len(shown) :]
            shown = text
    rest = str(tokenizer.decode(held, skip_special_tokens=True))[len(shown) :] if held else ""
    if rest:
        yield rest


def load(path: Path) -> Talker:
    """Return the model and tokenizer in a Model artifact's directory; DataError where they do not load."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    where = torch.device(device())
    dtype = torch.bfloat16 if where.type == "cuda" else torch.float32
    try:
        trusted = brings_code(path)
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=trusted)
        model = AutoModelForCausalLM.from_pretrained(
            path, dtype=dtype, trust_remote_code=trusted, use_safetensors=True
        )
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path}: holds no model that loads ({first_line(error)}); name a Model artifact, such as merge's"
        ) from error
    return Talker(model.to(where).eval(), tokenizer)  # type: ignore[arg-type]


def load_adapters(base: Path, adapters: Mapping[str, Path]) -> dict[str, Talker]:
    """Return a talker for each adapter (a PEFT directory) and one for the base, on one model in memory.

    Each adapter answers with its own tokenizer and chat template, the base with those of the first.
    """
    from peft import PeftModel
    from transformers import AutoTokenizer

    shared: Any = None
    tokenizers = {}
    alone = load(base)
    for name, path in adapters.items():
        if not (path / "adapter_model.safetensors").exists():
            raise DataError(f"{path}: holds no adapter as safetensors, and nothing else is loaded")
        try:
            tokenizers[name] = AutoTokenizer.from_pretrained(path)
            with warnings.catch_warnings():
                # PEFT reads an attribute that Transformers renames.
                warnings.simplefilter("ignore", FutureWarning)
                if shared is None:
                    shared = PeftModel.from_pretrained(alone.model, path, adapter_name=name)
                else:
                    shared.load_adapter(path, adapter_name=name)
        except (OSError, ValueError, RuntimeError, KeyError) as error:
            raise DataError(f"{path}: is no adapter for {base} ({first_line(error)})") from error
    talkers = {name: Talker(shared.eval(), tokenizer, name) for name, tokenizer in tokenizers.items()}
    return {**talkers, BASE: Talker(shared, next(iter(tokenizers.values())), BASE)}
