"""Classes of characters as one table of bits, so that compiled code can ask what a code point is.

Code points from ``LIMIT`` on (tags and private use) share the last entry, which has no bit set.
Neighbours: ``tokens``, ``ngrams`` and ``lines`` read the table.
"""

from __future__ import annotations

import unicodedata
from functools import lru_cache

import numpy as np
import numpy.typing as npt

LIMIT = 0x32000
SPACE, ALPHA, DIGIT, UPPER, SYMBOL, TERMINAL, AFFIX, ICON, PUNCTUATION, CJK = (1 << bit for bit in range(10))

# Unicode's Sentence_Terminal characters, as ranges of code points; FineWeb's line rule asks for one.
_TERMINAL_RANGES = (
    "21 2e 3f 589 61d-61f 6d4 700-702 7f9 837 839 83d-83e 964-965 104a-104b 1362 1367-1368 166e 1735-1736 "
    "17d4-17d6 17d9-17da 1803 1809 1944-1945 1aa8-1aab 1b5a-1b5b 1b5e-1b5f 1b7d-1b7e 1c3b-1c3c 1c7e-1c7f "
    "203c-203d 2047-2049 2e2e 2e3c 2e53-2e54 3002 a4ff a60e-a60f a6f3 a6f7 a876-a877 a8ce-a8cf a92f "
    "a9c8-a9c9 aa5d-aa5f aaf0-aaf1 abeb fe52 fe56-fe57 ff01 ff0e ff1f ff61 10a56-10a57 10f55-10f59 "
    "10f86-10f89 11047-11048 110be-110c1 11141-11143 111c5-111c6 111cd 111de-111df 11238-11239 "
    "1123b-1123c 112a9 1144b-1144c 115c2-115c3 115c9-115d7 11641-11642 1173c-1173e 11944 11946 "
    "11a42-11a43 11a9b-11a9c 11c41-11c42 11ef7-11ef8 11f43-11f44 16a6e-16a6f 16af5 16b37-16b38 16b44 "
    "16e98 1bc9f 1da88"
)
_CJK_RANGES = (
    "2e80-2fdf 3005-3007 3040-30ff 31f0-31ff 3400-4dbf 4e00-9fff f900-faff ff66-ff9f 1b000-1b16f 20000-31fff"
)
_ASCII_SYMBOLS = "".join(chr(code) for code in range(33, 127) if not chr(code).isalnum())
_CONTROLS = "".join(chr(code) for code in (*range(9), *range(11, 32), *range(127, 160)))
# A full-width 1 stands in the list that datatrove took from RedPajama; its verdicts are ours.
_WIDE_SYMBOLS = "«´»–—’“”„…∶━►、〈〉《》「」【】％（），１：；～"
# Characters that a word never keeps at its ends; what is missing (``-``, ``/``, ``@``, ``~``) binds.
_AFFIXES = ",:;!?()[]{}<>_#*&'\"`“”‘’´‚„«»…¿¡§%=—–+$£€¥。？！，、；：～·「」『』（）〔〕【】《》〈〉।؟،۔؛٪"


def _codes(ranges: str) -> list[int]:
    pairs = [part.split("-") for part in ranges.split()]
    return [code for pair in pairs for code in range(int(pair[0], 16), int(pair[-1], 16) + 1)]


def _bits(character: str) -> int:
    category = unicodedata.category(character)
    return (
        SPACE * character.isspace()
        | ALPHA * character.isalpha()
        | DIGIT * character.isdigit()
        | UPPER * character.isupper()
        | (AFFIX | ICON) * (category == "So")
        | PUNCTUATION * (category[0] == "P")
    )


@lru_cache(maxsize=1)
def classes() -> npt.NDArray[np.uint16]:
    """Return the class bits of every code point under ``LIMIT`` (uint16, shape ``(LIMIT,)``)."""
    table = np.fromiter(map(_bits, map(chr, range(LIMIT))), np.uint16, LIMIT)
    table[_codes(_TERMINAL_RANGES)] |= TERMINAL | SYMBOL
    table[_codes(_CJK_RANGES)] |= CJK
    table[[ord(character) for character in _ASCII_SYMBOLS + _CONTROLS + _WIDE_SYMBOLS]] |= SYMBOL
    table[[ord(character) for character in _AFFIXES]] |= AFFIX
    return table


@lru_cache(maxsize=1)
def lowered() -> npt.NDArray[np.uint32]:
    """Return the lower case of every code point under ``LIMIT``; itself where that is not one character."""
    lower = [chr(code).lower() for code in range(LIMIT)]
    return np.array([ord(low) if len(low) == 1 else code for code, low in enumerate(lower)], np.uint32)
