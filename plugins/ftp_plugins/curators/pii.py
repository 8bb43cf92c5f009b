"""Personal data and keys in a text: found by pattern and checksum, replaced by the name of their kind."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Literal, get_args

from ftp.types import Example, Message

PII = Literal["email", "phone", "card", "iban", "key"]
KINDS: tuple[PII, ...] = get_args(PII)

# Each look for a kind begins with a test that is cheap, as nearly every text has nothing of it.
_DIGITS = re.compile(r"\d(?:[\s().\-/]{0,3}\d){6}")
_PLUS_DIGITS = re.compile(rf"[+\uff0b][\s(]{{0,3}}{_DIGITS.pattern}")

_EMAIL = re.compile(r"(?<![\w.%+-])[\w%+-][\w.%+-]{0,63}@(?:[\w-]{1,63}\.){1,8}[^\W\d_]{2,24}(?![\w@])")
# Reserved for documentation and tests (RFC 2606), and the user name of every clone address.
_NOBODY = re.compile(r"git@|.*[@.](?:example\.(?:com|net|org)|example|invalid|test)$", re.IGNORECASE)

# By the leading digits of the networks (ISO/IEC 7812), in one run or in the groups that are printed on the card.
_CARD = re.compile(
    r"(?<![\w.,+-])(?:"
    r"(?:4\d{3}|5[1-5]\d\d|2[2-7]\d\d|6011|64[4-9]\d|65\d\d|62\d\d|35\d\d)([ -]?)\d{4}\1\d{4}\1\d{4}"
    r"|3[47]\d\d([ -]?)\d{6}\2\d{5}"
    r"|3(?:0[0-5]|[68]\d)\d([ -]?)\d{6}\3\d{4}"
    r")(?![\w-]|[.,]\d)"
)
_IBAN = re.compile(r"(?<!\w)[A-Z]{2}\d\d(?: ?[A-Z0-9]){11,30}(?!\w)")

_KEY = re.compile(
    r"(?<![A-Za-z0-9])(?:"
    r"(?:AKIA|ASIA)[A-Z0-9]{16}"  # AWS
    r"|gh[pousr]_[A-Za-z0-9]{36,255}|github_pat_\w{22,255}|glpat-[\w-]{20,64}"  # GitHub, GitLab
    r"|sk-(?:[0-9a-f]{32,64}|(?=[\w-]*\d)(?=[\w-]*[A-Z])[\w-]{20,255})"  # OpenAI, Anthropic and others
    r"|[sr]k_live_[A-Za-z0-9]{16,255}"  # Stripe
    r"|xox[abeprs]-(?=[\w-]*\d{4})[\w-]{10,255}"  # Slack
    r"|AIza[\w-]{35}"  # Google
    r"|hf_[A-Za-z0-9]{34}|npm_[A-Za-z0-9]{36}"  # Hugging Face, npm
    r"|eyJ[\w-]{10,4000}\.eyJ[\w-]{10,8000}\.[\w-]{10,2000}"  # JSON Web Token
    r")(?![A-Za-z0-9])"
    r"|-----BEGIN [A-Z0-9 ]{0,30}PRIVATE KEY(?: BLOCK)?-----"
    r"(?:[^-]{0,20000}-----END [A-Z0-9 ]{0,30}PRIVATE KEY(?: BLOCK)?-----|[A-Za-z0-9+/=\s]{0,20000})"
)
_KEY_HINTS = (
    *("AKIA", "ASIA", "ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_", "glpat-", "sk-", "k_live_", "xox", "AIza"),
    *("hf_", "npm_", "eyJ", "PRIVATE KEY"),
)


def mask(text: str, kinds: Sequence[PII] = KINDS, region: str | None = None) -> tuple[str, Counter[str]]:
    """Replace personal data and keys by [EMAIL], [PHONE], [CARD], [IBAN], [KEY].

    Cards need a network's leading digits and a Luhn checksum, IBANs their country's layout and checksum, phone numbers
    have to be valid in their country (libphonenumber).

    Args:
        region: two capital letters, such as `US`: the country of phone numbers without a country code. None: only
        numbers
            that begin with + are found.

    Returns:
        The text, and how many of each kind were replaced.
    """
    masker = _Masker(kinds, region)
    return masker.text(text), masker.counts


def mask_example(example: Example, kinds: Sequence[PII], region: str | None) -> tuple[Example, Counter[str]]:
    """Replace as `mask` does in every text of an example: turns with their tool calls, rejected turns, running text."""
    masker = _Masker(kinds, region)
    if example.messages:
        turns, rejected = tuple(map(masker.turn, example.messages)), tuple(map(masker.turn, example.rejected))
        changed = replace(example, messages=turns, rejected=rejected)
    else:
        changed = replace(example, text=masker.text(example.text))
    return (changed if masker.counts else example), masker.counts


class _Masker:
    """Replaces personal data in texts and counts the replacements by kind."""

    def __init__(self, kinds: Sequence[PII], region: str | None) -> None:
        self.kinds, self.region = kinds, region
        self.counts: Counter[str] = Counter()

    def text(self, text: str) -> str:
        # Keys first: they may hold what looks like the others. Phones last: they are the vaguest.
        if "key" in self.kinds and any(map(text.__contains__, _KEY_HINTS)):
            text = self._replace(text, _KEY, "key")
        if "email" in self.kinds and "@" in text:
            text = self._replace(text, _EMAIL, "email", _is_somebody)
        if _DIGITS.search(text):
            if "iban" in self.kinds:
                text = _IBAN.sub(self._iban, text)
            if "card" in self.kinds:
                text = self._replace(text, _CARD, "card", _passes_luhn)
            if "phone" in self.kinds and (self.region or _PLUS_DIGITS.search(text)):
                text = self._phones(text)
        return text

    def turn(self, message: Message) -> Message:
        content, tool_calls = self.text(message.content), message.tool_calls
        if tool_calls:
            before = self.counts.total()
            calls = self._json(json.loads(tool_calls))
            if self.counts.total() > before:
                tool_calls = json.dumps(calls, ensure_ascii=False)
        if (content, tool_calls) == (message.content, message.tool_calls):
            return message
        return replace(message, content=content, tool_calls=tool_calls)

    def _json(self, value: Any) -> Any:
        """Replace in the strings of a JSON value, so that it stays JSON."""
        if isinstance(value, dict):
            return {key: self._json(item) for key, item in value.items()}
        if isinstance(value, list):
            return [self._json(item) for item in value]
        return self.text(value) if isinstance(value, str) else value

    def _replace(
        self, text: str, pattern: re.Pattern[str], kind: PII, accept: Callable[[str], bool] | None = None
    ) -> str:
        """Replace accepted matches of the pattern."""
        parts, done = [], 0
        for match in pattern.finditer(text):
            if accept is None or accept(match[0]):
                parts += [text[done : match.start()], f"[{kind.upper()}]"]
                done = match.end()
                self.counts[kind] += 1
        return "".join([*parts, text[done:]])

    def _iban(self, match: re.Match[str]) -> str:
        from stdnum import iban

        # A word in capitals after the number may have been matched as part of it: try shorter ones too.
        whole = match[0]
        ends = [len(whole), *(end for end in range(len(whole) - 1, 14, -1) if whole[end] == " ")]
        for end in ends:
            if iban.is_valid(whole[:end]):
                self.counts["iban"] += 1
                return f"[IBAN]{whole[end:]}"
        return whole

    def _phones(self, text: str) -> str:
        import phonenumbers

        parts, done = [], 0
        for match in phonenumbers.PhoneNumberMatcher(text, self.region):
            # A bracket that opens before the number and closes after it is not part of it.
            start = match.start + (match.raw_string.startswith("(") and ")" not in match.raw_string)
            parts += [text[done:start], "[PHONE]"]
            done = match.end
            self.counts["phone"] += 1
        return "".join([*parts, text[done:]])


def _is_somebody(address: str) -> bool:
    return not _NOBODY.match(address)


def _passes_luhn(card: str) -> bool:
    from stdnum import luhn

    return bool(luhn.is_valid(re.sub(r"\D", "", card)))
