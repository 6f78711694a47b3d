"""Names of persons, places and organisations: through a model that the user installs.

A *recogniser* is any function from a text to spans; `find` and `Replacer` accept several beside the patterns.
"""

import sys
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Protocol

from pipeline_lib.core.errors import ConfigError, first_line
from pipeline_lib.personal_data.kinds import Span

PACKAGES = {"presidio": "presidio_analyzer", "gliner": "gliner"}
"""The package behind each choice of scrub.names."""
PRESIDIO_MODEL = "en_core_web_lg"
"""The spaCy model that Presidio takes by itself."""
WINDOW, OVERLAP = 1_200, 120
"""Characters that GLiNER is given at a time, and how many of them the next part has again."""

_GLINER_KINDS = {"person": "person", "location": "location", "organization": "organisation"}
_PRESIDIO_KINDS = {"PERSON": "person", "LOCATION": "location", "ORGANIZATION": "organisation", "NRP": "group"}


class Recogniser(Protocol):
    """Finds values that no pattern can, such as names; kinds are lower-case words."""

    def __call__(self, text: str) -> list[Span]:
        """Return the spans found in the text."""
        ...


def require_recogniser(names: str) -> None:
    """Raise ConfigError, with the command that installs it, where the package of a recogniser is missing."""
    package = PACKAGES.get(names)
    if package and sys.modules.get(package) is None and find_spec(package) is None:
        raise ConfigError(
            f"scrub.names needs {package}: pip install 'finetune-flows[names-{names}]', or "
            f"{package.replace('_', '-')} alone"
        )


def presidio_recogniser(language: str = "en", threshold: float = 0.5, model: str | None = None) -> Recogniser:
    """Return a recogniser of person, location, organisation and group by Presidio with a spaCy model.

    `threshold` is the least score that counts (0 to 1); `model` an installed spaCy package or a directory,
    None Presidio's own for English. Raises ConfigError where presidio-analyzer or the model is missing.
    """
    require_recogniser("presidio")
    from presidio_analyzer import AnalyzerEngine
    from presidio_analyzer.nlp_engine import NlpEngineProvider

    models = [{"lang_code": language, "model_name": model or PRESIDIO_MODEL}]
    provider = NlpEngineProvider(nlp_configuration={"nlp_engine_name": "spacy", "models": models})
    try:
        engine = AnalyzerEngine(nlp_engine=provider.create_engine(), supported_languages=[language])
    # spaCy's download, which Presidio tries for a missing model, ends the interpreter where it fails.
    except (OSError, ValueError, SystemExit) as error:
        raise ConfigError(
            f"scrub.names_model: spaCy has no model {model or PRESIDIO_MODEL}; "
            f"python -m spacy download {model or PRESIDIO_MODEL}"
        ) from error

    def recognise(text: str) -> list[Span]:
        results = engine.analyze(
            text, language=language, entities=list(_PRESIDIO_KINDS), score_threshold=threshold
        )
        return [Span(_PRESIDIO_KINDS[result.entity_type], result.start, result.end) for result in results]

    return recognise


def gliner_recogniser(
    model: str, revision: str | None = None, threshold: float = 0.5, device: str = "cpu"
) -> Recogniser:
    """Return a recogniser of person, location and organisation by a GLiNER model.

    `model` is a directory or a hub id at the commit `revision`. Raises ConfigError where gliner is not
    installed or has no such model.
    """
    require_recogniser("gliner")
    from gliner import GLiNER

    try:
        loaded = GLiNER.from_pretrained(model, revision=revision, map_location=device).eval()
    except (OSError, ValueError) as error:
        raise ConfigError(f"scrub.names_model: GLiNER has no model {model} ({first_line(error)})") from error

    def recognise(text: str) -> list[Span]:
        found = {
            Span(_GLINER_KINDS[one["label"]], begin + one["start"], begin + one["end"])
            for begin, window in windows(text)
            for one in loaded.predict_entities(window, list(_GLINER_KINDS), threshold=threshold)
        }
        return sorted(found, key=lambda span: (span.start, span.end, span.kind))

    return recognise


def windows(text: str) -> Iterator[tuple[int, str]]:
    """Yield parts of a text with where they begin, cut between words, each with the end of the one before.

    GLiNER reads a few hundred words and leaves out the rest.
    """
    begin = 0
    while len(text) - begin > WINDOW:
        end = _after_a_space(text, begin + WINDOW - OVERLAP, begin + WINDOW)
        yield begin, text[begin:end]
        begin = _after_a_space(text, end - 2 * OVERLAP, end - OVERLAP)
    yield begin, text[begin:]


def _after_a_space(text: str, least: int, most: int) -> int:
    """Return the last place up to ``most`` that follows white space, or ``most`` where there is none."""
    place = max(text.rfind(space, least, most) for space in (" ", "\n"))
    return place + 1 if place >= 0 else most
