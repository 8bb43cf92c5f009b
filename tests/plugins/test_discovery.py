"""The built-in components are found like anybody's, and before them."""

from ftp import plugins

HOUSE = """
import ftp

class House(ftp.Evaluator):
    '''The house's own.'''
    def score(self, example, answer): return 1.0

@ftp.hookimpl
def ftp_evaluators(): return {"house": House}
"""


def test_the_built_in_ones_come_first_and_whole():
    found = plugins.load()
    ours = [plugin for plugin in found.plugins if plugin.distribution == "ftp-finetune"]
    assert found.plugins[: len(ours)] == ours
    assert not any(plugin.error for plugin in ours)
    assert {"instruct", "alpaca", "sharegpt", "messages", "prompt_completion", "text"} <= set(
        found.offers("formatters")
    )
    for kind in plugins.KINDS:
        assert found.offers(kind), kind


def test_a_clash_with_a_built_in_one(ftp_install):
    ftp_install("acme-evals", HOUSE.replace('"house"', '"rouge"'))
    assert plugins.load().clashes == [
        "evaluators 'rouge' is offered by both ftp-finetune:evaluators and acme-evals:acme-evals; "
        "disable one: --no-plugin acme-evals:acme-evals"
    ]
