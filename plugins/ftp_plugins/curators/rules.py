"""Rules for a single text. Each returns its evidence, or "" if the text is fine."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence

from ftp.data.words import words

LOOP_RUN, LOOP_SHARE, LOOP_CHARACTERS = 10, 0.4, 50
"""A text loops when runs of this many words that occurred before make up more than this share, and this many
letters."""

# Rae et al. 2021 (Gopher, arXiv:2112.11446), table A1: largest shares of the characters of a text.
_GOPHER_WORDS = 50  # they take no document of fewer
_SAME_LINES = {"lines": (r"\n", 0.30, 0.20), "paragraphs": (r"\n\s*\n", 0.30, 0.20)}
_TOP_NGRAM = {2: 0.20, 3: 0.18, 4: 0.16}
_SAME_NGRAMS = {5: 0.15, 6: 0.14, 7: 0.13, 8: 0.12, 9: 0.11, 10: 0.10}


def loop(text: str) -> str:
    """Find long repeated runs of words: a model's loop, or a passage pasted in twice."""
    if len(text) < LOOP_CHARACTERS:
        return ""
    tokens = words(text)
    again = _said_again(tokens, LOOP_RUN)
    if again < LOOP_CHARACTERS or again <= LOOP_SHARE * sum(map(len, tokens)):
        return ""
    return f"{again / sum(map(len, tokens)):.0%} of the characters are in runs of {LOOP_RUN} words said before"


def gopher(text: str) -> str:
    """Find repetition by the rules for web pages of Rae et al. 2021.

    Two rules are milder than the original: lines of a single word (a closing brace, `end`) don't count, and the most
    frequent n-gram has to occur three times.
    """
    tokens = words(text)
    if len(tokens) < _GOPHER_WORDS:
        return ""
    for what, (separator, most, most_characters) in _SAME_LINES.items():
        parts = [part for part in map(str.strip, re.split(separator, text)) if len(words(part)) > 1]
        again = Counter(parts)
        again.subtract(set(again))
        share = again.total() / max(1, len(parts))
        of_characters = sum(len(part) * n for part, n in again.items()) / max(1, sum(map(len, parts)))
        if share > most or of_characters > most_characters:
            return f"duplicate {what}: {share:.0%} of them, {of_characters:.0%} of their characters"
    length = sum(map(len, tokens))
    for n, most in _TOP_NGRAM.items():
        top, count = Counter(_ngrams(tokens, n)).most_common(1)[0]
        share = min(1.0, count * sum(map(len, top)) / length)
        if count > 2 and share > most:
            return f"most frequent {n}-gram: {share:.0%} of the characters"
    for n, most in _SAME_NGRAMS.items():
        share = _said_again(tokens, n) / length
        if share > most:
            return f"duplicate {n}-grams: {share:.0%} of the characters"
        if share == 0:  # then no longer run occurs twice
            break
    return ""


def _ngrams(tokens: Sequence[str], n: int) -> list[tuple[str, ...]]:
    return list(zip(*(tokens[k:] for k in range(n)), strict=False))


def _said_again(tokens: Sequence[str], n: int) -> int:
    """Return the characters of all n-grams that occurred before, each counted once."""
    grams = _ngrams(tokens, n)
    if len(set(grams)) == len(grams):
        return 0
    seen: set[tuple[str, ...]] = set()
    characters = done = 0
    for at, gram in enumerate(grams):
        if gram in seen:
            characters += sum(map(len, tokens[max(at, done) : at + n]))
            done = at + n
        seen.add(gram)
    return characters


# --- refusals and boilerplate ----------------------------------------------------------------------------------------

# All are matched in lower case with plain apostrophes.
_CANNOT = r"(?:can't|cannot|can not|won't|am unable to|'m unable to|am not able to|'m not able to|must decline to)"
_REFUSED = (
    r"(?:assist|help)(?: you)?(?: with (?:that|this|your request|such|creating|generating|writing)\b|[.!]?$)"
    r"|(?:comply with|fulfil|fulfill|complete|process|answer|respond to|accommodate) (?:that|this|your) "
    r"(?:request|question|prompt|instruction)"
    r"|(?:provide|generate|create|write|produce|engage in|participate in|discuss|support|promote|share|offer)\b"
    r"[^.\n]{0,80}\b(?:as an ai\b|harmful|illegal|unethical|inappropriate|explicit|offensive|hateful)"
)
_REFUSAL_START = re.compile(
    rf"[\"'*\s]*(?:(?:i'm|i am)(?: very| so| truly| really)? sorry|sorry|apologies|my apologies|i apologi[sz]e|"
    rf"unfortunately)?[,.]?(?: but| however)?,?\s*(?:i\s*{_CANNOT}) (?:{_REFUSED})"
)
_AS_AN_AI = re.compile(
    r"\bas an? (?:(?:large )?(?:ai )?language model|ai (?:assistant|chatbot|model)|ai|artificial intelligence),? "
    r"(?:i|i'm|my|it(?:'s| is| would be) (?:not |in)appropriate|(?:developed|created|trained) by)\b"
    r"|\bi(?:'m| am) (?:just |only |merely )?an? (?:large )?(?:ai )?language model\b"
    r"|\bi (?:don't|do not) have personal (?:opinions|beliefs|feelings|experiences|preferences),? or "
    r"|\bas of my (?:last|latest|most recent) (?:knowledge |training )?(?:update|cut-?off)\b"
    r"|\bmy knowledge cut-?off\b"
)

_EMPTY_OPENING = re.compile(
    r"\s*(?:(?:sure|sure thing|certainly|of course|absolutely|okay|ok)[!,.]*\s+)?(?:here(?:'s| is| are)|below is)\b"
    r"[^\n]{0,100}(?::|\.\.\.|…)\s*"
)
_PLACEHOLDER = re.compile(
    r"\s*(?:<\s*no ?(?:output|response|answer)\s*/?>|\[(?:deleted|removed|redacted)\]|nooutput)\s*"
)
_LEFT_OVER = re.compile(
    r"\n\s*(?:regenerate response|stop generating|copy code|was this response better or worse\?)\s*$"
)


def _plain(text: str) -> str:
    return text.replace("\u2019", "'").lower()


def refusal(answer: str) -> str:
    """Find refusals and talk of being an assistant: at the answer's start, or as a full phrase anywhere."""
    plain = _plain(answer)
    match = _REFUSAL_START.match(plain) or _AS_AN_AI.search(plain)
    return _short(match[0]) if match else ""


def boilerplate(answer: str) -> str:
    """Find an opening without the content it announces, a placeholder, or a chat window's buttons at the end."""
    plain = _plain(answer)
    match = _EMPTY_OPENING.fullmatch(plain) or _PLACEHOLDER.fullmatch(plain) or _LEFT_OVER.search(plain)
    return _short(match[0]) if match else ""


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 60 else f"{text[:59]}…"


# --- the rest --------------------------------------------------------------------------------------------------------


def normalised(text: str) -> str:
    """Normalise a text for comparison: NFKC, case folded, single spaces, trimmed."""
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
    return " ".join(text.casefold().split()).strip(" \"'.,:;!?()[]*`")


def broken_encoding(text: str) -> str:
    """Find lost characters, and bytes read in the wrong encoding (`Ã¼` for `ü`; the heuristic of ftfy)."""
    if text.isascii():
        return ""
    at = text.find("\ufffd")
    if at >= 0:
        return f"a replacement character at {at}"
    from ftfy import fix_encoding_and_explain
    from ftfy.badness import BADNESS_RE

    for match in BADNESS_RE.finditer(text):
        # Only what can be repaired was broken; ftfy would repair German quotes before a capital umlaut, by Mac Roman.
        around = text[text.rfind(" ", 0, match.start()) + 1 :][: 40 + len(match[0])].split(" ")[0]
        steps = fix_encoding_and_explain(around).explanation
        if steps and steps[0].parameter != "macroman":
            return f"{match[0]!r} at {match.start()}"
    return ""


_FENCE = re.compile(r"^[ \t>]*(`{3,})([^`\n]*)$", re.MULTILINE)


def open_fence(text: str) -> str:
    """Find a Markdown code fence that is opened and never closed."""
    if "```" not in text or text.count("```") % 2 == 0:
        return ""
    opened = ""
    for match in _FENCE.finditer(text):
        if not opened:
            opened = match[1]
        elif len(match[1]) >= len(opened) and not match[2].strip():
            opened = ""
    return f"{text.count('```')} fences" if opened else ""
