"""The built-in components pass the check for plugin authors, and the kit's recipe and model run with them."""

from __future__ import annotations

from pathlib import Path

import pytest

from ftp import plugins, recipe
from ftp.components import KINDS
from ftp.testing import MakeAnswers, WriteRecipe, assert_component_ok

OPTIONS = {
    "launchers kubernetes": {"image": "registry.example.com/ftp:1", "volume": "training"},
    "curators mix": {"replay": "5%"},
    "loaders huggingface": {"id": "example/model"},
    "loaders gguf": {"file": "model.gguf"},
    "engines openai": {"model": "some-model"},
    "loaders run": {"path": "runs/small/1"},
    "exporters hub": {"repo": "example/model"},
    "adapters peft": {"method": "LOHA", "config": {"target_modules": ["q_proj"], "r": 2}},
    "evaluators json_schema": {"inline": {"type": "integer"}},
}
ROWS = {
    "instruct": {"instruction": "Add.", "context": "2 + 2", "response": "4"},
    "alpaca": {"instruction": "Add.", "input": "2 + 2", "output": "4"},
    "prompt_completion": {"prompt": "2 + 2", "completion": "4"},
    "text": {"text": "2 + 2 = 4"},
    "messages": {"messages": [{"role": "user", "content": "2 + 2"}, {"role": "assistant", "content": "4"}]},
    "sharegpt": {"conversations": [{"from": "human", "value": "2 + 2"}, {"from": "gpt", "value": "4"}]},
}
BUILT_IN = [
    pytest.param(offer, id=f"{kind}-{name}")
    for kind in KINDS
    for name, offer in plugins.load().offers(kind).items()
    if offer.plugin.distribution == "ftp-finetune"
    # They need a server, a model, rows or files of their own: their tests run the same check. grpo is made of others.
    and name not in ("judge", "pairwise", "math", "code", "function", "reward_model", "grpo")
    and not list(plugins.missing_packages(offer))
]


@pytest.mark.parametrize("offer", BUILT_IN)
def test_every_built_in_component_passes(offer: plugins.Offer) -> None:
    samples = [ROWS[offer.name]] if offer.name in ROWS else []
    assert_component_ok(offer.component, *samples, **OPTIONS.get(f"{offer.kind} {offer.name}", {}))


def test_every_kind_was_among_them() -> None:
    assert {offer.values[0].kind for offer in BUILT_IN} == set(KINDS)


def test_the_recipe_is_valid_as_it_is(ftp_recipe: WriteRecipe) -> None:
    read = recipe.read(ftp_recipe(), plugins.load())
    assert read.name == "small"
    assert [evaluator.used_as for evaluator in read.evaluate] == ["exact_match"]


def test_the_tiny_model_loads_like_a_real_one(ftp_tiny_model: Path) -> None:
    import torch

    loader = plugins.load().offers("loaders")["huggingface"].component(id=str(ftp_tiny_model), device="cpu")
    loaded = loader.load(loader.describe())
    config, tokenizer = loaded.model.config, loaded.tokenizer
    shape = (config.hidden_size, config.num_hidden_layers, config.num_attention_heads, config.num_key_value_heads)
    assert shape == (64, 2, 4, 2)
    assert 300 <= len(tokenizer) == config.vocab_size <= 500
    assert len({tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id}) == 3
    ids = tokenizer("Grüße, 十 §")["input_ids"]
    assert ids[0] == tokenizer.bos_token_id
    assert tokenizer.decode(ids, skip_special_tokens=True) == "Grüße, 十 §"
    with torch.inference_mode():
        assert torch.isfinite(loaded.model(torch.tensor([ids])).logits).all()


def test_a_view_of_the_authors_own_takes_the_place_of_the_sums(ftp_answers: MakeAnswers) -> None:
    exact_match = plugins.load().offers("evaluators")["exact_match"].component
    with pytest.raises(AssertionError, match=r"ExactMatch: check.* raised DataError"):
        assert_component_ok(exact_match, pattern=r"#### (\d+)")
    view = ftp_answers([("2 + 2?", "#### 4", "#### 5", "#### 4"), ("3 + 4?", "#### 7", "", "7")])
    assert_component_ok(exact_match, view, pattern=r"#### (\d+)")
