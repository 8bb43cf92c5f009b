"""Byte-level BPE of ASCII text with every word looked up rather than merged anew.

A byte-level BPE tokenizer (GPT-2, Llama 3, Qwen, SmolLM, …) cuts a text into words with a regular expression and merges
each word by itself. A corpus has far fewer different words than words, so each is merged once, by the tokenizer's own
model, and looked up from then on: about four times the rows per second on one core. In ASCII text the classes of the
expression (`\\p{L}`, `\\p{N}`, `\\s`) mean the same to Python as to the tokenizer; other text is left to the tokenizer.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable
from typing import Any

REMEMBERED_WORDS = 500_000
LONG_WORD = 64
"""Words at least this long are not cached: they hardly ever occur again."""
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
"""The pattern that the pre-tokenizer `ByteLevel` splits by."""
PROBE = """I'll see 'EM: don't, WE'VE!  x=3.14; 12345 67,890\n\n\tdef f(a_b):\r\n        return a_b**2  # two   \n
(https://example.org/a?b=c&d=%20) "quoted"...  --- ~`@#$^|\\ {"k": [1, 22, 333]}   end \n """


class AsciiBPE:
    """Encodes ASCII text exactly as a tokenizer's `encode_batch(…, add_special_tokens=False)` does."""

    def __init__(self, tokenizer: Any, cut: Callable[[str], list[str]]) -> None:
        backend = tokenizer.backend_tokenizer
        added = {token.content: id for id, token in backend.get_added_tokens_decoder().items()}
        self._model = backend.model
        self._cut = cut
        longest_first = sorted(added, key=len, reverse=True)
        self._added = re.compile("(" + "|".join(map(re.escape, longest_first)) + ")") if added else None
        self._words = _Words(self._merge)
        self._ids = {content: (id,) for content, id in added.items()}
        self._bytes = {chr(byte): character for byte, character in _alphabet().items()}

    @classmethod
    def of(cls, tokenizer: Any) -> AsciiBPE | None:
        """Return an encoder for a tokenizer that splits and merges in this way; None for any other.

        Args:
            tokenizer: a fast tokenizer of transformers.
        """
        backend = tokenizer.backend_tokenizer
        layout = json.loads(backend.to_str())
        model = layout["model"]
        plain = ("dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback")
        if model["type"] != "BPE" or any(model.get(key) for key in plain):
            return None
        if layout["normalizer"] not in (None, {"type": "NFC"}):  # ASCII text is in that form already
            return None
        for token in layout["added_tokens"]:
            if token["single_word"] or token["lstrip"] or token["rstrip"] or not token["content"].isascii():
                return None
        cut = _cut_of(layout["pre_tokenizer"])
        if cut is None:
            return None
        found = cls(tokenizer, cut)
        contents = [token["content"] for token in layout["added_tokens"]]
        probe = PROBE + "".join(f"{content}a {content}\n" for content in contents[:20])
        # Whatever the layout says: what doesn't encode a hard text alike is not used.
        return found if found.encode(probe) == backend.encode(probe, add_special_tokens=False).ids else None

    def encode(self, text: str) -> list[int] | None:
        """Return the token ids of a text, without special tokens that the text doesn't spell out.

        None when the text is not ASCII, or the regular expression leaves some of it over.
        """
        if not text.isascii():
            return None
        words = self._words
        if len(words) > REMEMBERED_WORDS:
            words.clear()
        ids: list[int] = []
        pieces = self._added.split(text) if self._added else [text]
        for number, piece in enumerate(pieces):
            if number % 2:
                ids.extend(self._ids[piece])
            else:
                cut = self._cut(piece)
                if sum(map(len, cut)) != len(piece):
                    return None
                ids.extend(itertools.chain.from_iterable(map(words.__getitem__, cut)))
        return ids

    def _merge(self, word: str) -> tuple[int, ...]:
        return tuple(token.id for token in self._model.tokenize("".join(map(self._bytes.__getitem__, word))))


class _Words(dict[str, tuple[int, ...]]):
    def __init__(self, merge: Any) -> None:
        super().__init__()
        self._merge = merge

    def __missing__(self, word: str) -> tuple[int, ...]:
        found: tuple[int, ...] = self._merge(word)
        if len(word) < LONG_WORD:
            self[word] = found
        return found


def _cut_of(pre_tokenizer: Any) -> Callable[[str], list[str]] | None:
    """Return a function that splits ASCII text into words as a pre-tokenizer does; None for an unknown one."""
    steps = pre_tokenizer["pretokenizers"] if pre_tokenizer and pre_tokenizer["type"] == "Sequence" else [pre_tokenizer]
    if not steps[-1] or steps[-1]["type"] != "ByteLevel" or steps[-1]["add_prefix_space"]:
        return None
    digits = len(steps) == 2 and steps[0]["type"] == "Digits" and steps[0]["individual_digits"]
    if (len(steps) == 1 or digits) and steps[-1]["use_regex"]:
        pattern = GPT2
    elif len(steps) == 2 and not steps[1]["use_regex"] and steps[0]["type"] == "Split":
        split = steps[0]
        if split["behavior"] != "Isolated" or split["invert"] or "Regex" not in split["pattern"]:
            return None
        pattern = split["pattern"]["Regex"]
    else:
        return None
    pattern = re.sub(
        r"\[[^\]]*\]", lambda found: found[0].replace(r"\p{L}", "A-Za-z").replace(r"\p{N}", "0-9"), pattern
    )
    pattern = pattern.replace(r"\p{L}", "[A-Za-z]").replace(r"\p{N}", "[0-9]")
    # A group would make findall return the group; a class that is left, or a possessive one, is beyond this.
    if re.search(r"\\[pPxuRXhHvVK]|\((?!\?)|\(\?P", pattern):
        return None
    try:
        cut = re.compile(pattern, re.ASCII).findall
    except re.error:
        return None
    if not digits:
        return cut
    alone = re.compile("([0-9])").split

    def cut_digits_first(text: str) -> list[str]:
        parts = enumerate(alone(text))
        return [word for at, part in parts for word in ((part,) if at % 2 else cut(part))]

    return cut_digits_first


def _alphabet() -> dict[int, str]:
    """Return the printable character that stands for each byte (Radford et al. 2019, GPT-2's `bytes_to_unicode`)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + at) for at, byte in enumerate(others)}
