"""Personal data in text: find it (`find`, `suspicious`), replace it (`Replacer`), show it masked (`mask`).

Pure functions over text, no stage. Words: `kinds`; detectors: `network`, `numeric`, `identity`, `addresses`,
`credentials`; speed: `gates`; names by a model: `recognise`.
"""

from pipeline_lib.personal_data.detect import find, suspicious
from pipeline_lib.personal_data.kinds import ALL, OPTIONAL, REGIONS, Span
from pipeline_lib.personal_data.masking import mask
from pipeline_lib.personal_data.recognise import Recogniser, presidio_recogniser, recogniser_from
from pipeline_lib.personal_data.replace import Replacer

__all__ = [
    "ALL",
    "OPTIONAL",
    "REGIONS",
    "Recogniser",
    "Replacer",
    "Span",
    "find",
    "mask",
    "presidio_recogniser",
    "recogniser_from",
    "suspicious",
]
