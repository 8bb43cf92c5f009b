"""The words of a text in any script."""

from __future__ import annotations

import re
import unicodedata
from functools import cache
from typing import Any

# ASCII by a table, four times as fast: letters in lower case, digits, and a space for all else.
_ASCII = {code: chr(code).lower() if chr(code).isalnum() else " " for code in range(128)}
# Beyond these (Latin, Greek, Cyrillic, Hangul, punctuation and symbols) there are marks, and words without spaces.
_INVOLVED = re.compile(
    "[^\0-\xac\xae-\u02ff\u0370-\u0482\u048a-\u0590\u2010-\u2029\u202f-\u205f\u20a0-\u20cf\u2100-\u2bff가-힣]"
)
_SIMPLE_WORD = re.compile(r"[^\W_]+")


@cache
def _patterns() -> tuple[Any, Any, Any]:
    """Compile what doesn't count inside a word, a character of a script without spaces, and a word."""
    import regex

    # Format characters such as joiners and soft hyphens (UAX 29 ignores them inside words), lone surrogates, and the
    # Arabic kashida, Arabic vowel marks and Hebrew points: the same words are written with and without them.
    ignored = r"[\p{Cf}\p{Cs}\u0591-\u05bd\u05bf-\u05c7\u0640\u064b-\u065f\u0670\u06d6-\u06ed]+"
    unspaced = r"[\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\p{Han}\p{Hiragana}\p{Katakana}]"
    return regex.compile(ignored), regex.compile(unspaced), regex.compile(r"[\p{L}\p{N}][\p{L}\p{N}\p{M}]*")


def words(text: str) -> list[str]:
    """Return the words of a text: NFKC, case folded, without punctuation, vowel marks and points.

    A word is a run of letters and digits with the marks on them. In scripts without spaces between words (Chinese,
    Japanese, Thai, Lao, Khmer, Burmese) ICU's dictionaries find the words (https://unicode.org/reports/tr29).
    """
    if text.isascii():
        return text.translate(_ASCII).split()
    text = unicodedata.normalize("NFKC", text).casefold()
    if not _INVOLVED.search(text):
        return _SIMPLE_WORD.findall(text)
    ignored, unspaced, word = _patterns()
    text = ignored.sub("", text)
    if unspaced.search(text):
        text = _spaced(text)
    found: list[str] = word.findall(text)
    return found


def _spaced(text: str) -> str:
    """Return the text with a line break between words."""
    from icu4py.breakers import WordBreaker

    # NFKC takes Thai and Lao AM apart; ICU's dictionaries have it whole.
    text = text.replace("\u0e4d\u0e32", "\u0e33").replace("\u0ecd\u0eb2", "\u0eb3")
    return "\n".join(WordBreaker(text, "root"))
