"""A conversation with one model or two, and its commands."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from ftp.errors import FtpError, did_you_mean
from ftp.types import Message
from ftp_plugins.commands.chat.partners import Partner
from ftp_plugins.commands.chat.saved_rows import save_row

COMMANDS = {
    "/system [TEXT]": "set the system turn, or remove it; begins anew",
    "/reset": "begin anew",
    "/save FILE [ANSWER]": "append the conversation to FILE (.jsonl) as a row of the recipe's format; with ANSWER in "
    "place of the model's last answer",
    "/help": "list the commands",
    "/quit": "end, as Ctrl-D does",
}
HELP = "\n".join(
    [
        *(f"{name:22}{about}" for name, about in COMMANDS.items()),
        '"""                   begin and end a turn of many lines',
    ]
)


class Session:
    """A conversation; with two models each has its own answers in it.

    Args:
        partner: the models.
        system: text of the system turn; empty for none.
    """

    def __init__(self, partner: Partner, system: str = "") -> None:
        self.partner, self.system = partner, system
        self.conversations: list[list[Message]] = []
        self.ended = False
        self.reset()

    @property
    def names(self) -> Sequence[str]:
        """Names of the models."""
        return self.partner.names

    def reset(self) -> None:
        """Begin anew, with the system turn."""
        first = [Message("system", self.system)] if self.system else []
        self.conversations = [list(first) for _ in self.names]

    def say(self, text: str) -> Iterator[tuple[int, str]]:
        """Yield the answers to the user's next turn piece by piece, each with the number of its model.

        What there is of the answers when the iterator is closed stays in the conversation. A turn that can't be
        answered doesn't.
        """
        turn = Message("user", text)
        answers = ["" for _ in self.names]
        asked = [[*messages, turn] for messages in self.conversations]
        try:
            for number, piece in self.partner.stream(asked):
                answers[number] += piece
                yield number, piece
        finally:
            if all(answers):
                pairs = zip(asked, answers, strict=True)
                self.conversations = [[*turns, Message("assistant", answer.strip())] for turns, answer in pairs]

    def do(self, line: str) -> str:
        """Obey a command and return what to tell the user.

        Raises:
            FtpError: there is no such command, or it can't be done.
        """
        command, _, rest = line.strip().partition(" ")
        rest = rest.strip()
        if command == "/help":
            return HELP
        if command in ("/quit", "/exit", "/bye"):
            self.ended = True
            return ""
        if command == "/reset":
            self.reset()
            return "The conversation begins anew."
        if command == "/system":
            self.system = rest
            self.reset()
            return "The conversation begins anew, " + ("with this system turn." if rest else "without a system turn.")
        if command == "/save":
            return self._save(rest)
        known = [name.split()[0] for name in COMMANDS]
        raise FtpError(f"no command '{command}'{did_you_mean(command, known)}; /help lists them")

    def _save(self, rest: str) -> str:
        name, _, answer = rest.partition(" ")
        messages = self.conversations[0]
        if not name:
            raise FtpError("/save needs a file: /save rows.jsonl")
        if not messages or messages[-1].role != "assistant":
            raise FtpError("there is no answer to save yet")
        if answer.strip():
            messages = [*messages[:-1], Message("assistant", answer.strip())]
        return save_row(Path(name).expanduser(), messages, self.partner.recipe)
