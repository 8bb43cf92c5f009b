"""The focal loss by hand, as a component, and in a training."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from ftp.testing import Install, WriteRecipe, assert_component_ok

MODULE = Path(__file__).parents[1] / "ftp_focal.py"


@pytest.fixture(autouse=True)
def installed(ftp_install: Install) -> None:
    ftp_install("ftp-focal", MODULE)


def losses(gamma: float, probabilities: list[float]) -> Any:
    """Return the loss of tokens to which a model of two words gives these probabilities, and its gradient."""
    import torch
    from ftp_focal import Focal

    logits = torch.tensor([[math.log(p), math.log1p(-p)] for p in probabilities], requires_grad=True)
    found = Focal(gamma=gamma).token_loss()(logits, torch.zeros(len(probabilities), dtype=torch.int64))
    found.sum().backward()
    return found.detach(), logits.grad


def test_it_is_a_sound_component() -> None:
    from ftp_focal import Focal

    assert_component_ok(Focal)
    assert_component_ok(Focal, gamma=0.5)


def test_a_trainer_with_another_loss_takes_at_most_forty_lines() -> None:
    assert len(MODULE.read_text(encoding="utf-8").splitlines()) <= 40


@pytest.mark.parametrize("gamma", [0, 0.5, 1, 2, 5])
def test_the_loss_is_the_papers(gamma: float) -> None:
    probabilities = [0.01, 0.3, 0.5, 0.9, 0.999]
    expected = [-((1 - p) ** gamma) * math.log(p) for p in probabilities]
    assert losses(gamma, probabilities)[0].tolist() == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("gamma", [0, 0.5, 1, 2])
def test_a_token_that_is_certain_has_a_finite_gradient(gamma: float) -> None:
    import torch
    from ftp_focal import Focal

    logits = torch.tensor([[200.0, -200.0], [-200.0, 200.0]], requires_grad=True)
    found = Focal(gamma=gamma).token_loss()(logits, torch.zeros(2, dtype=torch.int64))
    found.sum().backward()
    assert found[0] == 0 and found[1] == 400
    assert logits.grad is not None and logits.grad.isfinite().all()


def test_the_rare_token_has_its_say() -> None:
    """Ninety-nine tokens at 0.95 and one at 0.05: of the whole gradient, the one has a sixth, or nearly all."""

    def share_of_last(gamma: float) -> float:
        gradient = losses(gamma, [0.95] * 99 + [0.05])[1].abs().sum(-1)
        return float(gradient[-1] / gradient.sum())

    assert share_of_last(0) < 0.2
    assert share_of_last(2) > 0.95


@pytest.mark.parametrize("speed", ["auto", "off"])
def test_it_trains_on_either_path(
    ftp_recipe: WriteRecipe, ftp_tiny_model: Path, tmp_path: Path, speed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ftp import pipeline, plugins, recipe
    from ftp.runs.directory import RunDirectory

    monkeypatch.setenv("FTP_CACHE", str(tmp_path / "cache"))
    file = ftp_recipe(
        model={"id": str(ftp_tiny_model), "device": "cpu"},
        train={"use": "focal", "epochs": 12, "batch_size": 4, "learning_rate": 0.02, "speed": speed},
        answers={"max_new_tokens": 4},
    )
    found = plugins.load()
    run = pipeline.run(recipe.read(file, found), found, file, tmp_path / "runs", pipeline.Progress())
    events = RunDirectory(run.directory).events()
    trained = [event["loss"] for event in events if event["event"] == "metric"]
    validated = [event["loss"] for event in events if event["event"] == "validation"]
    assert trained[0] < validated[0], "the focal loss lies below the negative log-likelihood"
    assert validated[-1] < validated[0] - 0.2
    assert run.training["best_step"] > 0
