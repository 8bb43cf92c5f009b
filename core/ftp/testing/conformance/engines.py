"""What FTP relies on in an engine."""

from __future__ import annotations

from collections.abc import Sequence

from ftp.components import Engine
from ftp.testing.conformance.common import attempt, fail, pickled
from ftp.types import Answer, Example, TokenLoss


def check_engine(engine: Engine, prompts: Sequence[Example]) -> None:
    """Check that an engine answers every prompt, in order, as often as it is asked to.

    Args:
        prompts: examples to answer; without them nothing is asked, since an answer may cost money.
    """
    cls = type(engine)
    if not prompts:
        return
    options = engine.options.model_copy(update={"max_new_tokens": 8})
    found = attempt(cls, engine.answer, list(prompts), options)
    if not isinstance(found, Sequence) or not all(isinstance(answer, Answer) for answer in found):
        fail(cls, f"answer has to return a list of ftp.Answer; it returned {found!r:.200}.")
    if len(found) != len(prompts) * options.samples:
        fail(cls, f"answer returned {len(found)} answers to {len(prompts)} prompts of {options.samples} samples each.")
    turned = attempt(cls, pickled(engine).at_work(engine.work).answer, list(prompts[::-1]), options)
    if options.temperature == 0 and options.samples == 1 and [a.text for a in turned[::-1]] != [a.text for a in found]:
        fail(cls, "answer gives other answers when the prompts come in another order.")
    losses = attempt(cls, engine.losses, list(prompts)) if cls.own_model else None
    if losses is not None and (len(losses) != len(prompts) or not all(isinstance(loss, TokenLoss) for loss in losses)):
        fail(cls, "losses has to return an ftp.TokenLoss for every example, or None.")
