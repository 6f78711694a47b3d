"""Names of persons, places and organisations: through a model that the user installs.

A *recogniser* is any function from a text to spans; `find` and `Replacer` accept several beside the patterns.
"""

from collections.abc import Callable
from typing import Protocol

from pipeline_lib.core.errors import ConfigError
from pipeline_lib.personal_data.kinds import Span

_PRESIDIO_KINDS = {"PERSON": "person", "LOCATION": "location", "ORGANIZATION": "organisation", "NRP": "group"}


class Recogniser(Protocol):
    """Finds values that no pattern can, such as names; kinds are lower-case words."""

    def __call__(self, text: str) -> list[Span]:
        """Return the spans found in the text."""
        ...


def presidio_recogniser(language: str = "en", threshold: float = 0.5) -> Recogniser:
    """Return a recogniser of person, location, organisation and group by Presidio's default model.

    `threshold` is the least score that counts (0 to 1). Raises ConfigError where presidio-analyzer is not
    installed.
    """
    try:
        from presidio_analyzer import AnalyzerEngine
    except ImportError as error:
        raise ConfigError(
            "names need presidio-analyzer, which is not installed; pip install presidio-analyzer."
        ) from error
    engine = AnalyzerEngine()

    def recognise(text: str) -> list[Span]:
        results = engine.analyze(
            text, language=language, entities=list(_PRESIDIO_KINDS), score_threshold=threshold
        )
        return [Span(_PRESIDIO_KINDS[result.entity_type], result.start, result.end) for result in results]

    return recognise


def recogniser_from(find_entities: Callable[[str], list[dict[str, object]]]) -> Recogniser:
    """Return a recogniser over a function that yields `label`, `start`, `end`, as GLiNER's does."""

    def recognise(text: str) -> list[Span]:
        return [
            Span(
                str(entity["label"]).lower().replace(" ", "_"),
                int(str(entity["start"])),
                int(str(entity["end"])),
            )
            for entity in find_entities(text)
        ]

    return recognise
