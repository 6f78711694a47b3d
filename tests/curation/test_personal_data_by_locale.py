"""Forms of many countries, issuers and chains, glued to what stands around them: written by hand."""

import pytest

from pipeline_lib.personal_data.detect import find, find_without_gates
from pipeline_lib.personal_data.replace import Replacer

VALUES = (
    ("vehicle", "Our {} drove off", "Kennzeichen: HH-AB 1234"),
    ("vehicle", "{}.", "number plate: LK19 ZXC"),
    ("vehicle", "{}; ok", "matrícula: 4471-KLM"),
    ("vehicle", "({})", "kenteken: 12-GB-KX"),
    ("vehicle", "{}!", "targa: FP 482 ZR"),
    ("vehicle", "{} parked", "plaque: DK-492-TR"),
    ("vehicle", "{}, blå", "regnummer: KLM 48H"),
    ("vehicle", "{}, red", "placa: QRT4E29"),
    ("vehicle", "{}", "车牌号：京A12345"),
    ("passport", "{}, tack", "passnummer: 48213977"),
    ("passport", "{}。", "护照号码：E48213977"),
    ("passport", "{}", "旅券番号: TK4821397"),
    ("passport", "{} wydany", "numer paszportu: EK4821397"),
    ("date_of_birth", "{}", "data urodzenia: 3 lutego 1987"),
    ("date_of_birth", "{}生", "生年月日:1987年2月3日"),
    ("date_of_birth", "{}", "생년월일: 1987년 2월 3일"),
    ("date_of_birth", "{}.", "född: 3 februari 1987"),
    ("date_of_birth", "{}", "geboortedatum: 3 maart 1987"),
    ("crypto_wallet", "{}", "pay: LVg2kJoFNg45Nbpy53h7Fe1wKyeXVRhMH9"),
    ("crypto_wallet", "{}", "pay: rHb9CJAWyB4rj91VRWn96DkukG4bwdtyTh"),
    ("crypto_wallet", "{}", "pay: DH5yaieqoZN36fDVciNyRueRGvGLR3mr7L"),
    ("crypto_wallet", "{}", "pay: cosmos1fl48vsnmsdzcv85q5d2q4z5ajdha8yu34mf0eh"),
    ("crypto_wallet", "{}", "pay: 15oF4uVJwmo4TdGW7VfQxNLavjCXviqxT9S1MgbjMNHr6Sp5"),
    ("api_key", "{}", "use: 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"),
    ("api_key", "{}", "use: figd_" + "aB3dE5gH7jK9mN1pQ3sT5vW7yZ9bC1eF3hJ5kL7n"),
    ("api_key", "{}", "use: hf_" + "aBcDeFgHiJkLmNoPqRsTuVwXyZaBcDeFgH"),
    ("secret", "mysql -u me {} db", "--password=Zk9vQ2rT7xLp"),
    (
        "url_with_credentials",
        "<{}>",
        "https://hooks.slack.com/services/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",
    ),
    ("iban", "{}.", "rekening: nl91abna0417164300"),
    ("ip_address", "10:22 {} ok", "src=193.30.239.86"),
    ("mac_address", "{};", "hwaddr:00:5d:5c:43:51:74"),
    ("phone", "user {} ok", "휴대폰=010-2345-6789"),
    ("national_id", "{}", "CNPJ: 11.222.333/0001-81"),
    ("national_id", "{}", "CUIT=20-26756539-3"),
    ("street_address", "{}\nDanke", "wohne: Karl-Marx-Allee 146b, 10243 Berlin"),
    ("street_address", "{} please", "ship: Nieuwezijds Voorburgwal 147, 1012 RJ Amsterdam"),
    ("street_address", "{}", "moro: Rua das Flores, 38"),
)
NOTHING = (
    "passport office hours: 123456 visitors",
    "Born free, released 3 May 2022.",
    "我的生日派对，日期为2022年5月15日",
    "Solve 587-670-5143 step by step.",
    "x=4155550123456; f(x)=10000000000",
    "a plate of food for 12; regular 4WD cars, template ABC 123x",
    "numpy==1.2.3.4, torch>=2.1.0.1",
    "the registration of 1200 people",
    "commit 4f2a9c1e7b3d5a6088c0ffee1234567890abcdef",
    "secret_manager.get_value, hf_transfer, pat_pattern, key==value",
)


def _value(held: str) -> str:
    """Return what is personal in a held text: what stands behind the name."""
    for mark in (": ", "：", "=", ":"):
        if mark in held:
            return held.split(mark, 1)[1]
    return held


@pytest.mark.parametrize(("kind", "frame", "held"), VALUES)
def test_a_named_value_of_any_locale_is_found_and_stays_replaced(kind: str, frame: str, held: str) -> None:
    text = frame.format(held)
    value = held if kind == "url_with_credentials" else _value(held)
    assert [(span.kind, text[span.start : span.end]) for span in find(text)] == [(kind, value)]
    assert find(text) == find_without_gates(text)
    clean, _ = Replacer().replace([text])
    assert value not in clean[0]
    assert Replacer().replace(clean) == (clean, {})


@pytest.mark.parametrize("text", NOTHING)
def test_its_neighbours_are_left_alone(text: str) -> None:
    assert find_without_gates(text) == []
