"""Examples to tokens and the mask of trained ones: one way for training, for evaluation and for generation.

The mask comes from the rendered text and the tokenizer's offsets, never from a `{% generation %}` mark, which most
chat templates lack.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ftp.errors import ModelError
from ftp.types import Example, Message

DEFAULT_CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '### ' + message['role'].capitalize() + ':\\n' + message['content'] }}"
    "{{ eos_token if message['role'] == 'assistant' else '' }}"
    "{{ '' if loop.last and message['role'] == 'assistant' else '\\n\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '### Assistant:\\n' }}{% endif %}"
)
"""For models that come without one; a plain layout that needs no special token but the end of sequence."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """A rendered example."""

    input_ids: list[int]
    trained: list[bool]
    """Whether a token carries loss; as long as `input_ids`."""

    @property
    def labels(self) -> list[int]:
        """`input_ids` with -100 where no loss is taken; models shift them by themselves."""
        return [id if on else -100 for id, on in zip(self.input_ids, self.trained, strict=True)]


def render(tokenizer: Any, messages: Sequence[Message], answer_next: bool) -> str:
    """The chat template's text; with `answer_next` up to where the assistant begins to speak.

    Raises:
        ModelError: the template refuses these messages (many allow no system turn, or need user and assistant in turn).
    """
    import jinja2

    turns = [{"role": message.role, "content": message.content} for message in messages]
    try:
        return str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=answer_next))
    except jinja2.TemplateError as error:
        roles = ", ".join(message.role for message in messages)
        raise ModelError(f"the chat template refuses the turns {roles}: {error}") from None


def stop_ids(tokenizer: Any, model: Any) -> list[int]:
    """The tokens that end an answer: the tokenizer's end of sequence and those of the generation config."""
    stops = {tokenizer.eos_token_id}
    configured = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    stops.update(configured if isinstance(configured, list) else [configured])
    return sorted(stop for stop in stops if stop is not None)


def encode(tokenizer: Any, examples: Sequence[Example], stops: Sequence[int], loss_on: str = "answers") -> list[Tokens]:
    """Render and tokenise a batch of examples.

    Args:
        tokenizer: a fast tokenizer.
        stops: from `stop_ids`; the last answer always ends in one of them, and it is trained.
        loss_on: `answers` takes loss on every assistant turn with the token that ends it, `all` on every token.

    Running text carries loss on every token, the end of sequence included.
    """
    texts: list[str] = []
    spans: list[list[tuple[int, int]]] = []
    for example in examples:
        if example.kind == "text":
            text = example.text
            spans.append([(0, len(text))])
        else:
            text, turns = _answer_spans(tokenizer, example)
            spans.append([(0, len(text))] if loss_on == "all" else turns)
        texts.append(text)
    # A chat template writes the special tokens itself; the tokenizer would add a second BOS.
    chat = [example.kind == "conversation" for example in examples]
    encoded: list[Any] = [None] * len(examples)
    for is_chat in (True, False):
        rows = [row for row, of in enumerate(chat) if of is is_chat]
        if rows:
            batch = tokenizer(
                [texts[row] for row in rows],
                add_special_tokens=not is_chat,
                return_offsets_mapping=True,
                return_attention_mask=False,
            )
            for row, ids, offsets in zip(rows, batch["input_ids"], batch["offset_mapping"], strict=True):
                encoded[row] = _mask(list(ids), offsets, spans[row], stops, tokenizer.eos_token_id, is_chat)
    return encoded


def _answer_spans(tokenizer: Any, example: Example) -> tuple[str, list[tuple[int, int]]]:
    """The rendered conversation and the character range of each assistant turn in it."""
    whole = render(tokenizer, example.messages, answer_next=False)
    spans: list[tuple[int, int]] = []
    for index, message in enumerate(example.messages):
        if message.role != "assistant":
            continue
        before = render(tokenizer, example.messages[:index], answer_next=True)
        last = index == len(example.messages) - 1
        upto = whole if last else render(tokenizer, example.messages[: index + 1], answer_next=False)
        if whole.startswith(before) and whole.startswith(upto):
            spans.append((len(before), len(upto)))
        elif last:
            raise ModelError(
                f"{example.id}: the chat template renders the answer differently from the prompt that asks for it, so "
                "what training sees is not what generation sees; set `chat_template:` on the model"
            )
        # An earlier turn that the template rewrites (some drop past reasoning) is context and not trained.
    return whole, spans


def _mask(
    ids: list[int],
    offsets: Sequence[tuple[int, int]],
    spans: Sequence[tuple[int, int]],
    stops: Sequence[int],
    eos: int,
    is_chat: bool,
) -> Tokens:
    trained = [False] * len(ids)
    ended = False
    for start, end in spans:
        inside = [at for at, (left, right) in enumerate(offsets) if left < end and right > start]
        # A turn ends with its last stop token; the line break that a template puts behind it is no part of the answer.
        stop = max((at for at in inside if is_chat and ids[at] in stops), default=None)
        for at in inside:
            trained[at] = stop is None or at <= stop
        ended = stop is not None
    if not is_chat and ids[-1:] == [eos]:
        trained[-1] = True
    elif not ended:
        ids.append(eos)
        trained.append(True)
    return Tokens(ids, trained)
