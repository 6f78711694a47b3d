"""Export of data: which dataset a person names, and where its conversations go."""

from __future__ import annotations

from pathlib import Path

from flows.call import open_store
from flows.show import find
from pipeline_lib.core.errors import ConfigError
from pipeline_lib.kinds import Dataset
from tasks.export_data import FORMS, Written, export_data


def export(
    what: str, config: Path | None, overrides: list[str], form: str, out: Path, part: str | None
) -> list[Written]:
    """Write the dataset of a stage, or at a path, in the format named; return what was written."""
    chosen = next((known for known in FORMS if known == form), None)
    if chosen is None:
        raise ConfigError(f"--format {form}: no such format; known are {', '.join(FORMS)}")
    artifact = find(what, config, overrides)
    if not isinstance(artifact, Dataset):
        raise ConfigError(
            f"{what} holds no dataset ({type(artifact).__name__}); name a stage of curation, such as split"
        )
    return export_data(open_store().fetch(artifact), chosen, out, part)
