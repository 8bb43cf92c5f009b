"""Decoding in batches gives the tokens of `generate`, whatever kind of cache a family has."""

import pytest
import torch
import transformers
from transformers import AutoTokenizer

from ftp.errors import ModelError
from ftp.lm.sampling import Request, Sampling
from ftp.lm.torch_decode import Decoder

SIZES = {
    "vocab_size": 382,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "pad_token_id": 3,
    "bos_token_id": 0,
    "eos_token_id": 2,
}
FAMILIES = {
    "Llama": {},
    "Mistral": {"sliding_window": 8},
    "Gemma2": {"sliding_window": 8, "head_dim": 8},
    "Gemma3": {"text": True, "sliding_window": 8, "head_dim": 8},
    "Qwen3": {"head_dim": 8},
    "Mixtral": {"num_local_experts": 4},
    "Lfm2": {"layer_types": ["conv", "full_attention"] * 2, "conv_L_cache": 3},
}


def tiny(name):
    options = dict(FAMILIES[name])
    config = f"{name}TextConfig" if options.pop("text", False) else f"{name}Config"
    torch.manual_seed(0)
    made = getattr(transformers, f"{name}ForCausalLM")(getattr(transformers, config)(**SIZES, **options))
    with torch.no_grad():  # so that the tokens differ from one another
        for weight in made.parameters():
            weight.mul_(3)
    return made.eval()


@pytest.fixture(scope="module")
def tokenizer(ftp_tiny_model):
    return AutoTokenizer.from_pretrained(ftp_tiny_model)


def request(tokenizer, prompt, longest=10):
    return Request(prompt, tokenizer, (2,), None, Sampling(longest, logprobs=0))


@pytest.mark.parametrize("name", FAMILIES)
def test_tokens_are_those_of_generate(name, tokenizer):
    model = tiny(name)
    random = torch.Generator().manual_seed(1)
    lengths = [3, 30, 7, 1, 19, 12]
    prompts = [torch.randint(4, 382, (length,), generator=random).tolist() for length in lengths]
    decoder = Decoder(model, most_rows=3)
    rows = [decoder.add(request(tokenizer, prompt, 6 + at)) for at, prompt in enumerate(prompts)]
    found = {id(row): [] for row in rows}
    while decoder.waiting or decoder.running:
        assert decoder.running <= 3
        for row, piece in decoder.step():
            found[id(row)].append(piece.choice.id)
    for at, (row, prompt) in enumerate(zip(rows, prompts, strict=True)):
        expected = model.generate(torch.tensor([prompt]), max_new_tokens=6 + at, do_sample=False)
        assert found[id(row)] == expected[0, len(prompt) :].tolist()


def test_what_does_not_fit_into_the_context_is_refused(tokenizer):
    decoder = Decoder(tiny("Llama"))
    with pytest.raises(ModelError, match="context has 128 tokens; the prompt has 120 and the answer may have 10"):
        decoder.add(request(tokenizer, [5] * 120))
    decoder.add(request(tokenizer, [5] * 118))
    assert decoder.add(request(tokenizer, [5] * 120, None)).limit == 8
    with pytest.raises(ModelError, match="no tokens"):
        decoder.add(request(tokenizer, []))


def test_many_long_prompts_do_not_go_through_at_once(tokenizer):
    decoder = Decoder(tiny("Llama"), most_rows=8, most_prompt_tokens=100)
    for _ in range(4):
        decoder.add(request(tokenizer, [5] * 60))
    decoder.step()
    assert decoder.running == 1 and len(decoder.waiting) == 3
    decoder.step()
    assert decoder.running == 2
