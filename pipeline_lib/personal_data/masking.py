"""A value that may be shown: enough of its form to judge the hit, too little to know whose it is."""

import re


def mask(kind: str, value: str) -> str:
    """Return a value with all but its punctuation and one leading letter starred: `j***@***.com`.

    E-mail keeps its top-level domain, web addresses their scheme; nothing else survives, digits never do.
    """
    if kind == "email" and "@" in value:
        return f"{_initial(value)}***@***.{value.rpartition('.')[2]}"
    if kind in ("url", "url_with_credentials") and "://" in value:
        return f"{value.partition('://')[0]}://***"
    if kind in ("private_key", "secret", "api_key", "street_address", "crypto_wallet"):
        return f"*** ({len(value)} characters)"
    return re.sub(r"\w", "*", value)


def _initial(value: str) -> str:
    return value[0] if value[0].isalpha() else "*"
