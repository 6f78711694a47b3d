"""The base of every stage's config: frozen, and an unknown key is an error."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class StageConfig(BaseModel):
    """What one stage's result depends on; where and how fast belongs to the settings."""

    model_config = ConfigDict(extra="forbid", frozen=True)
