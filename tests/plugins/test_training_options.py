"""Options of every training: steps, schedules, noise, penalties and checkpoints each change what they say."""

import math

import pytest
import torch
from test_checkpoints import Killed, curve, same_weights, train
from test_speed import LENGTHS, assert_equal, gradients, rows_of, tiny, with_lora

import ftp
from ftp_plugins.adapters.full import Full
from ftp_plugins.adapters.lora import LoRA
from ftp_plugins.speed.torch_head import PenalisedLoss
from ftp_plugins.trainers.torch_neftune import embedding_noise

STEADY = {"schedule": "constant", "warmup": 0, "precision": "float32"}


def rates(tiny_model, directory, **options):
    """Return the learning rate of each step, as a share of the peak."""
    train(tiny_model, directory, LoRA(r=4), events := [], watch=False, **{"learning_rate": 1e-3, **options})
    return [rate / 1e-3 for rate in curve(events, "metric", "learning_rate").values()]


# --- steps and schedules ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [2, 10])
def test_max_steps_is_the_length_of_the_training(ftp_tiny_model, tmp_path, steps):
    result, _ = train(ftp_tiny_model, tmp_path, LoRA(r=4), events := [], epochs=3, max_steps=steps)
    [plan] = [event for event in events if event["event"] == "plan"]
    assert result.steps == plan["steps"] == max(curve(events, "metric")) == steps
    assert max(curve(events, "validation")) == steps, "the last state is validated"
    assert plan["evaluations"] == len(curve(events, "validation"))
    assert plan["trained_tokens"] == round(plan["trained_tokens_per_epoch"] * steps / 3)


def test_max_steps_survives_a_kill(ftp_tiny_model, tmp_path):
    whole, broken = [], []
    _, weights = train(ftp_tiny_model, tmp_path / "whole", LoRA(r=4), whole, epochs=3, max_steps=5, schedule="cosine")
    for kill in (("metric", 4), None):
        try:
            _, again = train(
                ftp_tiny_model, tmp_path / "broken", LoRA(r=4), broken, kill, epochs=3, max_steps=5, schedule="cosine"
            )
        except Killed:
            assert kill
    assert curve(broken, "metric") == curve(whole, "metric") and same_weights(again, weights)


def test_warmup_in_steps(ftp_tiny_model, tmp_path):
    found = rates(ftp_tiny_model, tmp_path, max_steps=8, epochs=3, schedule="constant", warmup=4)
    rising = [rate for rate in found if rate < 1]
    assert rising == sorted(rising) and len(set(found) | {0.0}) == 5  # 0, 1/4, 1/2, 3/4, 1
    assert set(found) <= {0.0, 0.25, 0.5, 0.75, 1.0}


def test_cosine_ends_at_its_floor(ftp_tiny_model, tmp_path):
    found = rates(ftp_tiny_model, tmp_path, max_steps=9, epochs=3, schedule="cosine", warmup=0, min_lr_ratio=0.25)
    assert found == sorted(found, reverse=True)
    expected = [0.25 + 0.75 * (1 + math.cos(math.pi * step / 9)) / 2 for step in range(10)]
    assert all(min(abs(rate - value) for value in expected) < 1e-6 for rate in found)


def test_wsd_is_steady_and_falls_at_the_end(ftp_tiny_model, tmp_path):
    options = {"schedule": "wsd", "warmup": 0, "decay": 4, "min_lr_ratio": 0.1}
    found = rates(ftp_tiny_model, tmp_path, max_steps=10, epochs=3, **options)
    assert found[:6] == pytest.approx([1.0] * 6)
    falling = [0.1 + 0.9 * (1 - math.sqrt(step / 4)) for step in range(5)]
    assert all(min(abs(rate - value) for value in falling) < 1e-6 for rate in found[6:])
    assert found[6:] == sorted(found[6:], reverse=True) and found[-1] < 0.6


def test_cosine_begins_again(ftp_tiny_model, tmp_path):
    found = rates(ftp_tiny_model, tmp_path, max_steps=12, epochs=3, schedule="cosine_with_restarts", warmup=0, cycles=3)
    rises = [step for step in range(1, len(found)) if found[step] > found[step - 1]]
    assert len(rises) == 2 and all(found[step] == pytest.approx(1.0) for step in rises)


# --- every trainer ---------------------------------------------------------------------------------------------------

ALL = {"optimizer": "muon", "loraplus_lr_ratio": 4.0, "max_steps": 3, "schedule": "wsd", "warmup": 1, "decay": 1}


@pytest.mark.thin(2)
@pytest.mark.parametrize("use", ["dpo", "kto", "reward"])
def test_preference_trainers_have_the_same_options(ftp_tiny_model, tmp_path, monkeypatch, use):
    from preference_training import FEEDBACK, PAIRS, job_on

    from ftp_plugins.formatters.preference import Feedback, Preference
    from ftp_plugins.trainers import ftp_trainers

    monkeypatch.setenv("FTP_CACHE", str(tmp_path / "cache"))
    rows, format = (FEEDBACK, Feedback()) if use == "kto" else (PAIRS, Preference())
    training = job_on(ftp_tiny_model, tmp_path, rows, format)
    trainer = ftp_trainers()[use](**ALL, epochs=1, learning_rate=1e-3, neftune_noise_alpha=5.0, save_steps=2)
    result = trainer.train(training.job)
    assert result.steps == 3 and [e["step"] for e in training.of("checkpoint")] == [0, 2, 3]
    assert [e["learning_rate"] for e in training.of("metric")][-1] > 0
    assert training.of("speed")[0]["separately"] == "every row draws its own noise"


def test_grpo_has_the_same_options(ftp_tiny_model, tmp_path):
    from test_grpo import train_grpo

    result, _ = train_grpo(ftp_tiny_model, tmp_path / "run", events := [], **ALL, epochs=1, save_steps=2)
    assert result.steps == 3 and [e["step"] for e in events if e["event"] == "checkpoint"] == [0, 2, 3]


# --- NEFTune ---------------------------------------------------------------------------------------------------------


def test_noise_is_as_large_as_the_length_of_each_row_allows():
    model = tiny()
    width = model.get_input_embeddings().embedding_dim
    seen = []
    model.model.layers[0].register_forward_pre_hook(lambda module, args: seen.append(args[0].detach().clone()))
    ids = torch.arange(1, 61)[None]

    def states(alpha, **inputs):
        with embedding_noise(model, alpha):
            model.model(**inputs, use_cache=False)
        return seen.pop()

    packed = {"input_ids": ids, "position_ids": torch.cat([torch.arange(10), torch.arange(50)])[None]}
    packed["lengths"] = (10, 50)
    noise = (states(5.0, **packed) - states(None, **packed))[0]
    for part, length in ((noise[:10], 10), (noise[10:], 50)):
        most = 5.0 / math.sqrt(length * width)
        assert 0.9 * most < float(part.abs().max()) <= most * (1 + 1e-4)
        assert float(part.abs().mean()) == pytest.approx(most / 2, rel=0.1)
    mask = torch.ones(2, 20, dtype=torch.int64)
    mask[1, 5:] = 0
    padded = {"input_ids": ids[:, :40].view(2, 20), "attention_mask": mask}
    noise = states(5.0, **padded) - states(None, **padded)
    assert float(noise[1, :5].abs().max()) == pytest.approx(5.0 / math.sqrt(5 * width), rel=0.1)
    assert float(noise[0].abs().max()) == pytest.approx(5.0 / math.sqrt(20 * width), rel=0.1)
    model.eval()
    assert torch.equal(states(5.0, **packed), states(None, **packed)), "none where nothing is trained"


@pytest.mark.parametrize("speed", ["auto", "off"])
def test_neftune_changes_the_training_and_no_validation(ftp_tiny_model, tmp_path, speed):
    found = {}
    for alpha in (None, 30.0):
        events = []
        options = {**STEADY, "speed": speed, "epochs": 1, "neftune_noise_alpha": alpha}
        train(ftp_tiny_model, tmp_path / str(alpha), LoRA(r=4), events, **options)
        found[alpha] = curve(events, "metric"), curve(events, "validation")
        [how] = [event for event in events if event["event"] == "speed"]
        if speed == "auto":
            assert how["separately"] == ("every row draws its own noise" if alpha else None)
    assert found[None][0] != found[30.0][0] and found[None][1][0] == found[30.0][1][0]


@pytest.mark.slow
def test_noise_is_the_same_after_a_kill(ftp_tiny_model, tmp_path):
    whole, broken = [], []
    options = {**STEADY, "neftune_noise_alpha": 10.0}
    _, weights = train(ftp_tiny_model, tmp_path / "whole", LoRA(r=4), whole, **options)
    with pytest.raises(Killed):
        train(ftp_tiny_model, tmp_path / "broken", LoRA(r=4), broken, ("metric", 5), **options)
    _, again = train(ftp_tiny_model, tmp_path / "broken", LoRA(r=4), broken, **options)
    assert curve(broken, "metric") == curve(whole, "metric") and same_weights(again, weights)


# --- penalties -------------------------------------------------------------------------------------------------------


def penalised(model, rows, smoothing, z_loss):
    """The loss with both penalties by PyTorch's own functions, each row by itself, and its gradients."""
    count = sum(sum(row.trained[1:]) for row in rows)
    total = 0.0
    for row in rows:
        logits = model(input_ids=torch.tensor([row.input_ids])).logits[0, :-1].float()
        targets = torch.tensor(row.labels[1:], dtype=torch.int64)
        logits, targets = logits[targets != -100], targets[targets != -100]
        loss = torch.nn.functional.cross_entropy(logits, targets, reduction="sum", label_smoothing=smoothing)
        loss = (loss + z_loss * logits.logsumexp(-1).square().sum()) / count
        loss.backward()
        total += loss.item()
    return total, gradients(model)


@pytest.mark.thin(2)
@pytest.mark.parametrize("family", ["llama", "gemma2"])
@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize(("smoothing", "z_loss"), [(0.1, 0.0), (0.0, 1e-2), (0.2, 1e-2)])
def test_penalties_of_the_fused_head_are_pytorchs(family, lora, smoothing, z_loss):
    from ftp_plugins.speed.torch_batches import packed_batch
    from ftp_plugins.speed.torch_path import FastPath

    model = with_lora(tiny(family)) if lora else tiny(family)
    rows = rows_of(LENGTHS)
    path = FastPath(model, torch.float32, PenalisedLoss(smoothing, z_loss))
    count = sum(sum(row.trained[1:]) for row in rows)
    with path.layers(), path.attention():
        loss = path.loss(packed_batch([{"input_ids": row.input_ids, "trained": row.trained} for row in rows])) / count
        loss.backward()
    ours = loss.item(), gradients(model)
    assert path.plain_head
    assert_equal(ours, penalised(model, rows, smoothing, z_loss), rel=1e-5)


@pytest.mark.thin(3)
@pytest.mark.parametrize("speed", ["auto", "off"])
@pytest.mark.parametrize("penalty", [{"label_smoothing": 0.2}, {"z_loss": 0.01}], ids=["smoothing", "z"])
def test_penalties_are_in_the_training_loss_alone(ftp_tiny_model, tmp_path, speed, penalty):
    options = {**STEADY, "speed": speed, "epochs": 0.4}
    train(ftp_tiny_model, tmp_path / "without", LoRA(r=4), without := [], **options)
    train(ftp_tiny_model, tmp_path / "with", LoRA(r=4), penal := [], **options, **penalty)
    assert curve(penal, "metric")[1] != pytest.approx(curve(without, "metric")[1], abs=1e-3)
    assert curve(penal, "validation")[0] == curve(without, "validation")[0]


# --- checkpoints -----------------------------------------------------------------------------------------------------


def test_checkpoints_are_saved_and_kept_as_asked(ftp_tiny_model, tmp_path):
    train(ftp_tiny_model, tmp_path, Full(), events := [], save_steps=2, save_total=3)
    assert [event["step"] for event in events if event["event"] == "checkpoint"] == [0, 2, 4, 6, 8]
    kept = tmp_path / "checkpoints"
    assert sorted(path.name for path in kept.glob("step-*")) == ["step-00000004", "step-00000006", "step-00000008"]
    for path in kept.glob("step-*"):
        from ftp.lm.training.torch_checkpoints import best_name, load_progress

        best = load_progress(path).best_step
        assert (kept / best_name(best)).is_dir(), "each has its best state"


def test_an_earlier_checkpoint_can_be_resumed_from(ftp_tiny_model, tmp_path):
    import shutil

    options = {"save_steps": 2, "save_total": 3}
    _, weights = train(ftp_tiny_model, tmp_path, LoRA(r=4), [], **options)
    for step in (6, 8):
        shutil.rmtree(tmp_path / "checkpoints" / f"step-{step:08d}")
    _, again = train(ftp_tiny_model, tmp_path, LoRA(r=4), events := [], **options)
    assert [event["step"] for event in events if event["event"] == "resume"] == [4]
    assert same_weights(again, weights)


# --- recipes ---------------------------------------------------------------------------------------------------------

BAD = {
    "optimizer: adamw_torch": "train.optimizer: is called 'adamw' here; got \"adamw_torch\"",
    "optimizer: {name: paged_adamw_32bit}": "train.optimizer.name: is called 'paged_adamw' here",
    "optimizer: adamw8bit": "did you mean 'adamw_8bit'?",
    "optimizer: 3": "train.optimizer: must be 'adamw', ",
    "optimizer: {name: adamw, betas: [0.9]}": "train.optimizer.betas.1: is missing",
    "optimizer: {name: adamw, betas: [0.9, 0.9, 0.9]}": "train.optimizer.betas: ",
    "optimizer: {name: adafactor, betas: [0.9, 0.99]}": "'betas' is read by adamw",
    "optimizer: {name: lion, eps: 1e-6}": "'eps' is read by adamw",
    "optimizer: {name: adamw, beta1: 0.9}": "train.optimizer.beta1: unknown key; here it is 'betas'",
    "optimizer: {name: adamw, betas: [0.9, 1.0]}": "train.optimizer.betas.1: must be less than 1",
    "schedule: constant, min_lr_ratio: 0.1": "train.min_lr_ratio: is read by the schedule cosine and wsd; remove it",
    "schedule: cosine, decay: 0.2": "train.decay: is read by the schedule wsd; remove it",
    "schedule: linear, cycles: 3": "train.cycles: is read by the schedule cosine_with_restarts; remove it",
    "warmup: 1.5": "train.warmup: must be a share below 1, or a whole number of steps",
    "epochs: 2, max_steps: 5": "train.epochs: max_steps says how long to train; remove one of the two",
    "max_steps: 0": "train.max_steps: must be greater than or equal to 1",
    "label_smoothing: 1": "train.label_smoothing: must be less than 1",
    "neftune_noise_alpha: 0": "train.neftune_noise_alpha: must be greater than 0",
    "loraplus_lr_ratio: 16": "train.loraplus_lr_ratio: 'full' trains no factors A and B; use lora, or remove it",
    "save_total: 0": "train.save_total: must be greater than or equal to 1",
}
RECIPE = """\
name: bad
model: {{use: huggingface, id: some/model}}
adapter: {{use: full}}
data:
  train:
    - {{path: train.jsonl, format: {{use: instruct}}}}
train: {{use: sft, learning_rate: 1e-5, {options}}}
"""


@pytest.mark.parametrize(("options", "said"), BAD.items(), ids=list(BAD))
def test_bad_options_are_refused(check_recipe, options, said):
    outcome = check_recipe(RECIPE.format(options=options))
    assert outcome.code == 2 and said in outcome.err, outcome.err


GOOD = (
    "optimizer: adamw_8bit",
    "optimizer: {name: muon, momentum: 0.9, adjust_lr_fn: original}",
    "schedule: wsd, decay: 200, min_lr_ratio: 0.1, warmup: 100",
    "max_steps: 100, save_steps: 10, save_total: 3",
    "label_smoothing: 0.1, z_loss: 1e-4, neftune_noise_alpha: 5",
)


@pytest.mark.parametrize("options", GOOD)
def test_good_options_are_accepted(check_recipe, options):
    outcome = check_recipe(RECIPE.format(options=options))
    assert outcome.code == 0, outcome.err


def test_a_resolved_recipe_reads_as_the_same(check_recipe, tmp_path):
    import yaml

    from ftp import plugins, recipe

    path = tmp_path / "r.yaml"
    for options in GOOD:
        path.write_text(RECIPE.format(options=options))
        found = recipe.read(path, plugins.load())
        path.write_text(yaml.safe_dump(found.resolved()))
        assert recipe.read(path, plugins.load()).resolved() == found.resolved()


def test_a_loss_of_its_own_reads_no_penalty():
    from ftp_plugins.trainers.sft import SFT

    class Own(SFT):
        """Supervised fine-tuning with another loss."""

        def token_loss(self):
            return lambda logits, targets: torch.zeros(len(targets))

    assert Own(z_loss=1e-4).named("own").problems() == ["z_loss: 'own' has a loss of its own, which doesn't read it"]


def test_noise_on_own_answers_is_refused():
    from ftp_plugins.evaluators.length import Length
    from ftp_plugins.trainers.grpo import GRPO

    grpo = GRPO(rewards=[Length(max_words=5)], neftune_noise_alpha=5.0)
    assert [problem.partition(":")[0] for problem in grpo.problems()] == ["neftune_noise_alpha"]


# --- early stopping --------------------------------------------------------------------------------------------------


def answers_to(watcher, losses, **values):
    return [
        watcher.see({"event": "validation", "step": step, "loss": loss, **values}) for step, loss in enumerate(losses)
    ]


def test_early_stopping_counts_validations_without_a_better_one():
    from ftp.testing import assert_component_ok
    from ftp_plugins.watchers.early_stopping import EarlyStopping

    assert_component_ok(EarlyStopping)
    found = answers_to(EarlyStopping(patience=2), [3.0, 2.0, 2.5, 1.9, 1.95, math.nan, 1.91])
    assert found[:6] == [None] * 6
    assert found[6].reason == "no better validation loss in 2 validations: 1.9000 at step 3, 1.9100 at step 6"
    assert isinstance(answers_to(EarlyStopping(patience=2, min_delta=0.5), [3.0, 2.9, 2.8])[2], ftp.Stop)
    rising = EarlyStopping(patience=2, signal="accuracy")
    scores = [rising.see({"event": "validation", "step": n, "loss": 1, "accuracy": n}) for n in range(3)]
    assert scores == [None] * 3


def test_early_stopping_forgets_what_is_repeated():
    from ftp_plugins.watchers.early_stopping import EarlyStopping

    watcher = EarlyStopping(patience=2)
    answers_to(watcher, [3.0, 1.0, 2.0])
    watcher.see({"event": "rollback", "step": 0})
    assert watcher.see({"event": "validation", "step": 1, "loss": 2.5}) is None
    assert watcher.see({"event": "validation", "step": 2, "loss": 2.4}) is None


def test_early_stopping_ends_a_training_that_gets_no_better(ftp_tiny_model, tmp_path):
    from ftp_plugins.watchers.early_stopping import EarlyStopping

    watcher = EarlyStopping(patience=2)

    class Watched(dict):
        """What a watcher answers to the events so far."""

        def pop(self, key, default):
            event = events[-1]
            return watcher.see(event) or default

    events = []
    options = {**STEADY, "learning_rate": 1e-12, "epochs": 8}
    result, _ = train(ftp_tiny_model, tmp_path, LoRA(r=4), events, answers=Watched(any=None), **options)
    assert result.steps == 6 and len(curve(events, "validation")) == 3
