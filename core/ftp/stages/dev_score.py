"""An evaluator's score of a model in training, for choosing the best state."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from itertools import islice

from ftp.components import Engine, EngineWork, Evaluator
from ftp.errors import ModelError
from ftp.lm.rendering import encode, stop_ids
from ftp.records.answers import repeated
from ftp.stages.ask import answered
from ftp.stages.evaluate import evaluated
from ftp.types import Answer, EvalView, Example, LoadedModel, TokenLoss


class DevScore:
    """`score(metric, rows)` for `ftp.TrainingJob`.

    The first call comes before the first step, so it evaluates the base model; an evaluator that compares two models
    gets those answers as the base's.
    """

    def __init__(
        self,
        evaluators: Sequence[Evaluator],
        engine: Engine | None,
        loaded: LoadedModel,
        validation: Sequence[Example],
        note: Callable[[str], object] = lambda text: None,
    ) -> None:
        said: set[str] = set()

        def once(text: str) -> None:
            if text not in said:  # a reason holds at every validation
                said.add(text)
                note(text)

        # One on its own has data of its own; another of the same name may score validation rows.
        self.evaluators = {e.used_as: e for e in evaluators if not e.on_its_own}
        self.engine = engine and engine.at_work(EngineWork(loaded, who="tuned", evals="validation", note=once))
        self.loaded = loaded
        self.validation = validation
        self.base: tuple[list[Answer], list[TokenLoss]] | None = None

    @cached_property
    def stops(self) -> tuple[int, ...]:
        return stop_ids(self.loaded.tokenizer, self.loaded.model.generation_config.eos_token_id)

    def __call__(self, metric: str, rows: int) -> float:
        """Score the model in its current state on its answers to the first `rows` validation rows. Higher is better.

        Raises:
            ModelError: the evaluator has no such metric.
        """
        from ftp.lm.torch_losses import token_losses

        name, _, wanted = metric.partition(".")
        examples = list(islice(self.validation, rows))
        said = answered(self.engine, examples) if self.engine and self.evaluators[name].reads_answers else []
        losses = token_losses(self.loaded, encode(self.loaded.tokenizer, examples, self.stops))
        samples = max(1, len(said) // max(1, len(examples)))
        examples, now = repeated(examples, samples), (said, repeated(losses, samples))
        self.base = self.base or now
        view = EvalView("validation", examples, self.base[0], now[0], self.base[1], now[1], samples=samples)
        evaluation = evaluated(self.evaluators[name], view)
        found = {m.name: m for m in evaluation.metrics}
        if wanted and wanted not in found:
            raise ModelError(f"the evaluator '{name}' gives no metric '{wanted}'; it gives {', '.join(found)}")
        chosen = found[wanted] if wanted else evaluation.metrics[0]
        return chosen.tuned if chosen.higher_is_better else -chosen.tuned
