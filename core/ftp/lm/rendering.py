"""Render examples to tokens and the mask of trained ones, the same way for training, evaluation and generation.

The mask comes from the rendered text and the tokenizer's offsets, never from `{% generation %}` marks, which most
chat templates lack.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ftp.errors import ModelError
from ftp.lm.byte_level import ByteLevel
from ftp.types import Example, Message

DEFAULT_CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '### ' + message['role'].capitalize() + ':\\n' + message['content'] }}"
    "{{ eos_token if message['role'] == 'assistant' else '' }}"
    "{{ '' if loop.last and message['role'] == 'assistant' else '\\n\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '### Assistant:\\n' }}{% endif %}"
)
"""For models without one; a plain layout that needs no special token except the end of sequence."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """A rendered example."""

    input_ids: list[int]
    trained: list[bool]
    """Whether a token carries loss; as long as `input_ids`."""

    @property
    def labels(self) -> list[int]:
        """Return `input_ids` with -100 where no loss is taken; models shift them by themselves."""
        return [id if on else -100 for id, on in zip(self.input_ids, self.trained, strict=True)]


def render(tokenizer: Any, messages: Sequence[Message], answer_next: bool, tools: str = "") -> str:
    """Render messages with the chat template.

    Args:
        tokenizer: one with a chat template.
        answer_next: end where the assistant begins to speak, as for generation.
        tools: the tools that the assistant may call, as the JSON text of a list of schemas; empty for none.

    Raises:
        ModelError: the template refuses these messages (many allow no system turn, or need user and assistant in turn).
    """
    return _render_all(tokenizer, [(messages, tools)], answer_next)[0]


def _render_all(tokenizer: Any, rows: Sequence[tuple[Sequence[Message], str]], answer_next: bool) -> list[str]:
    """Render the messages of many rows with the chat template; those with the same tools are rendered together."""
    import jinja2

    texts: list[Any] = [None] * len(rows)
    batches: dict[str, list[int]] = {}
    for at, (_, tools_text) in enumerate(rows):
        batches.setdefault(tools_text, []).append(at)
    for tools_text, batch in batches.items():
        tools = json.loads(tools_text) if tools_text else None
        turns = [[_turn(message) for message in rows[at][0]] for at in batch]
        _check_writes(tokenizer, tools, any("tool_calls" in turn for row in turns for turn in row))
        try:
            found = tokenizer.apply_chat_template(turns, tools=tools, tokenize=False, add_generation_prompt=answer_next)
        except (jinja2.TemplateError, TypeError) as error:  # a template may stumble over what it doesn't know
            if len(batch) > 1:  # once more, to name the row
                found = [_render_all(tokenizer, [rows[at]], answer_next)[0] for at in batch]
            else:
                roles = ", ".join(message.role for message in rows[batch[0]][0])
                raise ModelError(f"the chat template refuses the turns {roles}: {error}") from None
        for at, text in zip(batch, found, strict=True):
            texts[at] = text
    return texts


def _check_writes(tokenizer: Any, tools: Any, has_calls: bool) -> None:
    """Refuse tools and calls that the chat template would leave out; many templates support none."""
    if not tools and not has_calls:
        return
    template = tokenizer.get_chat_template(tools=tools)
    if has_calls and "tool_calls" not in template:
        raise ModelError(
            "the rows have tool calls and the chat template leaves them out; set `chat_template:` on the model to one "
            "that writes `tool_calls`"
        )
    if tools and "tools" not in template:
        raise ModelError(
            "the rows have tools and the chat template leaves them out; set `chat_template:` on the model to one that "
            "writes `tools`, or leave the column out: `tools: null` on the format"
        )


def _turn(message: Message) -> dict[str, Any]:
    turn: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.tool_calls:
        turn["tool_calls"] = json.loads(message.tool_calls)
    if message.name:
        turn["name"] = message.name
    if message.tool_call_id:
        turn["tool_call_id"] = message.tool_call_id
    return turn


def stop_ids(tokenizer: Any, configured: int | Sequence[int] | None) -> tuple[int, ...]:
    """Return the ids of the tokens that end an answer, in ascending order.

    Args:
        tokenizer: its end of sequence is one of them.
        configured: `eos_token_id` of the model's generation config.
    """
    stops = {tokenizer.eos_token_id}
    stops.update(configured if isinstance(configured, Sequence) else [configured])
    return tuple(sorted(stop for stop in stops if stop is not None))


@dataclass(frozen=True, slots=True)
class Rendered:
    """An example as text, before it is tokenised."""

    text: str
    answers: list[tuple[int, int]]
    """Character ranges that carry loss: assistant turns with what ends them."""
    is_chat: bool
    """Whether a chat template wrote the text, special tokens included."""
    ends: bool = True
    """Whether the last of the ranges is the last turn."""


def rendered(tokenizer: Any, examples: Sequence[Example], loss_on: str = "answers") -> list[Rendered]:
    """Render a batch of examples as text and find the answers in it.

    Args:
        tokenizer: one with a chat template; running text needs none.
        loss_on: `answers` takes loss on every assistant turn that the data doesn't exclude, with the token that ends
            it; `all` on every token.

    Running text carries loss on every token, the end of sequence included.

    Raises:
        ModelError: the template refuses a row's messages, or renders an answer otherwise than the prompt before it.
    """
    chats = [at for at, example in enumerate(examples) if example.messages]
    wholes = dict(
        zip(
            chats,
            _render_all(tokenizer, [(examples[i].messages, examples[i].tools) for i in chats], False),
            strict=True,
        )
    )
    # For each assistant turn the text up to where it begins, and, when it isn't the last turn, up to where it ends.
    turns = [
        (at, index)
        for at in chats
        for index, message in enumerate(examples[at].messages)
        if loss_on != "all"
        and message.role == "assistant"
        and (message.train or index == len(examples[at].messages) - 1)
    ]
    begin = _render_all(tokenizer, [(examples[at].messages[:i], examples[at].tools) for at, i in turns], True)
    inner = [(at, i) for at, i in turns if i < len(examples[at].messages) - 1]
    ends = dict(
        zip(
            inner,
            _render_all(tokenizer, [(examples[at].messages[: i + 1], examples[at].tools) for at, i in inner], False),
            strict=True,
        )
    )
    spans: dict[int, list[tuple[int, int]]] = {at: [] for at in chats}
    for (at, index), before in zip(turns, begin, strict=True):
        whole = wholes[at]
        upto = ends.get((at, index), whole)
        if whole.startswith(before) and whole.startswith(upto):
            if examples[at].messages[index].train:
                spans[at].append((len(before), len(upto)))
        elif (at, index) not in ends:
            raise ModelError(
                f"{examples[at].id}: the chat template renders the answer differently from the prompt that asks for "
                "it, so what training sees is not what generation sees; set `chat_template:` on the model"
            )
        # An earlier turn that the template rewrites (some drop past reasoning) is context and not trained.
    found = []
    for at, example in enumerate(examples):
        if example.messages:
            text = wholes[at]
            parts = [(0, len(text))] if loss_on == "all" else spans[at]
            found.append(Rendered(text, parts, True, loss_on == "all" or example.messages[-1].train))
        else:
            found.append(Rendered(example.text, [(0, len(example.text))], False))
    return found


def encode(tokenizer: Any, examples: Sequence[Example], stops: Sequence[int], loss_on: str = "answers") -> list[Tokens]:
    """Render and tokenise a batch of examples.

    Args:
        tokenizer: a fast tokenizer.
        stops: from `stop_ids`; the last answer always ends in one of them, and it is trained.
        loss_on: see `rendered`.

    Raises:
        ModelError: as `rendered` does.
    """
    rows = encode_texts(tokenizer, rendered(tokenizer, examples, loss_on), stops)
    return [
        Tokens(ids, [any(start <= at < end for start, end in spans) for at in range(len(ids))]) for ids, spans in rows
    ]


def encode_texts(
    tokenizer: Any, texts: Sequence[Rendered], stops: Sequence[int], fast: ByteLevel | None = None
) -> list[tuple[list[int], list[tuple[int, int]]]]:
    """Tokenise rendered examples.

    Args:
        tokenizer: a fast tokenizer.
        stops: from `stop_ids`.
        fast: encodes chat texts where it can, the tokenizer the others.

    Returns:
        For each its token ids, and the ranges of tokens, [start, end), that carry loss.
    """
    backend = tokenizer.backend_tokenizer
    # A tokenizer file may come with these switched on, and rows would be cut or padded in silence.
    backend.no_truncation()
    backend.no_padding()
    encoded: list[Any] = [None] * len(texts)
    # A chat template writes the special tokens itself; the tokenizer would add a second BOS.
    for is_chat in (True, False):
        rows = [row for row, text in enumerate(texts) if text.is_chat is is_chat]
        found: list[Any] = [None] * len(rows)
        if is_chat and fast is not None:
            found = list(fast.encode([texts[row].text for row in rows], [texts[row].answers for row in rows]))
        slow = [at for at in range(len(rows)) if found[at] is None]
        if slow:
            batch = backend.encode_batch([texts[rows[at]].text for at in slow], add_special_tokens=not is_chat)
            for at, encoding in zip(slow, batch, strict=True):
                found[at] = encoding.ids, _answer_tokens(encoding, texts[rows[at]])
        for row, (ids, ranges) in zip(rows, found, strict=True):
            encoded[row] = _spans(ids, ranges, texts[row], stops, tokenizer.eos_token_id)
    return encoded


def _answer_tokens(encoding: Any, row: Rendered) -> list[tuple[int, int]]:
    """Return the ranges of tokens that touch the answers, by the tokenizer's offsets."""
    ranges = []
    for start, end in row.answers:
        first, after = _first_token(encoding, start, len(row.text)), _first_token(encoding, end, len(row.text))
        while after < len(encoding) and encoding.token_to_chars(after) and encoding.token_to_chars(after)[0] < end:
            after += 1  # a token that reaches over the end of the answer belongs to it
        ranges.append((first, after))
    return ranges


def _spans(
    ids: list[int], ranges: Sequence[tuple[int, int]], row: Rendered, stops: Sequence[int], eos: int
) -> tuple[list[int], list[tuple[int, int]]]:
    spans: list[tuple[int, int]] = []
    ended = False
    for first, after in ranges:
        # A turn ends with its last stop token; a line break after it is not part of the answer.
        stop = next((at for at in range(after - 1, first - 1, -1) if ids[at] in stops), None) if row.is_chat else None
        spans.append((first, after if stop is None else stop + 1))
        ended = stop is not None
    if row.is_chat and not row.ends:
        return ids, spans
    if not row.is_chat and ids[-1:] == [eos]:
        spans = [(spans[0][0], len(ids))]
    elif not ended:
        ids.append(eos)
        spans.append((len(ids) - 1, len(ids)))
    return ids, spans


def _first_token(encoding: Any, character: int, length: int) -> int:
    """Return the first token that covers a character or one behind it; the number of tokens when there is none."""
    for at in range(character, length):
        token = encoding.char_to_token(at)
        if token is not None:
            return int(token)
    return len(encoding.ids)
