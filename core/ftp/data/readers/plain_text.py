"""Text and Markdown files: rows with the columns `text` and `file`."""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from ftp.data.readers.encodings import LOOKED_AT, encoding_of
from ftp.data.readers.rows import ReadOptions, Row


def plain_text(file: Path, stream: IO[bytes], options: ReadOptions) -> Iterator[Row]:
    """Read a file as one row, or as one for each of its paragraphs or lines."""
    raw = stream.read()
    encoding = options.encoding or encoding_of(file, raw[:LOOKED_AT])
    try:
        text = raw.decode(encoding)
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        said = encoding.removesuffix("-sig").upper()
        yield Row(1, None, f"not {said}: byte 0x{raw[error.start]:02x} in line {line}")
        return
    for line, part in _parts(text.removeprefix("\ufeff").replace("\r\n", "\n"), options):
        if part.strip():
            yield Row(line, {"text": part, "file": file.name})


def _parts(text: str, options: ReadOptions) -> Iterator[tuple[int, str]]:
    """Return each row with the line it starts on."""
    if options.sample_by in (None, "document"):
        yield 1, text
        return
    numbered = enumerate(io.StringIO(text, newline="\n"), 1)
    if options.sample_by == "line":
        yield from ((number, line.rstrip("\n")) for number, line in numbered)
        return
    for blank, lines in itertools.groupby(numbered, lambda numbered_line: not numbered_line[1].strip()):
        paragraph = list(lines)
        if not blank:
            yield paragraph[0][0], "".join(line for _, line in paragraph).rstrip("\n")
