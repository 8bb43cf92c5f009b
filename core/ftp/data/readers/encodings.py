"""Which encoding the bytes of a text are in, for files that don't say it themselves."""

from __future__ import annotations

import codecs
import re
from pathlib import Path

from ftp.errors import DataError

LOOKED_AT = 1_000_000
"""Bytes that the guess is made from."""
SURE = 0.1
"""Confidence below which a guess is no better than what Windows writes in Western Europe."""
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16, whose mark is its beginning
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_UTF8_CHARACTER = re.compile(rb"[\xc2-\xdf][\x80-\xbf]|[\xe0-\xef][\x80-\xbf]{2}|[\xf0-\xf4][\x80-\xbf]{3}")


def known_encoding(name: str) -> str:
    """Return the name of a text encoding as Python spells it.

    Raises:
        ValueError: there is none of this name.
    """
    try:
        "".encode(name)  # codecs.lookup knows base64 and the like too, which are no encodings of text
        return codecs.lookup(name).name
    except (LookupError, ValueError):  # ValueError: a NUL in the name
        raise ValueError("no encoding of this name is known; common ones are utf-8, utf-16, cp1252 and cp932") from None


def encoding_of(file: Path, sample: bytes) -> str:
    """Return the encoding of a text by its byte order mark, as UTF-8, or as chardet guesses it.

    Of the detectors tried on short tables in twelve languages and encodings, chardet 7 named all but one, a table with
    one euro sign in it; charset-normalizer took French, Swedish and Russian for something else.

    Args:
        file: named in errors.
        sample: how the file begins; may end within a character.

    Raises:
        DataError: it is not UTF-8, and chardet is not installed.
    """
    for mark, encoding in _MARKS:
        if sample.startswith(mark):
            return encoding
    if b"\0" in sample[:200]:  # UTF-16 without its mark
        return "utf-16-le" if sample[1:2] == b"\0" else "utf-16-be"
    try:
        codecs.getincrementaldecoder("utf-8")().decode(sample)
        return "utf-8"
    except UnicodeDecodeError:
        pass
    good = _UTF8_CHARACTER.findall(sample)
    stray = sum(byte > 127 for byte in sample) - sum(map(len, good))
    if len(good) > stray:  # UTF-8 with broken bytes in it, which are named by row
        return "utf-8"
    try:
        import chardet
    except ModuleNotFoundError:
        what = "not UTF-8; write its `encoding:` into the recipe, or pip install 'ftp-finetune[train]' to have it found"
        raise DataError([f"{file}: {what}"]) from None
    guess = chardet.detect(sample, encoding_era=chardet.EncodingEra.MODERN_WEB)
    if guess["encoding"] is None or guess["confidence"] < SURE:
        return "cp1252"
    return known_encoding(guess["encoding"])
