"""Scores an answer 1 when it is short enough."""

import ftp


class Brevity(ftp.Evaluator):
    """Rewards short answers."""

    max_words: int = 50
    """Longest answer that still scores."""

    def score(self, example: ftp.Example, answer: str) -> float:
        return float(len(answer.split()) <= self.max_words)


@ftp.hookimpl
def ftp_evaluators() -> dict[str, type[ftp.Evaluator]]:
    return {"brevity": Brevity}
