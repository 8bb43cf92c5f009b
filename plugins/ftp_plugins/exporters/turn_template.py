"""Chat templates as text around each turn, for programs that have no Jinja."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import ftp
from ftp.lm.rendering import render

SYSTEM, USER, ANSWER, NEXT = "SYSTEMTEXT", "USERTEXT", "ANSWERTEXT", "NEXTTEXT"
"""Words that no template has, to see what it puts around them."""


@dataclass(frozen=True, slots=True)
class TurnTemplate:
    """What is written before and after the text of a turn, by role."""

    start: str
    """Before a first turn that isn't the system's."""
    around: dict[str, tuple[str, str]]
    answer: str
    """Where the assistant is to speak."""

    def write(self, messages: Sequence[ftp.Message]) -> str:
        """Write turns as a prompt for an answer.

        Raises:
            ModelError: the template has no turns of this kind.
        """
        text = "" if messages and messages[0].role == "system" else self.start
        for message in messages:
            if message.role not in self.around or message.tool_calls:
                raise ftp.ModelError(f"the Modelfile's template has no turns of '{message.role}' with tools")
            before, after = self.around[message.role]
            text += before + message.content + after
        return text + self.answer

    def without_bos(self, bos: str) -> TurnTemplate:
        """Return the template without the token that begins a text, for programs that add it by themselves."""
        around = {
            role: (before.removeprefix(bos) if role == "system" else before, after)
            for role, (before, after) in self.around.items()
        }
        return TurnTemplate(self.start.removeprefix(bos), around, self.answer)

    def in_go(self) -> str:
        """Return the template in the language of Ollama's Modelfiles."""

        def literal(text: str) -> str:
            return f"{{{{ {_in_go_quotes(text)} }}}}" if text else ""

        start = f'{{{{ if ne (index .Messages 0).Role "system" }}}}{literal(self.start)}{{{{ end }}}}'
        turns = ""
        for number, (role, (before, after)) in enumerate(self.around.items()):
            test = f'{{{{ {"else if" if number else "if"} eq .Role "{role}" }}}}'
            turns += f"{test}{literal(before)}{{{{ .Content }}}}{literal(after)}"
        loop = f"{{{{ range .Messages }}}}{turns}{{{{ end }}}}{{{{ end }}}}"
        return f"{start if self.start else ''}{loop}{literal(self.answer)}"


def _in_go_quotes(text: str) -> str:
    """Return a text as a string of Go; what isn't printable as an escape, since Ollama's parser would drop it."""
    quoted = json.dumps(text, ensure_ascii=False)
    return "".join(letter if letter.isprintable() else f"\\U{ord(letter):08x}" for letter in quoted)


def turn_template(tokenizer: Any) -> TurnTemplate:
    """Find what a tokenizer's chat template writes around turns, and check that it is no more than that.

    Raises:
        ModelError: it writes turns differently by their place or their text, so that this form can't hold it.
    """
    one = _text(tokenizer, [("user", USER)], ask=False)
    asked = _text(tokenizer, [("user", USER)])
    two = _text(tokenizer, [("user", USER), ("assistant", ANSWER), ("user", NEXT)], ask=False)
    parts = [_between(one, "", USER), _between(asked, USER, "")]
    parts += [_between(two, USER, ANSWER), _between(two, ANSWER, NEXT)]
    try:
        system = _text(tokenizer, [("system", SYSTEM), ("user", USER)], ask=False)
        parts.append(_between(system, SYSTEM, USER))
    except ftp.ModelError:
        system = ""  # as many templates refuse one
    if any(part is None for part in parts):
        raise _no_turns()
    first, after_user, to_answer, to_next, *to_user = [part or "" for part in parts]
    ended = _text(tokenizer, [("user", USER), ("assistant", ANSWER)], ask=False)
    before_user = to_next.removeprefix(_between(ended, ANSWER, "") or "")
    if not all(text.endswith(before_user) for text in (first, *to_user)):  # a last answer ends otherwise
        before_user = _common_end([first, to_next, *to_user])
    end_user = _between(one, USER, "") or ""
    around = {
        "user": (before_user, end_user),
        "assistant": (to_answer.removeprefix(end_user), to_next.removesuffix(before_user)),
    }
    if system:
        around = {"system": (_between(system, "", SYSTEM) or "", to_user[0].removesuffix(before_user)), **around}
    found = TurnTemplate(first.removesuffix(before_user), around, after_user.removeprefix(end_user))
    _check(tokenizer, found)
    return found


def _check(tokenizer: Any, found: TurnTemplate) -> None:
    user, answer = ("user", "Why?\n2 lines."), ("assistant", "So.")
    talks = [[user], [user, answer, user], [user, answer, user, answer, user]]
    if "system" in found.around:
        talks += [[("system", "Be brief."), *talk] for talk in talks]
    for talk in talks:
        if found.write(_messages(talk)) != _text(tokenizer, talk):
            raise _no_turns()


def _messages(talk: Sequence[tuple[str, str]]) -> list[ftp.Message]:
    return [ftp.Message(role, text) for role, text in talk]  # type: ignore[arg-type]


def _no_turns() -> ftp.ModelError:
    return ftp.ModelError(
        "the chat template writes turns differently by their place or text, which a Modelfile can't; export gguf, "
        "whose file holds the template itself"
    )


def _text(tokenizer: Any, talk: Sequence[tuple[str, str]], ask: bool = True) -> str:
    return render(tokenizer, _messages(talk), answer_next=ask)


def _between(text: str, start: str, end: str) -> str | None:
    """Return the text between two marks, each of which is there once; an empty mark is the text's beginning or end."""
    if any(mark and text.count(mark) != 1 for mark in (start, end)):
        return None
    from_here = text.index(start) + len(start) if start else 0
    to_there = text.index(end) if end else len(text)
    return text[from_here:to_there] if from_here <= to_there else None


def _common_end(texts: Sequence[str]) -> str:
    shortest = min(texts, key=len)
    size = next(
        (n for n in range(len(shortest)) if any(text[len(text) - n - 1] != shortest[-n - 1] for text in texts)),
        len(shortest),
    )
    return shortest[len(shortest) - size :]
