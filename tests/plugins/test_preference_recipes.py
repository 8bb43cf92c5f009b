"""Recipes of preference training: twenty wrong ones and what is said of each, and one that runs to its report."""

import json

import pytest
import yaml
from preference_training import FEEDBACK, PAIRS

# The trainer's block, changes to the other blocks, and what the error says.
BAD = {
    "conversations for dpo": ({"use": "dpo"}, {"format": "prompt_completion"}, "trainer 'dpo' takes preference"),
    "feedback for dpo": ({"use": "dpo"}, {"format": "feedback"}, "makes feedback examples and the trainer 'dpo' takes"),
    "pairs for kto": ({"use": "kto"}, {}, "makes preference examples and the trainer 'kto' takes feedback"),
    "pairs for sft": ({"use": "sft"}, {}, "makes preference examples and the trainer 'sft' takes conversation"),
    "running text for dpo": ({"use": "dpo"}, {"format": "text"}, "makes text examples"),
    "beta 0": ({"use": "dpo", "beta": 0}, {}, "train.beta: must be greater than 0"),
    "negative beta": ({"use": "kto", "beta": -1}, {"format": "feedback"}, "train.beta: must be greater than 0"),
    "unknown loss": ({"use": "dpo", "loss": "sigmiod"}, {}, "did you mean 'sigmoid'"),
    "a list of losses": ({"use": "dpo", "loss": ["sigmoid", "sft"]}, {}, "train.loss"),
    "margin without simpo": ({"use": "dpo", "simpo_margin": 1}, {}, "'simpo_margin' is read by the loss simpo"),
    "smoothing with ipo": (
        {"use": "dpo", "loss": "ipo", "label_smoothing": 0.1}, {},
        "'label_smoothing' is read by the loss sigmoid and robust and simpo, not by 'ipo'",
    ),
    "smoothing of a half": ({"use": "dpo", "label_smoothing": 0.5}, {}, "train.label_smoothing: must be less than 0.5"),
    "robust without smoothing": ({"use": "dpo", "loss": "robust"}, {}, "'robust' needs 'label_smoothing'"),
    "orpo with sft": ({"use": "dpo", "loss": "orpo", "sft_weight": 1}, {}, "take 'sft_weight' out"),
    "simpo with a reference": ({"use": "dpo", "loss": "simpo", "ref_model": "x"}, {}, "train.ref_model"),
    "negative sft weight": ({"use": "dpo", "sft_weight": -1}, {}, "train.sft_weight: must be greater than"),
    "splitting a pair": ({"use": "dpo", "overlong": "split"}, {}, "train.overlong"),
    "loss_on": ({"use": "dpo", "loss_on": "all"}, {}, "train.loss_on"),
    "TRL's name of beta": ({"use": "dpo", "dpo_beta": 0.1}, {}, "beta"),
    "best by what isn't measured": ({"use": "dpo", "best_by": "acuracy"}, {}, "did you mean 'accuracy'"),
    "accuracy of kto": ({"use": "kto", "best_by": "accuracy"}, {"format": "feedback"}, "no evaluator 'accuracy'"),
    "a row alone": ({"use": "kto", "batch_size": 1}, {"format": "feedback"}, "train.batch_size: must be greater"),
    "weight of nothing": ({"use": "kto", "desirable_weight": 0}, {"format": "feedback"}, "train.desirable_weight"),
    "exact match on pairs": ({"use": "dpo"}, {"evaluate": ["exact_match"]}, "'exact_match' takes conversation"),
    "best by the evaluator": (
        {"use": "dpo", "best_by": "preference"}, {"evaluate": ["preference"]}, "measures models and scores no answers"
    ),
}  # fmt: skip


def write_recipe(directory, train, model="example/model", format="preference", evaluate=()):
    rows = FEEDBACK if format == "feedback" else PAIRS
    (directory / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = {
        "name": "preferences",
        "model": {"use": "huggingface", "id": str(model)},
        "adapter": {"use": "lora", "r": 4},
        "data": {
            "train": [{"path": "rows.jsonl", "format": {"use": format}}],
            "validation": "25%",
            "evals": {"held": "25%"} if evaluate else {},
        },
        "train": train,
        "evaluate": [{"use": name} for name in evaluate],
    }
    (directory / "r.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    return "r.yaml"


@pytest.mark.parametrize("name", BAD)
def test_bad_recipe_is_refused(ftp, tmp_path, name):
    train, changes, said = BAD[name]
    outcome = ftp("check", write_recipe(tmp_path, train, **changes))
    assert outcome.code == 2 and "Traceback" not in outcome.err
    assert said in outcome.err


def test_weak_simpo_and_high_rates_are_warned_of(ftp, tmp_path):
    recipe = write_recipe(tmp_path, {"use": "dpo", "loss": "simpo", "learning_rate": 2e-4})
    outcome = ftp("check", recipe)
    said = outcome.out + outcome.err
    assert outcome.code == 0 and "SimPO's authors use 2 to 10" in said
    assert "2e-4 is above the usual 5e-6 to 2e-5 of 'lora' with this loss" in said


@pytest.mark.parametrize("use", ["dpo", "kto"])
def test_recipe_runs_to_its_report(ftp, tmp_path, ftp_tiny_model, monkeypatch, use):
    monkeypatch.setenv("FTP_CACHE", str(tmp_path / "cache"))
    train = {"use": use, "epochs": 3, "batch_size": 4, "learning_rate": 1e-3}
    evaluate = ["preference"] if use == "dpo" else []
    format = "preference" if use == "dpo" else "feedback"
    recipe = write_recipe(tmp_path, train, ftp_tiny_model, format, evaluate)
    outcome = ftp("run", recipe)
    assert outcome.code == 0, outcome.err
    [run] = (tmp_path / "runs" / "preferences").iterdir()
    page, card = (run / "report.html").read_text(), (run / "README.md").read_text()
    assert "Preferences of the validation rows" in page and "Rewards on the validation rows" in page
    assert ("Preference accuracy" in page) == (use == "dpo")
    assert "margin of the rewards on the validation rows: 0" in card
    if use == "dpo":
        [evaluation] = json.loads((run / "evaluation.json").read_text())
        found = {metric["name"]: metric for metric in evaluation["metrics"]}
        assert set(found) == {"accuracy", "accuracy_per_token", "reward_accuracy"}
        assert found["reward_accuracy"]["base"] == 0.5 and found["reward_accuracy"]["tuned"] == 1
        assert found["reward_accuracy"]["difference"]["low"] > 0 and evaluation["n"] > 4
        [base] = (run / "answers").glob("base.0-preference-held.json")
        values = json.loads(base.read_text())
        chosen = [pair["chosen"] > pair["rejected"] for pair in values]
        assert found["accuracy"]["base"] == pytest.approx(sum(chosen) / len(chosen))
