"""Control tokens whose spelling stands in the text of a row.

A chat template begins and ends turns with control tokens such as `<|im_end|>`, and a tokenizer reads that spelling as
the token wherever it stands. Text of a data set could so end a turn, or begin one in another role. Here the spelling in
a row's own text stays text, and only what the template writes becomes a control token.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from functools import cached_property, lru_cache
from typing import Any

from ftp.errors import ModelError
from ftp.lm.template_limits import limited
from ftp.types import Message

MARK = "\U000f8000"
"""Put into a spelling so that it is told from the tokens that a template writes; a private-use character."""
FIRST_PRIVATE = 0xF0000
"""Private-use characters from here on take the place of the first character of a control token."""


class ControlTokens:
    """The control tokens of a tokenizer, and a twin of it in which text can't spell them.

    In the twin each control token has a name with a private-use character in place of its first one, so the name is as
    long as the token and offsets stay right.

    Args:
        tokenizer: a fast tokenizer of transformers.
        names: the control tokens.
    """

    def __init__(self, tokenizer: Any, names: tuple[str, ...]) -> None:
        self._backend, self._unknown = tokenizer.backend_tokenizer, tokenizer.unk_token_id
        self.names = names
        longest_first = sorted(names, key=len, reverse=True)
        self._spelled = re.compile("|".join(map(re.escape, longest_first))) if names else None
        self._private = {name: chr(FIRST_PRIVATE + number) + name[1:] for number, name in enumerate(names)}
        self._forged = re.compile(f"[{MARK}{chr(FIRST_PRIVATE)}-{chr(FIRST_PRIVATE + len(names))}]")

    def spelled_in(self, *texts: str) -> list[str]:
        """Return the control tokens that some texts spell out, each once."""
        if self._spelled is None:
            return []
        return list(dict.fromkeys(name for text in texts for name in self._spelled.findall(text)))

    def forged_in(self, *texts: str) -> bool:
        """Return whether texts hold characters that stand for control tokens here; no twin could tell them apart."""
        return any(self._forged.search(text) for text in texts)

    def marked(self, value: Any) -> Any:
        """Return a text, or the texts in a JSON value, with every spelling of a control token broken by `MARK`."""
        if isinstance(value, str):
            return self._spelled.sub(lambda found: found[0][0] + MARK + found[0][1:], value) if self._spelled else value
        if isinstance(value, dict):
            return {self.marked(key): self.marked(item) for key, item in value.items()}
        return [self.marked(item) for item in value] if isinstance(value, list) else value

    def for_twin(self, text: str) -> str:
        """Return a rendered text in the spelling of the twin: the template's tokens by their private names."""
        if self._spelled is not None:
            text = self._spelled.sub(lambda found: self._private[found[0]], text)
        return text.replace(MARK, "")

    def for_people(self, text: str) -> str:
        """Return a text of `for_twin` with the tokens spelled as usual."""
        for name, private in self._private.items():
            text = text.replace(private, name)
        return text

    @cached_property
    def twin(self) -> Any:
        """The twin as a `tokenizers.Tokenizer`; None where this tokenizer can't keep the spelling as text."""
        from tokenizers import Tokenizer

        layout = json.loads(self._backend.to_str())
        for token in layout["added_tokens"]:
            token["content"] = self._private.get(token["content"], token["content"])
        model = layout["model"]
        if isinstance(model["vocab"], dict):
            model["vocab"] = {self._private.get(piece, piece): id for piece, id in model["vocab"].items()}
        else:
            model["vocab"] = [[self._private.get(piece, piece), score] for piece, score in model["vocab"]]
        if model.get("unk_token") in self._private:
            model["unk_token"] = self._private[model["unk_token"]]
        layout["truncation"] = layout["padding"] = None
        try:
            twin = Tokenizer.from_str(json.dumps(layout))
        except Exception:  # the library raises bare Exceptions, for merges that make a control token, say
            return None
        return twin if self._agrees(twin) else None

    def _agrees(self, twin: Any) -> bool:
        """Return whether the twin has the tokenizer's ids for a template's text, and no control token in plain text."""

        def ids(backend: Any, text: str) -> list[int]:
            found: list[int] = backend.encode(text, add_special_tokens=False).ids
            return found

        # Text that the vocabulary has no piece for is unknown, and that is no spelling of the unknown token.
        controls = {self._backend.token_to_id(name) for name in self.names} - {self._unknown}
        probe = "".join(f"{name}a user's\n text, 12 {name}\n" for name in self.names)
        plain = self.marked(probe).replace(MARK, "")
        return ids(twin, self.for_twin(probe)) == ids(self._backend, probe) and not controls & {*ids(twin, plain)}


def control_tokens(tokenizer: Any) -> ControlTokens:
    """Return the control tokens of a tokenizer.

    They are its special tokens and those that the chat template writes around a user's turn, special or not (Gemma's
    `<start_of_turn>` is not).

    Args:
        tokenizer: a fast tokenizer of transformers.
    """
    added = {token.content: token.special for token in tokenizer.backend_tokenizer.get_added_tokens_decoder().values()}
    template = tokenizer.chat_template if isinstance(tokenizer.chat_template, str) else ""
    names = {name for name, special in added.items() if special} | {*tokenizer.all_special_tokens}
    if any(name in template for name in added.keys() - names):
        names |= {name for name in added if name in _user_turn(tokenizer)}
    return _of(tokenizer, tuple(sorted(names)))


@lru_cache(maxsize=4)
def _of(tokenizer: Any, names: tuple[str, ...]) -> ControlTokens:
    return ControlTokens(tokenizer, names)


def _user_turn(tokenizer: Any) -> str:
    try:
        with limited():
            return str(tokenizer.apply_chat_template([{"role": "user", "content": "text"}], tokenize=False))
    except ModelError:
        raise
    except Exception:  # it will refuse the rows as well, and name them
        return ""


def texts_of(messages: Sequence[Message], tools: str = "") -> list[str]:
    """Return every text of a conversation that a template may write out."""
    found = [text for m in messages for text in (m.content, m.name, m.tool_call_id) if text]
    # JSON can spell a character in another way.
    calls = [text for text in (*(m.tool_calls for m in messages), tools) if text]
    return found + [json.dumps(json.loads(text), ensure_ascii=False) if "\\u" in text else text for text in calls]
