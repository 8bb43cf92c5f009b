"""The trainer `grpo`: its loss beside TRL's, whole runs on the tiny model, kills, watchers, bad recipes."""

import copy
import json
import math
from dataclasses import replace

import pytest

import ftp as api
from ftp.components import TrainingJob
from ftp.data.examples import Corpus
from ftp.data.ledger import Ledger
from ftp.types import Example, Message
from ftp_plugins.evaluators.length import Length
from ftp_plugins.trainers.grpo import GRPO

PROMPTS = ["Double 4.", "Double seventeen, please.", "Name the risk."]
LONGEST = 9


@pytest.fixture(scope="module")
def policy(ftp_tiny_model):
    """The tiny model with an adapter that does something, its tokenizer, and a training job for it."""
    import torch
    import transformers
    from peft import LoraConfig, get_peft_model

    transformers.set_seed(1)
    tokenizer = transformers.AutoTokenizer.from_pretrained(ftp_tiny_model)
    model = transformers.AutoModelForCausalLM.from_pretrained(ftp_tiny_model)
    model = get_peft_model(model, LoraConfig(r=4, target_modules=["q_proj", "v_proj", "down_proj"]))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.05)
    loaded = api.LoadedModel(model, tokenizer, "tiny", "", api.ModelRequest(model="tiny"))
    examples = [
        Example((Message("user", prompt), Message("assistant", "8")), id=f"rows:{n}")
        for n, prompt in enumerate(PROMPTS)
    ]
    ledger = Ledger()
    for example in examples:
        ledger.add("rows", int(example.id.partition(":")[2]), "train", "domain")
    return TrainingJob(loaded, Corpus(examples, [], {}), ledger, None, 1, lambda *a, **k: None)


def given_rollouts(job):
    """Two answers to each prompt, of lengths 3 to 9; one of them is cut, and one has no advantage."""
    import torch

    from ftp.lm.rendering import prompt_ids
    from ftp_plugins.trainers.torch_rollouts import Rollouts

    draw = torch.Generator().manual_seed(3)
    examples = [example for example in job.corpus.train for _ in range(2)]
    answers = [torch.randint(4, 300, (length,), generator=draw).tolist() for length in (3, 9, 5, 4, 7, 6)]
    return Rollouts(
        ids=[example.id for example in examples],
        prompts=[prompt_ids(job.model.tokenizer, example) for example in examples],
        answers=answers,
        texts=[""] * 6,
        stopped=[True, False, True, True, True, True],
        totals=[0.0] * 6,
        scores=[{}] * 6,
        reasons=[{}] * 6,
        advantages=[0.7, -0.7, 1.1, -1.1, 0.0, 0.4],
    )


def trl_loss(job, rollouts, old, reference, options):
    """TRL's loss and its gradients for the same rollouts."""
    import torch
    import trl
    from datasets import Dataset

    from ftp.lm.torch_packing import padded

    model, tokenizer = copy.deepcopy(job.model.model), job.model.tokenizer  # TRL adds an adapter to it
    args = trl.GRPOConfig(
        output_dir="unused", per_device_train_batch_size=6, num_generations=2, report_to="none", use_cpu=True, bf16=False,
        max_completion_length=LONGEST, loss_type=options.loss, beta=options.kl, epsilon=options.clip,
        epsilon_high=options.clip_high, temperature=options.temperature, mask_truncated_completions=options.mask_cut,
        activation_checkpointing=False,
    )  # fmt: skip
    trainer = trl.GRPOTrainer(
        model, reward_funcs=lambda completions, **kwargs: [0.0] * len(completions), args=args,
        train_dataset=Dataset.from_list([{"prompt": prompt} for prompt in PROMPTS]), processing_class=tokenizer,
    )  # fmt: skip
    trainer.current_gradient_accumulation_steps = 1
    prompts, prompt_mask = padded(rollouts.prompts, tokenizer.pad_token_id, side="left")
    answers, mask = padded(rollouts.answers, tokenizer.pad_token_id, side="right")
    if options.mask_cut:
        mask = mask * torch.tensor(rollouts.stopped)[:, None]

    def placed(values):
        found = torch.zeros(answers.shape)
        for row, part in enumerate(torch.split(torch.tensor(values), rollouts.lengths)):
            found[row, : len(part)] = part
        return found

    inputs = {
        "prompt_ids": prompts, "prompt_mask": prompt_mask, "completion_ids": answers, "completion_mask": mask,
        "advantages": torch.tensor(rollouts.advantages), "num_items_in_batch": mask.sum(),
        "ref_per_token_logps": placed(reference),
        **({"old_per_token_logps": placed(old)} if old is not None else {}),
    }  # fmt: skip
    model.train()
    loss = trainer.compute_loss(model, inputs)
    return loss, gradients(model, loss)


def gradients(model, loss):
    model.zero_grad()
    loss.backward()
    return {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}


@pytest.mark.parametrize("fast", [True, False], ids=["packed", "padded"])
@pytest.mark.parametrize(
    "more",
    [
        {},
        {"loss": "grpo"},
        {"loss": "dr_grpo", "temperature": 0.7},
        {"kl": 0.1},
        {"loss": "grpo", "kl": 0.05, "updates": 2, "clip": 0.1, "clip_high": 0.15},
        {"updates": 2, "mask_cut": True},
    ],
    ids=lambda more: ", ".join(f"{name} {value}" for name, value in more.items()) or "default",
)
def test_the_loss_of_a_step_is_that_of_trl(policy, more, fast):
    import torch

    from ftp_plugins.speed.torch_path import FastPath

    options = GRPO(rewards=[Length(min_words=3)], generations=2, max_new_tokens=LONGEST, **more)
    objective = options.objective(policy, api.LoadedTokenizer(policy.model.tokenizer, (2,)))
    objective.begin()
    rollouts, model = given_rollouts(policy), policy.model.model
    path = FastPath(model, torch.float32) if fast else None
    with torch.no_grad(), objective.reference.active(None):
        reference = objective.scored(model, rollouts)[0].tolist()
    with torch.no_grad():
        now = objective.scored(model, rollouts)[0]
    old = (now + 0.3 * torch.sin(torch.arange(len(now)))).tolist() if options.updates > 1 else None
    theirs, their_gradients = trl_loss(policy, rollouts, old, reference, options)

    taken = 2 if old else 1
    ours = replace(rollouts, old=old or [], taken=taken, reference=reference)
    batch = {"rollouts": ours}
    objective.path = path
    with path.layers() if path else torch.enable_grad():
        loss = objective.loss(model, batch, objective.count(batch))
        found = gradients(model, loss)
    assert loss.item() == pytest.approx(theirs.item(), abs=1e-5)
    assert abs(theirs.item()) > 1e-3 and found.keys() == their_gradients.keys()
    for name, gradient in found.items():
        assert torch.allclose(gradient, their_gradients[name], atol=1e-5), name
    if old:
        assert 0 < objective.sums["clipped"] < len(now), "the clipping has something to do"


def test_advantages():
    import torch

    from ftp_plugins.trainers.torch_policy_loss import advantages

    rewards = torch.tensor([[1.0, 0.0, 0.0, 1.0], [2.0, 2.0, 2.0, 2.0], [1.0, math.nan, 0.0, 5.0]])
    known = torch.tensor([1.0, 0.0, 5.0])
    grpo = advantages(rewards, "grpo")
    assert torch.allclose(grpo[0], (rewards[0] - 0.5) / (rewards[0].std() + 1e-4))
    assert grpo[1].tolist() == [0] * 4 and grpo[2, 1] == 0
    assert torch.allclose(grpo[2, [0, 2, 3]], (known - 2) / (known.std() + 1e-4))
    assert advantages(rewards, "dr_grpo")[0].tolist() == [0.5, -0.5, -0.5, 0.5]
    rloo = advantages(rewards, "rloo")
    assert torch.allclose(rloo[0], torch.tensor([1 - 1 / 3, -2 / 3, -2 / 3, 1 - 1 / 3]))
    assert torch.allclose(rloo[2], torch.tensor([1 - 2.5, 0, 0 - 3.0, 5 - 0.5]))
