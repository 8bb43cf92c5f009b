"""A judge that compares the answers of both models."""

from __future__ import annotations

import asyncio
import dataclasses
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ftp
from ftp.stats.win_rates import length_controlled_win_rate, order_consistency, win_rate
from ftp_plugins.engines.calls import Asked, Calls
from ftp_plugins.evaluators.general_instructions import INSTRUCTIONS, format_problems, read_instructions
from ftp_plugins.formatters.auto import Auto
from ftp_plugins.judging import gold_set, prompts, reliability, verdicts
from ftp_plugins.judging.grades import cut_note
from ftp_plugins.judging.local import likelier
from ftp_plugins.judging.options import JudgeOptions, Requests, prompt_hash


@dataclasses.dataclass(frozen=True, slots=True)
class Pair:
    """The winner in each order, `tuned`, `base` or `tie`; both are empty when one of them is missing."""

    first: str = ""
    second: str = ""
    reason: str = ""
    same: bool = False
    """Whether both answers are the same text: a tie, without asking the judge."""

    @property
    def score(self) -> float:
        return reliability.decided(self.first, self.second) if self.first else math.nan


class Pairwise(JudgeOptions, ftp.BringsEvals):
    """Compares the answers of both models with a language model that sees both (Zheng et al. 2023, arXiv:2306.05685).

    Every pair is judged in both orders. The tuned model gets 1 where it wins both, 0 where the base wins both, and 1/2
    otherwise: a judge that follows the order alone ends at 50%. Two answers with the same text are a tie without a
    call. If a reply can't be read, the judge is asked once more; if that fails too, the pair is unscored: NaN, left out
    of the win rate, and counted in the notes.

    With `instructions:` it compares only the answers to general instructions, to see whether the specialist is still a
    generalist. A recipe may use it twice, with and without.
    """

    instructions: ftp.FilePath | None = None
    """A data file of general instructions with answers, compared instead of the recipe's eval sets. Rows similar to
    them are kept out of training."""
    format: ftp.Formatter = Auto()
    """How a row of `instructions` becomes an example."""

    @property
    def on_its_own(self) -> bool:
        return self.instructions is not None

    def problems(self) -> list[str]:
        missing = self.instructions is not None and not Path(self.instructions).is_file()
        found = [f"instructions: {self.instructions}: no such file"] if missing else []
        return super().problems() + found + format_problems(self.instructions, self.format)

    def files(self) -> Sequence[Path]:
        return [*super().files(), *([Path(self.instructions)] if self.instructions is not None else [])]

    def own_evals(self) -> Mapping[str, Sequence[ftp.Example]]:
        if self.instructions is None:
            return {}
        return {INSTRUCTIONS: list(read_instructions(self.instructions, self.format, self.takes))}

    def check(self, examples: Sequence[ftp.Example]) -> None:
        self._gold()

    def _gold(self) -> list[gold_set.GoldPair]:
        return gold_set.read_pairs(self.calibrate) if self.calibrate else []

    def evaluate(self, view: ftp.EvalView) -> ftp.Evaluation:
        return asyncio.run(self._evaluate(view))

    async def _evaluate(self, view: ftp.EvalView) -> ftp.Evaluation:
        golden = self._gold()
        nothing = ftp.Example((ftp.Message("user", "Q"), ftp.Message("assistant", "R")))
        hash = prompt_hash(self._prompt(nothing, "A", "B").text)
        async with self._open(view.directory, hash) as (calls, requests):
            work = [
                self._compare(calls, requests, example, (base.text, tuned.text), view.name)
                for example, base, tuned in zip(view.examples, view.base_answers, view.tuned_answers, strict=True)
            ]
            work += [self._compare(calls, requests, row.example, row.answers, "calibrate") for row in golden]
            pairs = await calls.all(work)
        judged, gold_pairs = pairs[: len(view.examples)], pairs[len(view.examples) :]
        notes, panel = self._instrument(calls, hash)
        clusters = ftp.clusters_of(view.examples)
        metric = _metric(judged, clusters)
        notes += _counted(judged, clusters, panel) + reliability.unscored_notes(metric, panel)
        notes += cut_note(view, self.max_answer_chars)
        notes += _orders(judged, clusters, panel)
        differences = [len(t.text) - len(b.text) for b, t in zip(view.base_answers, view.tuned_answers, strict=True)]
        notes += _lengths(judged, differences, clusters, panel)
        if golden:
            notes.append(_agreement(golden, gold_pairs, panel))
        return ftp.Evaluation((metric,), tuple(notes), n=len(view.examples), panel=panel)

    def _prompt(self, example: ftp.Example, first: str, second: str) -> prompts.Prompt:
        return prompts.comparing(
            example,
            first,
            second,
            reference=self.reference,
            limit=self.max_answer_chars,
            reasons=self.provider != "local",
        )

    async def _compare(
        self, calls: Calls, requests: Requests, example: ftp.Example, answers: tuple[str, str], evals: str
    ) -> Pair:
        """Compare the base model's and the tuned model's answer in both orders."""
        base, tuned = answers
        if base == tuned:
            return Pair("tie", "tie", "the same answer", same=True)
        names = {"base first": ("base", "tuned"), "tuned first": ("tuned", "base")}
        texts = {"base": base, "tuned": tuned}
        winners, reasons = [], []
        for order, (first, second) in names.items():
            asked = Asked(self._caller, evals, example.id, order)
            verdict, why = await self._ask(calls, requests, example, texts[first], texts[second], asked)
            if verdict is None:
                return Pair(reason=why)
            winners.append({"A": first, "B": second}.get(verdict["winner"], "tie"))
            reasons.append(f"{order}: {winners[-1]}. {verdict['reason']}".strip())
        return Pair(winners[0], winners[1], "\n".join(reasons))

    async def _ask(
        self, calls: Calls, requests: Requests, example: ftp.Example, first: str, second: str, asked: Asked
    ) -> tuple[dict[str, Any] | None, str]:
        prompt = self._prompt(example, first, second)
        if self.provider == "local":
            return await calls.verdict(requests.odds(prompt.text, '{"winner":"', ["A", "B"]), asked, likelier)

        def read(reply: str) -> dict[str, Any] | None:
            return verdicts.read_winner(prompts.without_quotes(reply, prompt.mark))

        return await calls.verdict(requests.chat(prompt.text, prompts.comparing_schema()), asked, read)


def _metric(pairs: Sequence[Pair], clusters: Sequence[str] | None) -> ftp.Metric:
    """Return the win rate of each model; their difference is that of the shares of wins."""
    reasons = tuple(pair.reason if pair.first else f"unscored: {pair.reason}" for pair in pairs)
    return ftp.paired_metric(
        "win_rate",
        [1 - pair.score for pair in pairs],
        [pair.score for pair in pairs],
        base_reasons=reasons,
        tuned_reasons=reasons,
        clusters=clusters,
        limits=(0.0, 1.0),
    )


def _of(clusters: Sequence[str] | None, rows: Sequence[int]) -> list[str] | None:
    return None if clusters is None else [clusters[row] for row in rows]


def _counted(pairs: Sequence[Pair], clusters: Sequence[str] | None, panel: dict[str, float | str]) -> list[str]:
    scores = [pair.score for pair in pairs if pair.first]
    whys = Counter(pair.reason for pair in pairs if not pair.first)
    panel["unscored"] = 1 - len(scores) / len(pairs) if pairs else 0.0
    panel["examples scored"] = len(scores)
    found = win_rate(scores, _of(clusters, [row for row, pair in enumerate(pairs) if pair.first]))
    panel |= reliability.panel({"win rate": found})
    counts = [sum(score == value for score in scores) for value in (1, 0.5, 0)]
    note = f"unscored: {len(pairs) - len(scores)} of {len(pairs)} pairs ({panel['unscored']:.1%})"
    return [
        f"win rate of the tuned model {reliability.share(found)}: {counts[0]} won, {counts[1]} tied, {counts[2]} lost",
        note + "".join(f"; {count}: {why}" for why, count in whys.most_common(5)),
    ]


def _orders(pairs: Sequence[Pair], clusters: Sequence[str] | None, panel: dict[str, float | str]) -> list[str]:
    rows = [row for row, pair in enumerate(pairs) if pair.first and not pair.same]
    asked, theirs = [(pairs[row].first, pairs[row].second) for row in rows], _of(clusters, rows)
    found = order_consistency([one for one, _ in asked], [other for _, other in asked], theirs)
    panel |= reliability.panel({"order consistency": found})
    note = f"order consistency {reliability.share(found)}: both orders have the same winner"
    flags = reliability.order_flags(asked, theirs)
    panel |= flags
    same = sum(pair.same for pair in pairs)
    notes = [note, *(f"the judge {flag}" for flag in flags.values())]
    return notes + ([f"{same} pairs have identical answers: ties, without a call"] if same else [])


def _lengths(
    pairs: Sequence[Pair],
    differences: Sequence[int],
    clusters: Sequence[str] | None,
    panel: dict[str, float | str],
) -> list[str]:
    rows = [row for row, pair in enumerate(pairs) if pair.first]
    scores, more = [pairs[row].score for row in rows], [float(differences[row]) for row in rows]
    theirs = _of(clusters, rows)
    longer, correlated = reliability.longer_wins(scores, more, theirs), reliability.pair_correlation(more, scores)
    controlled, why = length_controlled_win_rate(scores, more, theirs)
    panel |= reliability.panel(
        {"longer answer wins": longer, "length correlation": correlated, "length-controlled win rate": controlled}
    )
    shown = f"{correlated:+.2f}" if correlated is not None else "unknown"
    note = (
        f"length: the longer answer wins {reliability.share(longer)} of the decided pairs, Spearman correlation {shown}"
    )
    if flag := reliability.length_flag(longer, 0.5, reliability.LONGER_WINS - 0.5):
        panel["length flag"] = flag
        note += f"; the judge {flag}"
    fair = reliability.share(controlled) if controlled else f"not given: {why}"
    return [note, f"length-controlled win rate: {fair}"]


def _agreement(golden: Sequence[gold_set.GoldPair], pairs: Sequence[Pair], panel: dict[str, float | str]) -> str:
    names = {"base": "1", "tuned": "2", "tie": "tie"}
    rows = [row for row, pair in enumerate(pairs) if pair.first]
    both = [(golden[row].label, (names[pairs[row].first], names[pairs[row].second])) for row in rows]
    theirs = ftp.clusters_of([golden[row].example for row in rows])
    same, kappa = reliability.agreement([label for label, _ in both], [winners for _, winners in both], theirs)
    consistent = order_consistency([one for _, (one, _) in both], [two for _, (_, two) in both], theirs)
    found = {"gold agreement": same, "gold kappa": kappa, "gold order consistency": consistent}
    panel |= reliability.panel(found)
    panel["gold unscored"] = 1 - len(both) / len(golden)
    return (
        f"gold set: agreement with people {reliability.share(same)}, the mean of both orders; Cohen's kappa "
        f"{f'{kappa:.2f}' if kappa is not None else 'unknown'}; order consistency "
        f"{reliability.share(consistent)}; {len(golden) - len(both)} of {len(golden)} unscored"
    )
