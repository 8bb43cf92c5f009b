"""Excel workbooks."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from datetime import date, datetime, time
from pathlib import Path
from typing import IO, Any

from ftp.data.readers.rows import ReadOptions, Row, twin
from ftp.errors import DataError, did_you_mean
from ftp.files import first_line


def workbook(file: Path, stream: IO[bytes], options: ReadOptions) -> Iterator[Row]:
    """Read a sheet whose first row names the columns. Cells are text, as in CSV, but for TRUE and FALSE.

    Of a formula the value is read that was last computed; a sheet's empty rows are left out.
    """
    try:
        import openpyxl
    except ModuleNotFoundError:
        raise DataError([f"{file}: Excel files need openpyxl: pip install 'ftp-finetune[excel]'"]) from None

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of styles and extensions, which hold no data
            book = openpyxl.load_workbook(io.BytesIO(stream.read()), read_only=True, data_only=True)
            if options.sheet is not None and options.sheet not in book.sheetnames:
                what = f"no sheet '{options.sheet}'{did_you_mean(options.sheet, book.sheetnames)}"
                raise DataError([f"{file}: {what}"])
            sheet: Any = book[options.sheet] if options.sheet is not None else book.worksheets[0]
            yield from _rows(file, sheet.iter_rows(values_only=True))
    except DataError:
        raise
    except Exception as error:  # the library lets through whatever zipfile, the XML parser and its own code raise
        raise DataError([f"{file}: not a readable Excel file: {first_line(error)}"]) from None


def _rows(file: Path, rows: Iterator[tuple[Any, ...]]) -> Iterator[Row]:
    header: list[str] = []
    for line, cells in enumerate(rows, 1):
        values = [_value(cell) for cell in cells]
        while values and values[-1] == "" and len(values) > len(header):
            values.pop()  # the sheet is as wide as its widest row
        if not any(value != "" for value in values):
            continue
        if not header:
            header = [str(value) for value in values]
            if twin(header) is not None:
                raise DataError([f"{file}:{line}: the column '{twin(header)}' occurs twice"])
        elif len(values) > len(header):
            yield Row(line, None, f"{len(values)} cells under {len(header)} columns")
        else:
            values += [""] * (len(header) - len(values))
            yield Row(line, dict(zip(header, values, strict=True)))


def _value(cell: Any) -> str | bool:
    if cell is None:
        return ""
    if isinstance(cell, bool):
        return cell
    if isinstance(cell, float) and cell.is_integer():
        return str(int(cell))
    if isinstance(cell, datetime) and cell.time() == time():
        return cell.date().isoformat()
    return cell.isoformat() if isinstance(cell, date | time) else str(cell)
