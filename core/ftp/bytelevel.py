"""Where text falls in the tokens of a byte-level tokenizer, from the bytes of the tokens alone.

The tokens of such a tokenizer (GPT-2, Llama 3, Qwen, SmolLM, …) spell the text byte for byte, so the number of bytes in
each says where it lies. That saves the offsets, which cost a fifth of the time that encoding takes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def token_bytes(tokenizer: Any) -> Any | None:
    """Bytes in each token of the vocabulary, int32 [tokens]; None when the tokenizer is not byte-level."""
    import numpy as np
    from tokenizers import decoders

    backend = tokenizer.backend_tokenizer
    if not isinstance(backend.decoder, decoders.ByteLevel) or backend.normalizer is not None:
        return None
    added = backend.get_added_tokens_decoder()
    vocabulary = backend.get_vocab(with_added_tokens=True)
    sizes = np.zeros(max(vocabulary.values()) + 1, np.int32)
    for token, id in vocabulary.items():
        # In the byte-level alphabet a character stands for a byte; added tokens are spelt as they are.
        sizes[id] = len(added[id].content.encode()) if id in added else len(token)
    return sizes


def answer_tokens(
    ids: Sequence[int], text: str, answers: Sequence[tuple[int, int]], sizes: Any
) -> list[tuple[int, int]] | None:
    """The ranges of tokens that touch some ranges of characters.

    Args:
        sizes: from `token_bytes`.

    Returns:
        A range for each of `answers`; None when the tokens don't spell the text byte for byte.
    """
    import numpy as np

    ends = np.cumsum(sizes[ids])
    whole = text.encode()
    if not len(ids) or int(ends[-1]) != len(whole):
        return None
    if len(whole) == len(text):
        places = answers
    else:
        places = [(len(text[:start].encode()), len(text[:end].encode())) for start, end in answers]
    return [
        # The first token that ends behind the start, up to the one in which the end lies.
        (int(np.searchsorted(ends, start, side="right")), int(np.searchsorted(ends, end, side="left")) + 1)
        for start, end in places
    ]
