"""The rows of a recipe as tokens, before any weights are loaded."""

from __future__ import annotations

import copy
from collections.abc import Callable

from ftp.data.examples import Corpus
from ftp.data.ledger import Ledger
from ftp.guard import call
from ftp.recipe.model import Recipe
from ftp.stages.control_tokens import find_control_tokens
from ftp.stages.load_model import load_tokenizer


def tokenise_rows(
    recipe: Recipe, corpus: Corpus, ledger: Ledger, stage: Callable[[str, int], Callable[[int], None]]
) -> tuple[Ledger, str]:
    """Determine which rows can be trained on, and cache their tokens for training.

    A loader that can't load its tokenizer alone leaves this to the training.

    Args:
        ledger: rows that spell out control tokens are entered here.
        stage: called with a title and the number of rows; returns a function to call with the rows done.

    Returns:
        The ledger with the entries that training will make as well, and a sentence for the user or an empty one.

    Raises:
        DataError: rows that can't be trained on.
    """
    tokenizer = load_tokenizer(recipe.model)
    if tokenizer is None:
        return ledger, ""
    spelled = find_control_tokens(corpus, tokenizer, ledger)
    told = copy.deepcopy(ledger)
    advance = stage("Tokenising", len(corpus.train) + len(corpus.validation))
    call(object, recipe.train.tokenise, corpus, tokenizer, told, advance)
    return told, spelled
