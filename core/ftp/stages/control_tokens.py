"""Rows whose text spells out control tokens: found before training, named in the ledger."""

from __future__ import annotations

import dataclasses
from collections import Counter

from ftp.data.examples import Corpus
from ftp.data.ledger import Ledger
from ftp.errors import DataError, ModelError
from ftp.files import first_few
from ftp.lm.control_tokens import control_tokens, texts_of
from ftp.lm.rendering import twin_for
from ftp.types import LoadedTokenizer

SHOWN = 20


def find_control_tokens(corpus: Corpus, loaded: LoadedTokenizer, ledger: Ledger) -> str:
    """Enter every row whose text spells out control tokens in the ledger.

    Returns:
        A sentence for the user, empty where there is no such row.

    Raises:
        DataError: rows whose source refuses them, or whose spelling this tokenizer can't keep as text.
    """
    controls = control_tokens(loaded.tokenizer)
    problems: list[str] = []
    found: Counter[str] = Counter()
    known = {finding["id"] for finding in ledger.findings() if finding["what"] == "control token"}
    for examples in (corpus.train, corpus.validation, *corpus.evals.values()):
        for row in examples:
            example = dataclasses.replace(row, messages=(*row.messages, *row.rejected)) if row.rejected else row
            texts = texts_of(example.messages, example.tools) if example.messages else [example.text]
            spelled = controls.spelled_in(*texts)
            if not spelled:
                continue
            try:
                twin = twin_for(loaded.tokenizer, example, controls)
            except ModelError as error:
                problems.append(str(error))
                continue
            if twin is None and example.control_tokens != "allow":
                continue  # running text that ends with the token that every row gets
            meaning = "kept as text" if twin else "allowed"
            found[meaning] += 1
            if example.id not in known:
                detail = f"{', '.join(map(repr, spelled))}: {meaning}"
                ledger.find(example.id, by="control_tokens", what="control token", detail=detail)
    if problems:
        raise DataError(first_few(problems, SHOWN, "more rows with control tokens"))
    said = [f"{rows} row{'s' if rows > 1 else ''} ({meaning})" for meaning, rows in found.items()]
    return f"Control tokens are spelled out in the text of {' and '.join(said)}; the ledger names them." if said else ""
