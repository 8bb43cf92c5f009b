"""Numbers as people write them."""

from __future__ import annotations

import re
import unicodedata
from decimal import Decimal
from fractions import Fraction

LONGEST = 1000
"""Characters; what is longer is taken as text."""

_GROUPED = r"\d{1,3}(?:(?P<separator>[, '\u2019])\d{3})(?:(?P=separator)\d{3})*|\d{1,2}(?:,\d{2})+,\d{3}"
_DECIMAL = rf"(?P<decimal>(?:{_GROUPED}|\d+)(?:\.\d*)?|\.\d+)(?:e(?P<exponent>[-+]?\d{{1,3}}))?"
_FRACTION = r"(?:(?P<whole>\d+) )?(?P<over>\d+) ?[/\u2044] ?(?P<under>\d+)"
_NUMBER = re.compile(
    rf"(?P<sign>[-+]?) ?(?P<money>\$?) ?(?P<inner>[-+]?)(?:{_FRACTION}|{_DECIMAL}) ?(?P<unit>[$%]?)\.?", re.IGNORECASE
)
# En dash, figure dash and minus sign; Arabic separators and per cent.
_SPELT = str.maketrans("\u2012\u2013\u2212\u066b\u066c\u066a", "---.,%")
_VULGAR = re.compile("(?<=\\d)(?=[\u00bc-\u00be\u2150-\u215f\u2189])")
_RAISED = re.compile("[\u00b2\u00b3\u00b9\u2070-\u2099]")


def number(text: str) -> Fraction | None:
    """Return the value of a text that is one number, else None.

    Thousands may be grouped by commas, spaces or apostrophes, and as in India (12,34,567); digits may be of any script
    and full-width. Fractions (1/2, 1 1/2, 1½) and exponents (1e3) are read. Signs of money and per cent are left out:
    50 % is 50. A sum of money in parentheses is negative, as in accounts: ($5) is -5; (5) is no number. A full stop at
    the end is left out, and a comma is never a decimal point.
    """
    if len(text) > LONGEST or _RAISED.search(text):  # NFKC would make 10² to 102
        return None
    text = unicodedata.normalize("NFKC", _VULGAR.sub(" ", text.strip())).translate(_SPELT)
    text = "".join("$" if unicodedata.category(character) == "Sc" else character for character in text)
    owed = re.fullmatch(r"\((.*)\)\.?", text)
    found = _NUMBER.fullmatch(owed[1] if owed else text)
    if found is None or (found["sign"] and found["inner"]):
        return None
    sign = found["sign"] or found["inner"]
    if owed and (sign or "$" not in (found["money"], found["unit"])):
        return None
    value = _value(found)
    return value if value is None or not (owed or sign == "-") else -value


def _value(found: re.Match[str]) -> Fraction | None:
    if found["under"]:
        under = int(found["under"])
        return int(found["whole"] or 0) + Fraction(int(found["over"]), under) if under else None
    digits = re.sub("[, '\u2019]", "", found["decimal"])
    return Fraction(Decimal(digits)) * Fraction(10) ** int(found["exponent"] or 0)
