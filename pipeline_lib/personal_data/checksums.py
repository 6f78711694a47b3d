"""The check digits that python-stdnum does not know.

Neighbours: `registers`, `identity` and `numeric` use these beside `stdnum`.
"""

import re

_VIN_VALUES = dict(
    zip(
        "ABCDEFGHJKLMNPRSTUVWXYZ",
        (1, 2, 3, 4, 5, 6, 7, 8, 1, 2, 3, 4, 5, 7, 9, 2, 3, 4, 5, 6, 7, 8, 9),
        strict=True,
    )
)
_VIN_WEIGHTS = (8, 7, 6, 5, 4, 3, 2, 10, 0, 9, 8, 7, 6, 5, 4, 3, 2)
_NRIC_LETTERS = {"S": "JZIHGFEDCBA", "T": "GFEDCBAJZIH", "F": "XWUTRQPNMLK", "G": "RQPNMLKXWUT"}
_NINO = re.compile(r"(?!BG|GB|KN|NK|NT|TN|ZZ)[A-CEGHJ-PR-TW-Z][A-CEGHJ-NPR-TW-Z][0-9]{6}[A-D]")
_CARD_LENGTHS = (
    (re.compile(r"4"), (16, 19)),
    (re.compile(r"5[1-5]|222[1-9]|22[3-9]|2[3-6]|27[01]|2720"), (16,)),
    (re.compile(r"3[47]"), (15,)),
    (re.compile(r"6011|64[4-9]|65"), (16, 19)),
    (re.compile(r"30[0-5]|3095|36|38|39"), (14, 16, 19)),
    (re.compile(r"35"), (15, 16, 19)),
    (re.compile(r"2131|1800"), (15, 16)),
    (re.compile(r"50[0-9]{2}|5[6-8]|6[0-9]"), (16, 19)),
    (re.compile(r"5018|5020|5038|5893|6304|6759|676[1-3]|0604"), (16, 17, 18, 19)),
    (re.compile(r"220[0-4]|9792|62|8[12]"), (16, 17, 18, 19)),
)


def is_vin(number: str) -> bool:
    """Return whether position 9 of a 17-character vehicle number is its check digit (49 CFR 565.15)."""
    total = sum(
        weight * (int(character) if character.isdigit() else _VIN_VALUES[character])
        for character, weight in zip(number, _VIN_WEIGHTS, strict=True)
    )
    return "0123456789X"[total % 11] == number[8]


def is_nric(number: str) -> bool:
    """Return whether a Singapore identity number of seven digits ends in its check letter."""
    weighted = sum(
        int(digit) * weight for digit, weight in zip(number[1:8], (2, 7, 6, 5, 4, 3, 2), strict=True)
    )
    return _NRIC_LETTERS[number[0]][weighted % 11] == number[8]


def is_nino(number: str) -> bool:
    """Return whether a compact British National Insurance number has an allotted form (HMRC NIM39110)."""
    return _NINO.fullmatch(number) is not None


def is_card_prefix(digits: str) -> bool:
    """Return whether a payment network issues cards of this prefix and length (ISO/IEC 7812 ranges)."""
    return any(pattern.match(digits) and len(digits) in lengths for pattern, lengths in _CARD_LENGTHS)


def is_rare_card_prefix(digits: str) -> bool:
    """Return whether a card may have this prefix and length that a word should name: too many numbers have.

    Maestro issues 12 to 19 digits; Visa of 13 digits are of the last century, and so many are bar codes.
    """
    return re.match(r"50|5[6-9]|6", digits) is not None or (digits[0] == "4" and len(digits) == 13)
