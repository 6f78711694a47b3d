"""Augment: paraphrases of conversations and new ones after their example, written by a model.

A *seed* is a conversation that a request shows to the model; which ones are, the hash of their ids decides.
A synthetic conversation says in its ``metadata`` that it is one, of what sort, by which model and from which
seeds, and its source is ``synthetic``. It shares a *family* with its seeds, which `split` puts into train as
a whole: nobody is measured on what a model made up, or on the pattern of what was learnt. All stages after
this one treat it like any other. Neighbours: ``synthesis`` (prompts and what replies mean), ``completions``.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from pipeline_lib.core.config import StageConfig
from pipeline_lib.core.output import Output
from pipeline_lib.core.stage import stage
from pipeline_lib.kinds import Dataset
from pipeline_lib.settings import home

Sort = Literal["paraphrase", "conversation"]
SHOWN = "{conversations}"
FORM = (
    'Answer with one JSON object and nothing else: {"messages": [{"role": "user", "content": "…"}, '
    '{"role": "assistant", "content": "…"}]}, user and assistant in turn.'
)
PARAPHRASE = (
    "Rewrite this conversation: say every message in other words and with other sentences. Keep its meaning, "
    f"its facts, its language, its roles and their order.\n\n{SHOWN}\n\n{FORM}"
)
CONVERSATION = (
    "These conversations are examples of one task. Write a new one of the same task, language, style and "
    f"difficulty about something that none of them is about.\n\n{SHOWN}\n\n{FORM}"
)


class AugmentConfig(StageConfig):
    """Which model writes how many conversations, and what it is told."""

    model: str = Field(min_length=1, description="Name of the model, as the endpoint knows it.")
    seeds: int = Field(default=1_000, ge=1, description="Conversations that the model is shown, at most.")
    paraphrases: int = Field(default=1, ge=0, le=20, description="Paraphrases of each seed.")
    conversations: int = Field(
        default=0, ge=0, le=100, description="New conversations for each group of `examples` seeds."
    )
    examples: int = Field(
        default=3, ge=1, le=20, description="Seeds that a new conversation is written after."
    )
    paraphrase_prompt: str = Field(
        default=PARAPHRASE, description=f"What is asked for a paraphrase; {SHOWN} is where the seed stands."
    )
    conversation_prompt: str = Field(
        default=CONVERSATION,
        description=f"What is asked for a new conversation; {SHOWN} is where the seeds stand.",
    )
    system: str | None = Field(default=None, description="System message of every request.")
    temperature: float = Field(default=0.8, ge=0, le=2, description="Sampling temperature.")
    max_tokens: int = Field(default=1_024, ge=1, description="Tokens of a reply at most.")
    seed: int = Field(
        default=42, ge=0, description="Seed of the choice of seeds, and of the model where it takes one."
    )

    @field_validator("paraphrase_prompt", "conversation_prompt")
    @classmethod
    def _shows_the_seeds(cls, prompt: str) -> str:
        if SHOWN not in prompt:
            raise ValueError(f"a prompt says with {SHOWN} where the seeds stand")
        return prompt

    @model_validator(mode="after")
    def _asks_for_something(self) -> AugmentConfig:
        if not self.paraphrases and not self.conversations:
            raise ValueError("neither paraphrases nor conversations are asked for; leave augment out instead")
        return self

    def prompt(self, sort: Sort, shown: str) -> str:
        """Return what is asked for a conversation of this sort, with the seeds that are shown."""
        asked = {"paraphrase": self.paraphrase_prompt, "conversation": self.conversation_prompt}[sort]
        return asked.replace(SHOWN, shown)


@stage(produces=Dataset, version=1)
def augment(out: Output, config: AugmentConfig, conversations: Dataset) -> None:
    """Keep every conversation, and after them what a model wrote; a reply that is none is dropped."""
    from pipeline_lib import records
    from pipeline_lib.completions import Endpoint, for_augment
    from pipeline_lib.curation.synthesis import families, orders, request, seeds_of, synthetic

    endpoint = Endpoint(for_augment(), home() / "replies")
    seeds = seeds_of(out, config, conversations)
    wanted = orders(config, seeds)
    with records.DatasetWriter(out.path) as writer:
        for batch in records.tracked(out, conversations, "conversations"):
            writer.keep(families(batch, config, seeds))
        replies = endpoint.replies(request(config, order) for order in wanted)
        for order, reply in zip(wanted, out.track(replies, "replies", len(wanted)), strict=True):
            row, verdict = synthetic(config, order, reply)
            writer.sift(records.from_rows([row]), [verdict])
    out.stats.update(writer.stats(conversations.count() + len(wanted)))
    out.stats |= {
        "seeds": len(seeds),
        "asked": len(wanted),
        "made": len(wanted) - sum(writer.reasons.values()),
    }
