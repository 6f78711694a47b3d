"""Values of personal data in many forms, drawn from a seed.

Built from published numbering plans and check-digit rules, without the code under test: an independent
truth for `personal_data_generator`.
"""

from collections.abc import Callable

from personal_data_machine_values import (
    PLAIN_NAMES,
    Random,
    api_key,
    crypto_wallet,
    digits,
    ip_address,
    mac_address,
    private_key,
    secret,
    token,
    url_with_credentials,
)

Make = Callable[[Random], str]

FIRST_NAMES = [
    "Anna",
    "Bob",
    "Carla",
    "Dmitri",
    "Élodie",
    "Farid",
    "Grace",
    "Hans",
    "Inês",
    "Jürgen",
    "Keiko",
    "Liam",
    "María",
    "Nils",
    "Olga",
    "Priya",
    "Quentin",
    "Rosa",
    "Søren",
    "Tom",
]
LAST_NAMES = [
    "Almeida",
    "Becker",
    "Carter",
    "Dubois",
    "Evans",
    "Fischer",
    "García",
    "Hansen",
    "Ito",
    "Jones",
    "Kowalski",
    "Lopez",
    "Moreau",
    "Novak",
    "O'Neil",
    "Patel",
    "Rossi",
    "Smith",
]
_HOSTS = [
    "gmail.com",
    "yahoo.co.uk",
    "outlook.com",
    "web.de",
    "orange.fr",
    "proton.me",
    "corp-mail.net",
    "uni-bonn.de",
    "icloud.com",
    "acme.io",
    "libero.it",
    "mail.ru",
    "qq.com",
]


def _filled(r: Random, form: str) -> str:
    """Return the form with `#` a digit, `N` a digit from 2, `@` a capital letter."""
    drawn = {"#": "0123456789", "N": "23456789", "@": "ABCDEFGHJKLMNPRSTUVWXYZ"}
    return "".join(r.choice(drawn[character]) if character in drawn else character for character in form)


def _luhn_digit(body: str) -> str:
    total = 0
    for place, digit in enumerate(reversed(body)):
        doubled = int(digit) * (2 if place % 2 == 0 else 1)
        total += doubled - 9 if doubled > 9 else doubled
    return str(-total % 10)


def email(r: Random) -> str:
    """Return an e-mail address: plain, plus-tagged, dotted, upper case or on a sub-domain."""
    first, last = r.choice(PLAIN_NAMES), r.choice(LAST_NAMES).lower().replace("'", "").replace("í", "i")
    local = r.choice(
        [
            f"{first}.{last}",
            f"{first}{r.randrange(99)}",
            f"{first[0]}{last}",
            f"{first}_{last}",
            f"{first}+news",
            f"{first}-{last}",
        ]
    )
    address = f"{local}@{r.choice(['', '', '', 'mail.', 'eu.'])}{r.choice(_HOSTS)}"
    return address.upper() if r.random() < 0.05 else address


def phone(r: Random) -> str:
    """Return a telephone number as people of ten countries write it."""
    area, exchange = (
        r.choice(["212", "415", "312", "617", "206", "512", "305", "404", "702", "808"]),
        _filled(r, "N##"),
    )
    line = f"{r.randrange(2000, 9999)}"
    american = [
        "({a}) {e}-{l}",
        "{a}-{e}-{l}",
        "{a}.{e}.{l}",
        "+1-{a}-{e}-{l}",
        "+1 {a} {e} {l}",
        "1-{a}-{e}-{l}",
        "({a}) {e}-{l} x{x}",
        "{a}-{e}-{l} ext. {x}",
        "+1{a}{e}{l}",
        "001-{a}-{e}-{l}",
    ]
    if r.random() < 0.5:
        return r.choice(american).format(a=area, e=exchange, l=line, x=r.randrange(10, 9999))
    forms = [
        "+44 20 7### ####",
        "020 7### ####",
        "+44 7700 9##0##",
        "+49 30 90####",
        "+49 (0)151 2######9",
        "0151 2#######",
        "+33 1 4# ## ## ##",
        "06 1# ## ## ##",
        "01.42.##.##.##",
        "+34 612 ### ###",
        "+39 06 698 #####",
        "+31 6 1#######",
        "+41 44 668 ## ##",
        "+61 2 9### ####",
        "+91 98### #####",
        "+55 11 9#### ####",
        "+81 3-3###-####",
        "+46 8 5## ### ##",
        "0046 8 5## ### ##",
        "+4479########",
    ]
    return _filled(r, r.choice(forms))


def credit_card(r: Random) -> str:
    """Return a card number with a valid Luhn digit, of six networks, grouped or not."""
    prefix, length = r.choice(
        [
            ("4", 16),
            ("4", 16),
            ("51", 16),
            ("55", 16),
            ("2221", 16),
            ("34", 15),
            ("37", 15),
            ("6011", 16),
            ("65", 16),
            ("36", 14),
            ("3530", 16),
        ]
    )
    body = prefix + digits(r, length - 1 - len(prefix))
    number = body + _luhn_digit(body)
    separator = r.choice(["", " ", "-"])
    cuts = (4, 10, length) if length < 16 else (4, 8, 12, 16)
    return separator.join(number[start:end] for start, end in zip((0, *cuts), cuts, strict=False))


def iban(r: Random) -> str:
    """Return an account of eight countries with its check digits."""
    country, form = r.choice(
        [
            ("DE", "#" * 18),
            ("GB", "@@@@" + "#" * 14),
            ("ES", "#" * 20),
            ("NL", "@@@@" + "#" * 10),
            ("BE", "#" * 12),
            ("AT", "#" * 16),
            ("PL", "#" * 24),
            ("CH", "#" * 17),
        ]
    )
    account = _filled(r, form)
    spelled = "".join(str(int(character, 36)) for character in account + country + "00")
    number = f"{country}{98 - int(spelled) % 97:02d}{account}"
    return r.choice([number, " ".join(number[start : start + 4] for start in range(0, len(number), 4))])


def _us(r: Random) -> str:
    return f"{r.randrange(1, 665):03d}-{r.randrange(1, 99):02d}-{r.randrange(1, 9999):04d}"


def _nino(r: Random) -> str:
    return r.choice(["{} {} {} {} {}", "{}{}{}{}{}"]).format(
        r.choice(["AB", "CE", "HJ", "JK", "LM", "PR", "SX", "TW"]),
        *(digits(r, 2) for _ in range(3)),
        r.choice("ABCD"),
    )


def _nir(r: Random) -> str:
    parts = [
        r.choice("12"),
        digits(r, 2),
        f"{r.randrange(1, 13):02d}",
        f"{r.randrange(1, 95):02d}",
        f"{r.randrange(1, 990):03d}",
        f"{r.randrange(1, 999):03d}",
    ]
    key = 97 - int("".join(parts)) % 97
    return r.choice([" ", ""]).join([*parts, f"{key:02d}"])


def _dni(r: Random) -> str:
    number = r.randrange(10_000_000, 99_999_999)
    return f"{number}{r.choice(['', '-'])}{'TRWAGMYFPDXBNJZSQVHLCKE'[number % 23]}"


def _cpf(r: Random) -> str:
    body = [r.randrange(10) for _ in range(9)]
    for _ in range(2):
        rest = (
            sum(digit * weight for digit, weight in zip(body, range(len(body) + 1, 1, -1), strict=True))
            * 10
            % 11
            % 10
        )
        body.append(rest)
    number = "".join(map(str, body))
    return f"{number[:3]}.{number[3:6]}.{number[6:9]}-{number[9:]}"


def national_id(r: Random) -> str:
    """Return a number of the United States, Britain, France, Spain or Brazil."""
    return r.choice([_us, _us, _nino, _nir, _dni, _cpf])(r)


def street_address(r: Random) -> str:
    """Return house number and street in six countries' forms."""
    number, name = (
        r.randrange(2, 4800),
        r.choice(["Maple", "Oak", "Washington", "Elm", "Birchwood", "Lincoln", "Riverside", "Kensington"]),
    )
    return r.choice(
        [
            f"{number} {name} {r.choice(['Street', 'St.', 'Avenue', 'Rd', 'Lane', 'Blvd', 'Drive', 'Court'])}",
            f"{number} N. {name} Ave, Apt {r.randrange(1, 40)}B",
            f"{number} {name} Street, Springfield, IL 62704",
            f"{r.randrange(1, 200)} {name} Road, London SW1A 1AA",
            (
                f"{r.choice(['Goethestraße', 'Lindenallee', 'Bahnhofstr.', 'Marktplatz'])} "
                f"{r.randrange(1, 180)}, 50667 Köln"
            ),
            (
                f"{r.randrange(1, 180)} rue "
                f"{r.choice(['de la République', 'Victor Hugo', 'des Lilas', 'du Moulin'])}, 69002 Lyon"
            ),
            f"Calle {r.choice(['Mayor', 'de Alcalá', 'Serrano'])} {r.randrange(1, 99)}, 28014 Madrid",
            f"Via {r.choice(['Garibaldi', 'Roma', 'Dante Alighieri'])} {r.randrange(1, 99)}",
            f"{number} {r.choice(['5th', '42nd', '3rd'])} Street",
            f"P.O. Box {number}",
        ]
    )


def date_of_birth(r: Random) -> str:
    """Return a full date in one of seven notations."""
    year, month, day = r.randrange(1930, 2012), r.randrange(1, 13), r.randrange(1, 29)
    name = [
        "January",
        "February",
        "March",
        "April",
        "May",
        "June",
        "July",
        "August",
        "September",
        "October",
        "November",
        "December",
    ][month - 1]
    return r.choice(
        [
            f"{day:02d}/{month:02d}/{year}",
            f"{month}/{day}/{year}",
            f"{year}-{month:02d}-{day:02d}",
            f"{day}.{month}.{year}",
            f"{day} {name} {year}",
            f"{name} {day}, {year}",
            f"{day}th of {name} {year}",
            f"{name[:3]} {day}, {year}",
        ]
    )


def vehicle(r: Random) -> str:
    """Return a vehicle number whose ninth character is its check digit."""
    alphabet = "ABCDEFGHJKLMNPRSTUVWXYZ0123456789"
    values = {
        **dict(zip("ABCDEFGH", range(1, 9), strict=True)),
        **dict(zip("JKLMN", range(1, 6), strict=True)),
        "P": 7,
        "R": 9,
        **dict(zip("STUVWXYZ", range(2, 10), strict=True)),
    }
    body = [
        *r.choice(["1HG", "WVW", "5YJ", "JTD", "2T1"]),
        *token(r, 5, alphabet),
        "0",
        *token(r, 4, alphabet),
        *digits(r, 4),
    ]
    weights = (8, 7, 6, 5, 4, 3, 2, 10, 0, 9, 8, 7, 6, 5, 4, 3, 2)
    total = sum(
        weight * (int(character) if character.isdigit() else values[character])
        for weight, character in zip(weights, body, strict=True)
    )
    body[8] = "0123456789X"[total % 11]
    return "".join(body)


def passport(r: Random) -> str:
    """Return a passport number of four countries."""
    return _filled(r, r.choice(["#########", "C@X##T##N", "@#######", "##@@#####", "@@#######"])).replace(
        "CI", "CF"
    )


MAKERS: dict[str, Make] = {
    maker.__name__: maker
    for maker in (
        email,
        phone,
        credit_card,
        iban,
        national_id,
        ip_address,
        mac_address,
        url_with_credentials,
        api_key,
        private_key,
        secret,
        crypto_wallet,
        street_address,
        date_of_birth,
        vehicle,
        passport,
    )
}
