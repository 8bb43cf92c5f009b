"""A judge that grades answers on a rubric."""

from __future__ import annotations

import asyncio
import functools
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, model_validator

import ftp
from ftp.stats.win_rates import correlation
from ftp_plugins.engines.calls import Asked, Calls
from ftp_plugins.engines.client import ServiceError
from ftp_plugins.judging import gold_set, prompts, reliability, rubric, verdicts
from ftp_plugins.judging.grades import Grade, all_alike, cut_note, gold_agreement, grade_metric
from ftp_plugins.judging.local import LocalModel, expected_score
from ftp_plugins.judging.options import JudgeOptions, Requests, prompt_hash
from ftp_plugins.judging.rubric import Criterion


class Judge(JudgeOptions):
    """Grades every answer on a rubric with a language model (Zheng et al. 2023, arXiv:2306.05685).

    Each answer is graded separately, in a call that doesn't reveal its model. If a reply can't be read, the judge is
    asked once more; if that fails too, the answer is unscored: its score is NaN, its example is left out of the
    means of both models, and the notes count it. As a reward it gives an answer the mean over the criteria.
    """

    rubric: Annotated[list[str | Criterion], Field(min_length=1)] | ftp.FilePath = ["accuracy", "helpfulness", "tone"]
    """The criteria for grading: accuracy, helpfulness, tone, or criteria of your own (`name`, `description`, `levels`
    from the lowest up); or a YAML file with such a list."""

    @model_validator(mode="after")
    def _criteria_are_known(self) -> Judge:
        if not isinstance(self.rubric, str):
            rubric.resolve(self.rubric)
        return self

    def files(self) -> Sequence[Path]:
        return [*super().files(), *([Path(self.rubric)] if isinstance(self.rubric, str) else [])]

    def problems(self) -> list[str]:
        found = super().problems()
        try:
            self._rubric()
        except ftp.DataError as error:
            found += [f"rubric: {problem}" for problem in error.problems]
        return found

    def check(self, examples: Sequence[ftp.Example]) -> None:
        self._gold()

    def _rubric(self) -> list[Criterion]:
        return rubric.read(self.rubric) if isinstance(self.rubric, str) else rubric.resolve(self.rubric)

    def _gold(self) -> list[gold_set.GoldScore]:
        return gold_set.read_scores(self.calibrate, len(self._rubric()[0].levels)) if self.calibrate else []

    def evaluate(self, view: ftp.EvalView) -> ftp.Evaluation:
        return asyncio.run(self._evaluate(view))

    async def _evaluate(self, view: ftp.EvalView) -> ftp.Evaluation:
        criteria, golden = self._rubric(), self._gold()
        hash = self._prompt_hash(criteria)
        async with self._open(view.directory, hash) as (calls, requests):
            work = []
            for example, base, tuned in zip(view.examples, view.base_answers, view.tuned_answers, strict=True):
                for order, answer in (("base", base), ("tuned", tuned)):
                    asked = Asked(self.used_as, view.name, example.id, order)
                    work.append(self._grade(calls, requests, criteria, asked, example, answer.text))
            for row in golden:
                asked = Asked(self.used_as, "calibrate", row.example.id, "gold")
                work.append(self._grade(calls, requests, criteria, asked, row.example, row.answer))
            grades = await calls.all(work)
        answers = 2 * len(view.examples)
        base_grades, tuned_grades = grades[:answers:2], grades[1:answers:2]
        clusters = ftp.clusters_of(view.examples)
        levels = {criterion.name: float(len(criterion.levels)) for criterion in criteria}
        if len(criteria) > 1:
            levels["overall"] = math.fsum(levels.values()) / len(levels)
        metrics = [grade_metric(name, base_grades, tuned_grades, clusters, high) for name, high in levels.items()]
        notes, panel = self._instrument(calls, hash)
        notes += self._counted(view, grades[:answers], base_grades, tuned_grades, panel)
        notes += reliability.unscored_notes(metrics[-1], panel)
        notes += all_alike(grades[:answers], panel)
        notes += self._lengths(view, base_grades, tuned_grades, clusters, panel)
        if golden:
            notes.append(gold_agreement(golden, grades[answers:], panel))
        return ftp.Evaluation(tuple(metrics), tuple(notes), n=len(view.examples), panel=panel)

    def scores(self, examples: Sequence[ftp.Example], answers: Sequence[str]) -> list[ftp.Score]:
        """Grade answers as a reward: the mean over the criteria, NaN for an answer without a verdict.

        Raises:
            ServiceError: the judge can't be asked, or `max_cost` is reached.
        """
        return asyncio.run(self._scores(examples, answers))

    async def _scores(self, examples: Sequence[ftp.Example], answers: Sequence[str]) -> list[ftp.Score]:
        criteria = self._rubric()
        caller = f"{self.used_as} as a reward"  # with a budget of its own
        hash, local = self._prompt_hash(criteria), self._local_reward if self.provider == "local" else None
        async with self._open(self.directory, hash, caller, local) as (calls, requests):
            work = [
                self._grade(calls, requests, criteria, Asked(caller, "train", example.id, "answer"), example, answer)
                for example, answer in zip(examples, answers, strict=True)
            ]
            grades = await calls.all(work)
        if calls.budget.is_over:
            raise ServiceError(
                f"{caller}: max_cost, {self.max_cost:g}, would have been exceeded, and nothing trains without rewards; "
                "raise it, or train fewer steps. What was judged so far is in the cache"
            )
        return [ftp.Score(grade.score("overall"), grade.reason("overall")) for grade in grades]

    @functools.cached_property
    def _local_reward(self) -> LocalModel:
        """A judge in this process, loaded once for the many times that a training asks it."""
        return LocalModel(self.model, self.loader)

    def _prompt_hash(self, criteria: Sequence[Criterion]) -> str:
        example = ftp.Example((ftp.Message("user", "Q"), ftp.Message("assistant", "R")))
        return prompt_hash(self._prompt(example, "A", criteria).text)

    def _prompt(self, example: ftp.Example, answer: str, criteria: Sequence[Criterion]) -> prompts.Prompt:
        return prompts.grading(
            example,
            answer,
            criteria,
            reference=self.reference,
            limit=self.max_answer_chars,
            reasons=self.provider != "local",
        )

    async def _grade(
        self,
        calls: Calls,
        requests: Requests,
        criteria: Sequence[Criterion],
        asked: Asked,
        example: ftp.Example,
        answer: str,
    ) -> Grade:
        if self.provider == "local":
            return await self._grade_locally(calls, requests, criteria, asked, example, answer)
        prompt = self._prompt(example, answer, criteria)
        levels = {criterion.name: len(criterion.levels) for criterion in criteria}

        def read(reply: str) -> dict[str, Any] | None:
            return verdicts.read_scores(prompts.without_quotes(reply, prompt.mark), levels)

        request = requests.chat(prompt.text, prompts.grading_schema(criteria))
        verdict, why = await calls.verdict(request, asked, read)
        return Grade(verdict["scores"], verdict["reasons"]) if verdict else Grade(None, {}, why)

    async def _grade_locally(
        self,
        calls: Calls,
        requests: Requests,
        criteria: Sequence[Criterion],
        asked: Asked,
        example: ftp.Example,
        answer: str,
    ) -> Grade:
        """Ask one question for each criterion; the next token gives the score."""
        scores: dict[str, float] = {}
        reasons: dict[str, str] = {}
        for criterion in criteria:
            name, levels = criterion.name, [str(level) for level in range(1, len(criterion.levels) + 1)]
            prompt = self._prompt(example, answer, [criterion])
            request = requests.odds(prompt.text, f'{{"{name}":', levels)
            verdict, why = await calls.verdict(request, asked, functools.partial(expected_score, name))
            if verdict is None:
                return Grade(None, {}, why)
            scores |= verdict["scores"]
            reasons |= verdict["reasons"]
        return Grade(scores, reasons)

    def _counted(
        self,
        view: ftp.EvalView,
        grades: Sequence[Grade],
        base: Sequence[Grade],
        tuned: Sequence[Grade],
        panel: dict[str, float | str],
    ) -> list[str]:
        unscored = sum(grade.scores is None for grade in grades)
        paired = sum(b.scores is not None and t.scores is not None for b, t in zip(base, tuned, strict=True))
        panel["unscored"] = unscored / len(grades) if grades else 0.0
        panel["examples scored"] = paired
        note = f"unscored: {unscored} of {len(grades)} answers ({panel['unscored']:.1%})"
        note += f"; the figures are of the {paired} of {len(base)} examples with both answers scored"
        missing = {"base": [grade.scores is None for grade in base], "tuned": [grade.scores is None for grade in tuned]}
        if flag := reliability.one_sided(missing["base"], missing["tuned"]):
            panel["refusals flag"] = flag
            note += f"; the judge {flag}"
        whys = Counter(grade.why for grade in grades if grade.scores is None)
        notes = [note + "".join(f"; {count}: {why}" for why, count in whys.most_common(5))]
        return notes + cut_note(view, self.max_answer_chars)

    def _lengths(
        self,
        view: ftp.EvalView,
        base: Sequence[Grade],
        tuned: Sequence[Grade],
        clusters: Sequence[str] | None,
        panel: dict[str, float | str],
    ) -> list[str]:
        # Both answers to one example are alike: an example is a cluster at least.
        names = clusters or [str(row) for row in range(len(base))]
        both = [
            *zip(view.base_answers, base, names, strict=True),
            *zip(view.tuned_answers, tuned, names, strict=True),
        ]
        scored = [(answer, grade, name) for answer, grade, name in both if grade.scores is not None]
        lengths, scores = [len(answer.text) for answer, _, _ in scored], [grade.overall for _, grade, _ in scored]
        found = correlation(lengths, scores, clusters=[name for _, _, name in scored])
        panel |= reliability.panel({"length correlation": found})
        if found is None:
            return ["length: too few answers, or all alike, to correlate score and length"]
        interval = f"{found.mean:+.2f} ({found.low:+.2f} to {found.high:+.2f})"
        note = f"length: Spearman correlation of score and characters {interval}"
        if flag := reliability.length_flag(found, 0.0, reliability.LENGTH_CORRELATION):
            panel["length flag"] = flag
            note += f"; the judge {flag}"
        return [note]
