"""Labelled conversations with sixteen kinds of personal data and as many near misses, from a seed.

A *case* is a list of texts (the turns of a conversation, or one sentence) with the spans that are personal
data. Values are built here from published plans and check-digit rules, without the code under test: an
independent truth. Forms, locales, contexts and lead-ins vary; near misses look like a kind and are not one.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from personal_data_machine_values import Random, digits, token
from personal_data_values import FIRST_NAMES, LAST_NAMES, MAKERS

Label = tuple[str, int, int]


@dataclass(frozen=True)
class Case:
    """One conversation and its truth: a list of labels (kind, start, end) for each text."""

    texts: list[str]
    labels: list[list[Label]]


SENTENCES: dict[str, list[str]] = {
    "email": [
        "Write to {} about it.",
        "My e-mail is {}, thanks!",
        "From: {}\nSubject: invoice",
        "{} has not answered.",
        "Contact <{}> today",
        "mailto:{}",
    ],
    "phone": [
        "Call me at {} after six.",
        "Tel.: {}",
        "You can reach {name} on {}.",
        "My phone number is {}.",
        "Rufen Sie mich an: Telefon {}",
        "WhatsApp {} or mail.",
        "Fax {}; no post please.",
    ],
    "credit_card": [
        "Charge {} please.",
        "My card number is {} and it expires 09/27.",
        "Visa {}, CVV 123",
        "I paid with {}.",
        "Pay by card: {}",
    ],
    "iban": [
        "Transfer it to {}.",
        "IBAN: {}",
        "Bitte auf das Konto {} überweisen.",
        "Account {} belongs to {name}.",
    ],
    "national_id": [
        "My ID is {}.",
        "SSN/ID: {}",
        "{name} gave {} as identification.",
        "National insurance or tax number {}?",
        "It says {} on the card.",
    ],
    "ip_address": [
        "The request came from {}.",
        "Server {} is down.",
        "ssh root@{}",
        "Block {} in the firewall, please.",
        "IP={}",
    ],
    "mac_address": ["The printer's MAC is {}.", "link/ether {} brd", "Allow {} on the wifi."],
    "url_with_credentials": ["Clone {} first.", "DATABASE_URL={}", "curl '{}'", "It is at {} now."],
    "api_key": [
        "export API={}",
        "My key is {}.",
        'client = Client("{}")',
        "Authorization: Bearer {}",
        "I pushed {} by accident!",
    ],
    "private_key": ["Here it is:\n{}\nPlease help.", "key.pem\n{}"],
    "secret": [
        "password: {}",
        'API_SECRET = "{}"',
        "my password is {}",
        "DB_PASSWORD={}",
        'token: "{}"',
        '{{"secret": "{}"}}',
    ],
    "crypto_wallet": ["Send the coins to {}.", "Wallet: {}", "Donations: {} (thanks)"],
    "street_address": [
        "I live at {}.",
        "Ship it to {}, please.",
        "Address: {}",
        "{name}, {}",
        "The office moved to {} last week.",
    ],
    "date_of_birth": [
        "I was born on {}.",
        "DOB: {}",
        "Date of birth: {}",
        "{name} (born {}) signed.",
        '"date_of_birth": "{}"',
        "Patient, D.O.B. {}, has a fever.",
    ],
    "vehicle": ["VIN: {}", "The car {} was stolen.", "Chassis number {}."],
    "passport": [
        "My passport number is {}.",
        "Passport: {}",
        "Passport no. {}, issued in May",
        "Reisepass {}",
    ],
}
"""Lead-ins by kind; `{}` is where the value stands, `{name}` where a name does."""

NEAR_MISSES = (
    "The war of {y}-{z} cost much.",
    "def f(a, b):\n    return a@b.T",
    "@app.route('/x')\ndef index(): ...",
    "Version 1.2.{d}.4 is out.",
    "pip install numpy==1.26.{d}",
    "std::vector<int> v; abc::def();",
    "Mail someone@example.com or admin@mail.test.",
    "ping 127.0.0.1 and 192.0.2.{d}",
    "Dial 202-555-01{d}4 in the film.",
    "ISBN 978-3-16-148410-0",
    "pi is 3.14159265358979",
    "0.{n}{n}",
    "commit {h}",
    "id 123e4567-e89b-12d3-a456-42661417{d}000",
    "{d},{d}45,678 + 12,345,678 = ?",
    "Lines 100-200 and 1000-1200 changed.",
    "It is 12:30:45 on 2024-0{d}-11.",
    "The score was 21-15, 18-21, 21-19.",
    "password = getpass()",
    "token = tokens[i + {d}]",
    "api_key = os.environ['API_KEY']",
    "API_KEY=YOUR_API_KEY_HERE",
    "Order 4111 1111 1111 1112 pieces",
    "The card 1234 5678 9012 3456 is a dummy.",
    "DE00 1234 5678 9012 3456 00 is no account.",
    "In 2008 Wall Street fell.",
    "20 houses on Elm Street have 3 doors.",
    "Mozart was born in Salzburg in 1756.",
    "The meeting is on 12/03/2024.",
    "2001:db8::{d}",
    "https://user:password@example.com/x",
    "https://shop.io/?page=2&sort=price",
    "ABCDEFGHJKLMNPRST",
    "<EMAIL_1> wrote to <PHONE_{d}>.",
    "seq 1 1 2 3 5 8 13 21 34 55 89",
    "order number 123-456-78901",
    "x[1000:2000:2]",
    "Unix time 16{n}00",
    "3600-1200 = 2400",
    "10.0.0.0/8 and 255.255.255.0",
    "a/b/c 12/34/56/78",
    "passport control opens at 9",
    "matrix (1 2 3) (4 5 6) (7 8 9)",
    "0x{d}f3a",
    "Room 1234, floor 5, 6789 steps",
    "SHA-1 da39a3ee5e6b4b0d3255bfef95601890afd80709",
    "lodash@4.17.21 and react@18.{d}.0",
    "call the function 12 times with 345 and 6789",
    "RFC 2606, RFC 5737; EN 50128:2011",
)
"""Texts without personal data; `{d}`, `{n}`, `{y}`, `{z}`, `{h}` are drawn."""


def near_miss(r: Random) -> str:
    """Return a text that resembles personal data and holds none."""
    year = r.randrange(1800, 1990)
    return r.choice(NEAR_MISSES).format(
        d=r.randrange(1, 9), n=digits(r, 6), y=year, z=year + 5, h=token(r, 40, "0123456789abcdef")
    )


def sentence(r: Random, kind: str, value: str) -> tuple[str, Label]:
    """Return a sentence around the value, and where the value stands."""
    before, after = (
        r.choice(SENTENCES[kind])
        .replace("{name}", f"{r.choice(FIRST_NAMES)} {r.choice(LAST_NAMES)}")
        .replace("{{", "{")
        .replace("}}", "}")
        .split("{}")
    )
    return before + value + after, (kind, len(before), len(before) + len(value))


def _text(r: Random, parts: list[tuple[str, list[Label]]]) -> tuple[str, list[Label]]:
    joint, text, labels = r.choice([" ", "\n", "\n\n"]), "", []
    for part, inside in parts:
        text += joint if text else ""
        labels += [(kind, start + len(text), end + len(text)) for kind, start, end in inside]
        text += part
    return text, labels


def _turn(r: Random, values: list[tuple[str, str]]) -> tuple[str, list[Label]]:
    parts: list[tuple[str, list[Label]]] = [(near_miss(r), [])] if r.random() < 0.4 else []
    for kind, value in values:
        text, label = sentence(r, kind, value)
        parts.append((text, [label]))
        if r.random() < 0.3:
            parts.append(
                (
                    r.choice(
                        [
                            "Thanks a lot.",
                            "What do you think?",
                            "I have 3 cats and 12 fish.",
                            "Das war alles.",
                        ]
                    ),
                    [],
                )
            )
    return _text(r, parts or [(near_miss(r), [])])


def _conversation(r: Random) -> Case:
    """Return a case of one to four turns in which values come back."""
    pool = [(kind, MAKERS[kind](r)) for kind in r.sample(sorted(MAKERS), r.randrange(0, 4))]
    turns = [
        _turn(r, r.sample(pool, r.randrange(0, min(2, len(pool)) + 1))) for _ in range(r.randrange(1, 5))
    ]
    return Case([text for text, _ in turns], [labels for _, labels in turns])


def cases(count: int, seed: int) -> Iterator[Case]:
    """Yield labelled cases: three in four a conversation, else one sentence of each kind in turn."""
    r = Random(seed)
    kinds = sorted(MAKERS)
    for number in range(count):
        if number % 4:
            yield _conversation(r)
        else:
            kind = kinds[number // 4 % len(kinds)]
            text, label = sentence(r, kind, MAKERS[kind](r))
            yield Case([text], [[label]])
