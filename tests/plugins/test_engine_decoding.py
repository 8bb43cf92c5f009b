"""FTP's own decoding: the tokens of the model's `generate`, for every family, with and without an adapter."""

import copy
import random
from itertools import takewhile

import pytest
import torch
from tests.plugins.test_families import FAMILIES, family  # noqa: F401 (a fixture)

import ftp
from ftp.components import EngineWork
from ftp.lm.decoding.torch_choice import drawn
from ftp.lm.decoding.torch_packed import PackedModel
from ftp.lm.rendering import prompt_ids
from ftp.lm.torch_decode import answer_all
from ftp.lm.torch_generate import generate
from ftp.options import AnswerOptions
from ftp_plugins.adapters.lora import LoRA
from ftp_plugins.engines.transformers import Transformers
from ftp_plugins.loaders.huggingface import HuggingFace

SAID = ["Name the risk.", "What is the fix?", "Double two.", "May either party end this by notice, and when?", "Why?"]
PLAIN = ["llama", "mistral", "mixtral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3"]


def examples(texts=SAID):
    return [ftp.Example((ftp.Message("user", text), ftp.Message("assistant", "Yes."))) for text in texts]


def load(directory, dtype, adapter=False):
    import transformers

    loader = HuggingFace(id=str(directory), device="cpu", dtype=dtype)
    loaded = loader.load(loader.describe())
    if adapter:
        transformers.set_seed(1)
        loaded = LoRA(r=4).apply(loaded)
        with torch.no_grad():
            for name, weight in loaded.model.named_parameters():
                if "lora_B" in name:
                    weight.normal_(std=0.3)
    return loaded


def ids_of(loaded):
    return [prompt_ids(loaded.tokenizer, example) for example in examples()]


def decode(model, prompts, stops, options, progress=lambda answers: None):
    notes = []
    rows = answer_all(model, prompts, stops, options, progress, notes.append)
    assert not notes
    return [[*row.new, *([row.end] if row.end is not None else [])] for row in rows]


def next_logits(model, ids):
    model.eval()
    with torch.inference_mode():
        return model(input_ids=torch.tensor([ids])).logits[0, -1].float()


@pytest.mark.thin(3)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("adapter", [False, True], ids=["base", "lora"])
@pytest.mark.parametrize("name", PLAIN)
def test_the_tokens_are_those_of_generate(family, name, adapter, dtype):  # noqa: F811
    loaded = load(family(name), dtype, adapter)
    model, prompts, new = loaded.model, ids_of(loaded), 24
    ours = decode(model, prompts, (), AnswerOptions(max_new_tokens=new, batch_size=2))
    model.eval()
    model.generation_config.eos_token_id = None
    for prompt, found in zip(prompts, ours, strict=True):
        with torch.inference_mode():
            out = model.generate(input_ids=torch.tensor([prompt]), max_new_tokens=new, do_sample=False)
        theirs = out[0, len(prompt) :].tolist()
        if dtype == "float32":
            assert found == theirs
        elif found != theirs:
            at = next(i for i, (a, b) in enumerate(zip(found, theirs, strict=True)) if a != b)
            logits = next_logits(model, [*prompt, *theirs[:at]])
            precise = next_logits(copy.deepcopy(model).float(), [*prompt, *theirs[:at]])
            # Where the tokens part, the two are as near to one another as the model's own rounding is to the truth.
            assert abs(logits[found[at]] - logits[theirs[at]]) <= 2 * (logits - precise).abs().max() + 1e-3


def test_rows_end_by_themselves_and_others_take_their_place(family):  # noqa: F811
    loaded = load(family("llama"), "float32")
    prompts = ids_of(loaded)
    free = decode(loaded.model, prompts, (), AnswerOptions(max_new_tokens=20, batch_size=3))
    stop = free[0][4]  # a token that some answers hold early, some late, some never
    done = []
    found = decode(loaded.model, prompts, (stop,), AnswerOptions(max_new_tokens=20, batch_size=3), done.append)
    for whole, new in zip(free, found, strict=True):
        assert new == (whole[: whole.index(stop) + 1] if stop in whole else whole)
    assert len({len(new) for new in found}) > 1
    assert sum(done) == len(prompts)


@pytest.mark.parametrize(
    "asked",
    [
        {"repetition_penalty": 1.3},
        {"no_repeat_ngram_size": 2},
        {"suppress_tokens": [70, 71, 72]},
        {"bad_words_ids": [[5, 6], [80]]},
        {"min_length": 12},
    ],
    ids=lambda asked: next(iter(asked)),
)
def test_what_the_generation_config_asks_for_is_done(family, asked):  # noqa: F811
    loaded = load(family("llama"), "float32")
    for name, value in asked.items():
        setattr(loaded.model.generation_config, name, value)
    notes = []
    work = EngineWork(loaded, note=notes.append)
    options = AnswerOptions(max_new_tokens=20)
    said = Transformers(max_new_tokens=20).at_work(work).answer(examples(), options)
    expected = generate(loaded, examples(), options)
    assert [answer.text for answer in said] == [answer.text for answer in expected]
    assert not notes


def test_a_model_whose_own_layers_differ_is_decoded_by_its_own_forward_and_says_so(ftp_tiny_model):
    loaded = load(ftp_tiny_model, "float32")
    plain = loaded.model.forward

    def doubled(*args, **kwargs):
        out = plain(*args, **kwargs)
        out.logits = -out.logits
        return out

    loaded.model.forward = doubled
    notes = []
    options = AnswerOptions(max_new_tokens=6)
    said = Transformers(max_new_tokens=6).at_work(EngineWork(loaded, note=notes.append)).answer(examples(), options)
    assert [answer.text for answer in said] == [answer.text for answer in generate(loaded, examples(), options)]
    assert len(notes) == 1 and "the logits without padding differ by" in notes[0]


def test_samples_are_drawn_by_seed_and_do_not_depend_on_the_batch(ftp_tiny_model):
    loaded = load(ftp_tiny_model, "float32")

    def said(**options):
        engine = Transformers(max_new_tokens=8, samples=3, **{"temperature": 1.5, **options})
        return [a.text for a in engine.at_work(EngineWork(loaded)).answer(examples(), engine.options)]

    once = said(batch_size=2)
    assert once == said(batch_size=7)
    assert once != said(seed=1) and len(set(once)) > len(SAID)
    greedy = Transformers(max_new_tokens=8).at_work(EngineWork(loaded))
    one = [a.text for a in greedy.answer(examples(), greedy.options)]
    assert said(top_p=1e-6) == [text for text in one for _ in range(3)]


def test_what_is_drawn_follows_the_distribution():
    odds = torch.tensor([0.1, 0.5, 0.15, 0.25])
    uniform = (torch.arange(1000) + 0.5) / 1000
    logits = odds.log().expand(1000, 4)
    counts = torch.bincount(torch.tensor(drawn(logits, 1.0, uniform)), minlength=4) / 1000
    assert torch.allclose(counts, odds, atol=2e-3)
    cut = torch.bincount(torch.tensor(drawn(logits, 0.7, uniform)), minlength=4) / 1000
    assert torch.allclose(cut, torch.tensor([0, 2 / 3, 0, 1 / 3]), atol=2e-3)


def test_wide_products_are_those_of_bfloat16_up_to_the_order_of_the_sums():
    from ftp.lm.decoding.torch_wide import ROWS, WideLinear

    torch.manual_seed(0)
    layer = torch.nn.Linear(64, 32).to(torch.bfloat16)
    x = torch.randn(ROWS, 64).to(torch.bfloat16)
    with torch.inference_mode():
        precise = torch.nn.functional.linear(x.double(), layer.weight.double(), layer.bias.double())
        ours, theirs = WideLinear(layer)(x), layer(x)
    assert ours.dtype == torch.bfloat16
    assert (ours.double() - precise).abs().max() <= (theirs.double() - precise).abs().max() + 1e-12
    assert torch.equal(WideLinear(layer)(x[:4]), layer(x[:4]))


def test_a_prompt_that_is_answered_several_times_goes_through_once(ftp_tiny_model, monkeypatch):
    loaded = load(ftp_tiny_model, "float32")
    prompts, tokens = ids_of(loaded), []
    forward = PackedModel.forward

    def counted(self, cache, first, rows, *args):
        tokens.append(sum(map(len, rows)))
        return forward(self, cache, first, rows, *args)

    monkeypatch.setattr(PackedModel, "forward", counted)
    options = AnswerOptions(max_new_tokens=6, batch_size=16)
    once = decode(loaded.model, prompts, (), options)
    read_once, tokens[:] = sum(tokens[:-5]), []
    mixed = [prompt for _ in range(3) for prompt in prompts]
    assert decode(loaded.model, mixed, (), options) == once * 3
    assert sum(tokens[:-5]) <= read_once  # a common beginning that many prompts have may go through by itself


def tree_of_prompts():
    """Prompts of one system prompt: two documents with questions, one of them twice, and some of their own."""
    source = random.Random(2)

    def draw(count):
        return [source.randrange(5, 300) for _ in range(count)]

    system, documents, question = draw(40), [draw(50), draw(35)], draw(12)
    prompts = [system + document + draw(length) for document in documents for length in (9, 4, 14, 1)]
    twice = system + documents[0] + question
    return [*prompts, system + draw(7), twice, system + documents[1], twice, draw(60), system + draw(20), draw(3)]


@pytest.mark.parametrize("adapter", [False, True], ids=["base", "lora"])
@pytest.mark.parametrize("name", PLAIN)
def test_beginnings_of_any_depth_are_computed_once(family, name, adapter):  # noqa: F811
    loaded = load(family(name), "float32", adapter)
    prompts, new = tree_of_prompts(), 8
    loaded.model.eval()
    loaded.model.generation_config.eos_token_id = None
    expected = []
    for prompt in prompts:
        with torch.inference_mode():
            out = loaded.model.generate(input_ids=torch.tensor([prompt]), max_new_tokens=new, do_sample=False)
        expected.append(out[0, len(prompt) :].tolist())
    stop = expected[0][3]  # so that rows end at different times, and new ones find others running
    expected = [[*takewhile(lambda token: token != stop, tokens)] for tokens in expected]
    for batch_size, least in ((2, 300), (5, 500), (64, 850)):
        shared = []
        options = AnswerOptions(max_new_tokens=new, batch_size=batch_size)
        rows = answer_all(loaded.model, prompts, (stop,), options, shared=shared.append)
        assert [row.new for row in rows] == expected
        # All but the first row of a document have it and the system prompt from others, where those run beside them.
        assert shared[0] >= least


def test_the_event_of_answers_says_how_many_tokens_were_shared(ftp_tiny_model):
    loaded, events = load(ftp_tiny_model, "float32"), []
    work = EngineWork(loaded, None, "base", "heldout", emit=lambda event, **values: events.append((event, values)))
    said = ["Read this with care, and answer in a word: the notice term is thirty days. " + text for text in SAID]
    Transformers(max_new_tokens=4).at_work(work).answer(examples(said), AnswerOptions(max_new_tokens=4))
    [(name, values)] = events
    assert name == "answers" and values["who"] == "base" and values["evals"] == "heldout" and values["prompts"] == 5
    assert values["prompt_tokens"] > values["shared_tokens"] > 4 * 40
