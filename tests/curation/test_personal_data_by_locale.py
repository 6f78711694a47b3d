"""Forms of many countries, issuers and chains, glued to what stands around them: written by hand."""

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline_lib.personal_data.detect import find, find_without_gates
from pipeline_lib.personal_data.replace import Replacer
from pipeline_lib.personal_data.tables import cells

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
    ("street_address", "{}", "moro: Rua das Flores, 45, Centro, Curitiba/PR, CEP 80020-190"),
    ("street_address", "{}", "moro: Avenida Atlântica 1702, Rio de Janeiro - RJ"),
    ("street_address", "送货到{}", "江苏省南京市鼓楼区中山北路26号3栋502室"),
    ("street_address", "我住在{}，", "杭州市西湖区文三路478号"),
    ("street_address", "{}です", "住所：神奈川県横浜市西区みなとみらい2-3-1"),
    ("street_address", "{}", "〒242-6682 大阪府大阪市北区梅田6-2-4"),
    ("street_address", "{} 입니다", "서울특별시 강남구 테헤란로 152"),
    ("street_address", "{}", "ship: Plot No. 12, Jubilee Hills, Hyderabad 500033"),
    ("street_address", "{}.", "ship: 36, MG Road, Kolkata - 566111"),
    ("street_address", "{}", "ship: 1055 West Georgia Street, Vancouver, BC V6E 3P3"),
    ("street_address", "{}", "ship: Unit 7, 38 George Tce, Sydney NSW 2000"),
    ("secret", "{}", "hasło: SSQeanPI9wd6M1mFbJzz"),
    ("secret", "新的{}。请保存", "密码：Ab3#fG7!kL9@"),
    ("secret", "{}", "비밀번호: k3#Lm9!xQ2"),
    ("secret", "{}", "userPassword=Tr0ub4dor&3x"),
    ("secret", "{} psql", "PGPASSWORD=z62czxRIphD7PeNd"),
    ("vehicle", "{}", "licence plate: CKRT 512"),
    ("vehicle", "车牌号码是{}，", "浙A12345"),
    ("passport", "passaporto n. {}", "YA1234567"),
    ("passport", "Reisepass Nr. {}", "CTWKGZ8F9"),
    ("passport", "mijn paspoortnummer is {}", "DSHHH4D77"),
    ("national_id", "mon {}", "NAS: 741 565 576"),
    ("phone", "row 17\n{} works best", "+34 810 60 15 95"),
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
    "2023-10-07T00:02:13.832260Z INFO started",
    "北京路1号线地铁，东京都有23个区。",
    "密码长度：12-16位，密码：请输入8位以上的字母和数字",
    "password: $PASSWORD, passwordLength: 12, password: ${DB_PASS}",
    "row 12, Col A, Value 200300; 3, Alice, Bob - 123456",
    "In 1984, George Orwell, London 123456 copies were sold.",
)


FORMS = (
    ("secret", 'id,client_secret,status\n17,"{}",ok\n', "TbLarLY1GCSnPIuh4UGTV0BkXUx59RGV"),
    ("secret", "INSERT INTO users (id, `password`) VALUES (16, NULL),\n (17, '{}');", "BORwjJAtivM#U6w"),
    ("secret", "<user><db_password>{}</db_password></user>", "mLgj8fFIqeFvWJQLlZ2oi96E"),
    ("secret", "<tr><td>secret</td><td>{}</td></tr>", "DbpVZpVcjN5xNCl8Oo+NOwzekvk"),
    ("secret", "| field | value |\n|---|---|\n| password | {} |", "CqmVTcuphsXeoxghvORonCHi2g027Q"),
    ("secret", "**Client Secret:** {}", "2HRUm0JcnpMhG2UlSEIKqukH7n"),
    ("secret", "Db password - {}\nStatus - ok", "eb472570d082d48e37ecd5515f5fc8c4"),
    ("secret", "password\t{}\tok", "38f033d89394d2f224c90ad58571750c"),
    ("date_of_birth", "| Name | DOB |\n|:--|--:|\n| Ann | – |\n| Bob | {} |\n", "1990-01-02"),
    ("date_of_birth", "name,birth_date\nAnn,1 May\nBob,{}", "16-01-1950"),
    ("passport", "id;passport_no;status\n17;{};ok", "15KV09876"),
    ("vehicle", "id\tlicense_plate\n17\t{}", "M-CJ 6134"),
    ("national_id", "<steuer_id>{}</steuer_id>", "87613974571"),
    ("national_id", "MY_NUMBER={}", "312927502919"),
)


@pytest.mark.parametrize(("kind", "form", "value"), FORMS)
def test_a_value_is_found_where_a_tag_or_the_head_of_a_column_names_it(
    kind: str, form: str, value: str
) -> None:
    text = form.format(value)
    assert [(span.kind, text[span.start : span.end]) for span in find(text)] == [(kind, value)]
    assert find(text) == find_without_gates(text)


@given(
    st.lists(
        st.sampled_from(
            [
                "password",
                "dob",
                "id",
                ",",
                "|",
                "\n",
                "'",
                '"',
                "(",
                ")",
                " ",
                "INSERT INTO t (",
                "values",
                "1",
            ]
        )
    ).map("".join)
)
def test_cells_lie_in_the_text_whatever_it_is(text: str) -> None:
    for name, start, end in cells(text, re.compile("password|dob")):
        assert name in text
        assert 0 <= start <= end <= len(text)


def test_a_table_of_many_rows_takes_a_moment() -> None:
    text = "password,name\n" + "token,secret\n" * 8_000
    began = time.process_time()
    assert find_without_gates(text) == []
    assert find_without_gates("INSERT INTO t (dob) VALUES (" + "'" * 8_001) == []
    assert time.process_time() - began < 10


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
