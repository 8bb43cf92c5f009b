"""Render examples to tokens and the mask of trained ones, the same way for training, evaluation and generation.

The mask comes from the rendered text and the tokenizer's offsets, never from `{% generation %}` marks, which most
chat templates lack.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ftp.errors import ModelError
from ftp.lm.byte_level import ByteLevel
from ftp.lm.chat_template import Turns, write_out
from ftp.lm.control_tokens import ControlTokens, control_tokens, texts_of
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
    """Render messages with the chat template, for people to read; `prompt_ids` returns what a model reads.

    Args:
        tokenizer: one with a chat template.
        answer_next: end where the assistant begins to speak, as for generation.
        tools: the tools that the assistant may call, as the JSON text of a list of schemas; empty for none.

    Raises:
        ModelError: the template refuses these messages (many allow no system turn, or need user and assistant in turn).
    """
    return write_out(tokenizer, [Turns(messages, tools)], answer_next)[0]


def prompt_ids(tokenizer: Any, example: Example) -> list[int]:
    """Return the token ids that ask for the answer of an example, as training has them before that answer.

    Args:
        tokenizer: a fast tokenizer with a chat template.

    Raises:
        ModelError: as `rendered` does.
    """
    controls = control_tokens(tokenizer)
    twin = twin_for(tokenizer, example, controls)
    turns = Turns(example.prompt, example.tools, controls if twin else None)
    [text] = write_out(tokenizer, [turns], True)
    if twin is None:
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])
    return list(twin.encode(text, add_special_tokens=False).ids)


def twin_for(tokenizer: Any, example: Example, controls: ControlTokens) -> Any:
    """Return the twin tokenizer where a row's text spells out control tokens that are to stay text, else None.

    Raises:
        ModelError: this tokenizer can't keep them as text.
    """
    if example.control_tokens == "allow":
        return None
    texts = texts_of(example.messages, example.tools) if example.messages else [_open_end(tokenizer, example.text)]
    spelled = controls.spelled_in(*texts)
    if not spelled:
        return None
    if example.control_tokens == "refuse" or controls.twin is None or controls.forged_in(*texts):
        why = "" if example.control_tokens == "refuse" else " and can't keep as text"
        raise ModelError(
            f"{example.id}: its text holds {', '.join(map(repr, spelled))}, which this tokenizer reads as control "
            f"tokens{why}; take them out, or set `control_tokens: allow` on the source"
        )
    return controls.twin


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
    twin: Any = None
    """The tokenizer to encode it with where the row's own text spells out control tokens; see `control_tokens`."""


def rendered(tokenizer: Any, examples: Sequence[Example], loss_on: str = "answers") -> list[Rendered]:
    """Render a batch of examples as text and find the answers in it.

    Args:
        tokenizer: one with a chat template; running text needs none.
        loss_on: `answers` takes loss on every assistant turn that the data doesn't exclude, with the token that ends
            it; `all` on every token.

    Running text carries loss on every token, the end of sequence included.

    Raises:
        ModelError: the template refuses a row's messages, or renders an answer otherwise than the prompt before it; or
            a row's text spells out a control token that this tokenizer can't keep as text.
    """
    controls = control_tokens(tokenizer)
    twins = [twin_for(tokenizer, example, controls) for example in examples]
    chats = [at for at, example in enumerate(examples) if example.messages]

    def written(parts: Sequence[tuple[int, int]], answer_next: bool) -> dict[tuple[int, int], str]:
        """Render the first `n` messages of rows `i`; the keys are (i, n)."""
        rows = [Turns(examples[i].messages[:n], examples[i].tools, controls if twins[i] else None) for i, n in parts]
        return dict(zip(parts, write_out(tokenizer, rows, answer_next), strict=True))

    wholes = written([(at, len(examples[at].messages)) for at in chats], False)
    answers = [(at, turn) for at in chats for turn in _answers(examples[at])] if loss_on != "all" else []
    # For each answer the text up to where it begins, and the text up to where it ends.
    begins = written(answers, True)
    ends = written([(at, turn + 1) for at, turn in answers if turn < len(examples[at].messages) - 1], False) | wholes
    spans: dict[int, list[tuple[int, int]]] = {at: [] for at in chats}
    for at, turn in answers:
        messages = examples[at].messages
        before, upto, whole = begins[at, turn], ends[at, turn + 1], wholes[at, len(messages)]
        if whole.startswith(before) and whole.startswith(upto):
            if messages[turn].train:
                spans[at].append((len(before), len(upto)))
        elif turn == len(messages) - 1:
            raise ModelError(
                f"{examples[at].id}: the chat template renders the answer differently from the prompt that asks for "
                "it, so what training sees is not what generation sees; set `chat_template:` on the model"
            )
        # An earlier turn that the template rewrites (some drop past reasoning) is context and not trained.
    found = []
    for at, (example, twin) in enumerate(zip(examples, twins, strict=True)):
        if example.messages:
            text = wholes[at, len(example.messages)]
            parts = [(0, len(text))] if loss_on == "all" else spans[at]
            found.append(Rendered(text, parts, True, loss_on == "all" or example.messages[-1].train, twin))
        else:
            text = example.text if twin is None else _open_end(tokenizer, example.text)
            found.append(Rendered(text, [(0, len(text))], False, twin=twin))
    return found


def _open_end(tokenizer: Any, text: str) -> str:
    """Return running text without the end-of-sequence token with which it may end: every row gets one."""
    return text.removesuffix(tokenizer.eos_token)


def _answers(example: Example) -> list[int]:
    """Return which turns are answers to learn or, as the last one, to compare with the prompt that asks for it."""
    last = len(example.messages) - 1
    return [
        turn
        for turn, message in enumerate(example.messages)
        if message.role == "assistant" and (message.train or turn == last)
    ]


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
    groups: dict[tuple[bool, Any], list[int]] = {}
    for row, text in enumerate(texts):
        groups.setdefault((text.is_chat, text.twin), []).append(row)
    for (is_chat, twin), rows in groups.items():
        found: list[Any] = [None] * len(rows)
        if is_chat and twin is None and fast is not None:
            found = list(fast.encode([texts[row].text for row in rows], [texts[row].answers for row in rows]))
        slow = [at for at in range(len(rows)) if found[at] is None]
        if slow:
            # A chat template writes the special tokens itself; the tokenizer would add a second BOS.
            batch = (twin or backend).encode_batch(
                [texts[rows[at]].text for at in slow], add_special_tokens=not is_chat
            )
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
