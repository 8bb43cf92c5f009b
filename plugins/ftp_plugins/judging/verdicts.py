"""Extract the verdict from a judge's reply: the last well-formed one counts, whatever precedes it."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

REASON = 1000
"""Characters kept of a reason."""
_DECODER = json.JSONDecoder()
_OBJECT = re.compile(r'\{(?=\s*["}])')
_NAME = r"(?:output|answer|response|assistant|option|completion)"
_LETTER = r"(?:\(?\b(?P<{}>[ab])\b\)?)"
_MORE = re.compile(r"[.,]\d|\s*(?:-|\u2013|to|or)\s*\d")
"""After a number: the rest of it, or the other end of a range."""
_DECORATION = r"[^\S\n]*(?:[*_`#>\"'-][^\S\n]*)*"


def read_scores(reply: str, criteria: Mapping[str, int]) -> dict[str, Any] | None:
    """Return the scores in a reply: a JSON object with all criteria, or a line such as `accuracy: 4` for each of them.

    Args:
        criteria: the highest level of each; the lowest is 1.

    Returns:
        `{"scores": {name: int}, "reasons": {name: str}}`, or None when there is no complete verdict.
    """
    found = [
        *((end, verdict) for end, value in _objects(reply) if (verdict := _scored(value, criteria)) is not None),
        *_score_lines(reply, criteria),
    ]
    return max(found, key=lambda item: item[0])[1] if found else None


def _objects(text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield every JSON object in a text that isn't part of another one, with its end position."""
    end = 0
    for brace in _OBJECT.finditer(text):
        if brace.start() >= end:  # not part of the object before it
            with contextlib.suppress(ValueError, RecursionError):
                value, end = _DECODER.raw_decode(text, brace.start())
                yield end, value


def _scored(value: Mapping[str, Any], criteria: Mapping[str, int]) -> dict[str, Any] | None:
    given = {str(key).casefold().strip(): item for key, item in value.items()}
    scores, reasons = {}, {}
    for name, highest in criteria.items():
        item: Any = given.get(name.casefold())
        reason = given.get("reason", "")
        if isinstance(item, Mapping):
            item, reason = item.get("score"), item.get("reason", "")
        score = _score(item, highest)
        if score is None:
            return None
        scores[name], reasons[name] = score, str(reason)[:REASON]
    return {"scores": scores, "reasons": reasons}


def _score(item: object, highest: int) -> int | None:
    if isinstance(item, str) and (digits := re.fullmatch(rf"\s*(\d{{1,2}})(?:\s*/\s*{highest})?\s*", item)):
        item = int(digits.group(1))
    if isinstance(item, bool) or not isinstance(item, int | float) or not 1 <= item <= highest:
        return None
    return int(item) if item == int(item) else None


def _score_lines(reply: str, criteria: Mapping[str, int]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield verdicts made of one line per criterion.

    A verdict ends with the last of its lines; one more line of a criterion begins the next.
    """
    names = {name.casefold(): name for name in criteria}
    pattern = "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True))
    line = re.compile(
        rf"^{_DECORATION}(?P<name>{pattern}){_DECORATION}[:=]{_DECORATION}(?P<score>\d{{1,2}}(?:\s*/\s*\d+)?)\b(?P<rest>.*)$",
        re.I | re.M,
    )
    scores: dict[str, int] = {}
    reasons: dict[str, str] = {}
    for match in line.finditer(reply):
        name = names[match["name"].casefold()]
        score = _score(match["score"], criteria[name])
        unclear = score is None or _MORE.match(match["rest"]) is not None
        if unclear or name in scores:
            scores, reasons = {}, {}
        if score is None or unclear:
            continue
        scores[name], reasons[name] = score, match["rest"].strip(" \t*_`.,;:()-\u2013\u2014")[:REASON]
        if len(scores) == len(criteria):
            yield match.end(), {"scores": dict(scores), "reasons": dict(reasons)}


_WINNERS = (
    # [[A]], as MT-bench asks for; C is a tie.
    re.compile(r"\[\[\s*(?P<w1>[abc]|tie)\s*\]\]", re.I),
    # Verdict: A
    re.compile(
        rf"^{_DECORATION}(?:(?:my|the|final|overall)[ \t]+)*"
        rf"(?:verdict|winner|answer|choice|judgement|judgment|decision){_DECORATION}"
        rf"(?:[:=]|\bis\b:?){_DECORATION}(?:{_NAME}\s*)?(?:{_LETTER.format('w2')}|(?P<t2>tie|draw|neither|equal)\b){_DECORATION}\.?{_DECORATION}$",
        re.I | re.M,
    ),
    # Output (a) is better; neither Output (a) nor Output (b) is better
    re.compile(
        rf"\b{_NAME}\s*{_LETTER.format('w3')}\s+is\s+(?!not?\b)(?:\w+\s+){{0,2}}?(?:better|best|winner|superior)\b",
        re.I,
    ),
    re.compile(r"(?:^|[.:!?]\s+|\*\*)(?P<w4>[AB]) is (?:the |clearly |slightly |much )*(?:better|best|winner)\b", re.M),
    # the better answer is B
    re.compile(rf"\b(?:better|best|winning)\s+{_NAME}\s+is\s+(?:{_NAME}\s*)?{_LETTER.format('w5')}", re.I),
    # It is a tie
    re.compile(r"\b(?:it is|it's|this is|i call it|end in) a (?P<t6>tie|draw)\b", re.I),
)
_ALONE = re.compile(rf"\W*(?:{_NAME}\s*)?(?:\(?(?P<w>[ab])\)?|(?P<t>tie))\W*", re.I)
_NEGATED = re.compile(r"\b(?:whether|if|unless|not|n't|why)\b", re.I)


def read_winner(reply: str) -> dict[str, Any] | None:
    """Return the winner in a reply: JSON `{"winner": "A"}`, `[[A]]`, `Verdict: A`, or `Output (a) is better`.

    Returns:
        `{"winner": "A" | "B" | "tie", "reason": str}`, or None when there is none.
    """
    alone = _ALONE.fullmatch(reply)
    if alone:
        return {"winner": (alone["w"] or "tie").upper().replace("TIE", "tie"), "reason": ""}
    found: list[tuple[int, dict[str, Any]]] = []
    for end, value in _objects(reply):
        given = {str(key).casefold().strip(): item for key, item in value.items()}
        winner = str(given.get("winner", "")).strip().casefold()
        if winner in ("a", "b", "tie"):
            verdict = {"winner": _named(winner), "reason": str(given.get("reason", ""))[:REASON]}
            found.append((end, verdict))
    for pattern in _WINNERS:
        for match in pattern.finditer(reply):
            winner = next((text for text in match.groups() if text), "")
            before = reply[max(reply.rfind(mark, 0, match.start()) for mark in ".!?\n") + 1 : match.start()]
            if re.search(r"\bneither\b", before, re.I):
                winner = "tie"
            elif _NEGATED.search(before):
                continue
            found.append((match.end(), {"winner": _named(winner), "reason": reply[:REASON].strip()}))
    return max(found, key=lambda item: item[0])[1] if found else None


def _named(winner: str) -> str:
    return winner.upper() if winner.casefold() in ("a", "b") else "tie"
