"""Tokens that several rows begin with are computed once, with the loss and the gradients of computing them for each."""

import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_speed import FAMILIES, VOCABULARY, assert_equal, gradients, plain, tiny, with_lora

from ftp.lm.prefixes import SHORTEST, copies_of, depths_of, forest_of, ranges_of, reading_order
from ftp.lm.rendering import Tokens
from ftp.lm.torch_packing import pack_once
from ftp_plugins.speed.torch_batches import packed_batch
from ftp_plugins.speed.torch_path import FastPath


def draw(count, seed):
    source = random.Random(seed)
    return [source.randrange(1, VOCABULARY) for _ in range(count)]


def tree(seed=0):
    """Rows of one system prompt: two documents with questions, one of them asked twice, and a row of its own."""
    system, one, two = draw(20, seed), draw(30, seed + 1), draw(18, seed + 2)
    whole = system + one + draw(7, seed + 5)
    rows = [
        system + one + draw(9, seed + 3),
        system + two + draw(12, seed + 4),
        whole,
        system + draw(5, seed + 6),
        system + one,
        whole,
        draw(11, seed + 7),
        system + two + draw(1, seed + 8),
    ]
    return [Tokens(row, [at >= 4 for at in range(len(row))]) for row in rows]  # trained on both sides of the branches


def once(model, rows):
    """Loss and gradients with the rows of a batch as a forest."""
    import torch

    path = FastPath(model, torch.float32)
    batch = packed_batch([{"input_ids": row.input_ids, "trained": row.trained} for row in rows], once=True)
    with path.layers(), path.attention():
        loss = path.loss(batch) / len(batch["targets"])
        loss.backward()
    return loss.item(), gradients(model), batch


@pytest.mark.thin(3)
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", ["full", "lora"])
def test_loss_and_gradients_are_those_of_every_row_by_itself(family, method):
    model = tiny(family)
    model = with_lora(model) if method == "lora" else model
    rows = tree()
    ours = once(model, rows)
    assert ours[2]["parents"] is not None and ours[2]["input_ids"].numel() < 0.7 * ours[2]["tokens"]
    assert_equal(ours, plain(model, rows), 1e-5)


def test_long_nodes_take_the_other_kernel():
    model = tiny(num_hidden_layers=1)
    document = draw(600, 1)
    rows = [Tokens(document + draw(n, n), [at > 580 for at in range(600 + n)]) for n in (40, 3, 17)]
    assert_equal(once(model, rows), plain(model, rows), 1e-5)


def test_recomputed_activations_change_nothing():
    model = with_lora(tiny())
    model.activation_checkpointing_enable()
    model.enable_input_require_grads()
    assert_equal(once(model, tree()), plain(model, tree()), 1e-5)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cuts=st.lists(st.tuples(st.integers(0, 60), st.integers(1, 30), st.integers(0, 2)), min_size=1, max_size=6))
def test_any_branches(cuts):
    model = with_lora(tiny("mistral"))
    trunk = draw(60, 1)
    rows = [Tokens(trunk[:at] + draw(n, seed), [True] * (at + n)) for at, n, seed in cuts]
    if sum(len(row.input_ids) - 1 for row in rows):
        assert_equal(once(model, rows), plain(model, rows), 1e-5)


@given(rows=st.lists(st.lists(st.integers(0, 1), min_size=1, max_size=12), min_size=1, max_size=8))
def test_a_forest_spells_its_rows(rows):
    forest = forest_of(rows, shortest=2)
    ranges, depths = (of(tuple(forest.lengths), tuple(forest.parents)) for of in (ranges_of, depths_of))
    sequence = [token for node in forest.tokens for token in node]
    assert all(parent < node for node, parent in enumerate(forest.parents))
    for row, path in zip(rows, forest.paths, strict=True):
        assert [token for node in path for token in forest.tokens[node]] == row
        assert [token for a, b in ranges[path[-1]] for token in sequence[a:b]] == row
        assert depths[path[-1]] + forest.lengths[path[-1]] == len(row)


def alike(one, other):
    """Count the tokens that two rows begin with."""
    return next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


SHORT_ROWS = st.lists(st.lists(st.integers(0, 1), min_size=1, max_size=9), min_size=1, max_size=9)


@given(rows=SHORT_ROWS, known=st.integers(0, 4), least=st.integers(0, 9))
def test_what_is_copied_is_there_before_and_is_the_most_that_there_is(rows, known, least):
    known = min(known, len(rows))
    found = copies_of(rows, known, shortest=2, least_of_turn=least)
    for number, copy in enumerate(found):
        assert copy.turn >= 0 if number >= known else copy == (-1, 0, -1)
        if copy.source >= 0:
            source = rows[copy.source]
            assert 2 <= copy.tokens < len(rows[number]) and source[: copy.tokens] == rows[number][: copy.tokens]
            assert found[copy.source].turn < copy.turn or copy.source < known
    for turn in range(1, 10):
        saved = [copy.tokens for copy in found if copy.turn == turn]
        assert not saved or sum(saved) >= least
    if not least:
        for number in range(known, len(rows)):
            others = [rows[other] for other in range(len(rows)) if other < known or found[other].turn < 1]
            most = max((alike(rows[number], other) for other in others), default=0)
            if found[number].turn > 0:
                assert found[number].tokens >= min(most, len(rows[number]) - 1)


def test_rows_with_one_document_are_read_one_after_the_other():
    system, documents = draw(70, 1), [draw(80, 2), draw(100, 3)]
    rows = [system + documents[n % 2] + draw(5 + n, 10 + n) for n in range(6)] + [system + draw(30, 20), draw(400, 21)]
    order = reading_order(rows)
    assert order == [7, 5, 3, 1, 4, 2, 0, 6], "by document, the longest first"
    assert reading_order([[1], [1, 2], []]) == [1, 0, 2] and reading_order([]) == []


def test_rows_that_share_too_little_are_packed_as_before():
    common = draw(SHORTEST - 1, 1)
    batch = [{"input_ids": common + draw(9, n), "trained": [True] * (SHORTEST + 8)} for n in (2, 3)]
    ours, before = packed_batch(batch, once=True), packed_batch(batch)
    assert ours["parents"] is None and ours["lengths"] == before["lengths"]
    assert all((ours[key] == before[key]).all() for key in ("input_ids", "position_ids", "at", "targets"))


def test_positions_continue_from_the_prefix():
    prefix = draw(20, 1)
    packed, places = pack_once([[*prefix, 1, 2], [*prefix, 3]])
    for place, row in zip(places, ([*prefix, 1, 2], [*prefix, 3]), strict=True):
        assert packed.input_ids[0, place].tolist() == row
        assert packed.position_ids[0, place].tolist() == list(range(len(row)))
    assert places[0][19] == places[1][19]


def test_rows_with_one_document_meet_in_a_batch_and_each_row_comes_once():
    from itertools import chain

    import pyarrow as pa

    from ftp.lm.prefixes import GROUPED, prefix_groups
    from ftp_plugins.speed.torch_batches import Batches

    system = draw(GROUPED, 0)
    documents = [system + draw(70, n) for n in range(1, 9)]
    rows = [document + draw(9, 100 * n + at) for n, document in enumerate(documents) for at in range(3)]
    rows += [system + draw(80, 900 + n) for n in range(20)]
    column = pa.chunked_array([pa.array(rows[:10], pa.list_(pa.int32())), pa.array(rows[10:], pa.list_(pa.int32()))])
    groups = prefix_groups(column, most=6)
    assert groups[24:] == [-1] * 20, "more rows than that begin with the system prompt"
    assert [groups[at : at + 3].count(groups[at]) for at in range(0, 24, 3)] == [3] * 8 and len(set(groups)) == 9
    assert prefix_groups(column.slice(24), most=6) is None
    batches = Batches([len(row) for row in rows], 6, seed=1, alike=False, groups=groups)
    first, second = batches.of(0), batches.of(1)
    assert sorted(chain.from_iterable(first)) == sorted(chain.from_iterable(second)) == list(range(44))
    assert first != second and first == batches.of(0)
    apart = sum(len({at for at, batch in enumerate(first) if set(batch) & {n, n + 1, n + 2}}) for n in range(0, 24, 3))
    assert apart <= 8 + 4, "a group is cut only where a batch ends"


def test_dropout_keeps_rows_apart(tmp_path, ftp_tiny_model):
    from test_training import ROWS, job_of, load, metrics

    from ftp_plugins.adapters.lora import LoRA
    from ftp_plugins.trainers.sft import SFT

    prefix = "You know the colours of all things, and you name them in a word or two, never more. "
    rows = [(prefix + question, answer) for question, answer in ROWS]
    found = {}
    for dropout in (0.0, 0.1):
        job, events = job_of(
            load(ftp_tiny_model, LoRA(r=4, dropout=dropout), dtype="float32"), tmp_path / str(dropout), rows
        )
        SFT(epochs=1, batch_size=4).train(job)
        found[dropout] = metrics(events, "speed", "shared_tokens"), metrics(events, "speed", "separately")
        assert len(metrics(events)) == 2 and metrics(events, "speed", "why_not") == [None]
    assert found[0.1] == ([0], ["every row draws its own dropout"])
    assert found[0.0][1] == [None] and found[0.0][0][0] > 6 * 16


def test_losses_of_rows_that_share_a_prefix_are_those_of_each_row():
    from types import SimpleNamespace

    import torch

    from ftp.lm.torch_losses import token_losses
    from ftp.types import LoadedModel, ModelRequest

    model, rows = tiny("gemma2"), tree()
    loaded = LoadedModel(model, SimpleNamespace(pad_token_id=0), "tiny", "", ModelRequest("tiny"))
    for row, loss in zip(rows, token_losses(loaded, rows), strict=True):
        with torch.no_grad():
            logits = model.eval()(input_ids=torch.tensor([row.input_ids])).logits[0, :-1]
        alone = torch.nn.functional.cross_entropy(logits, torch.tensor(row.labels[1:]), reduction="sum")
        assert loss.nll == pytest.approx(float(alone), rel=1e-5)


@pytest.mark.parametrize("lengths", [(2, 3), (2, 3, 5), (40, 41)])
def test_the_trial_of_the_fast_path_has_a_branch_whatever_the_rows(lengths):
    import pyarrow as pa
    import torch

    from ftp.lm.tokens import TokenRows

    model = tiny()
    rows = TokenRows(
        pa.table(
            {
                "input_ids": pa.array([draw(n, n) for n in lengths], pa.list_(pa.int32())),
                "trained": [[True] * n for n in lengths],
            }
        )
    )
    path = FastPath(model, torch.float32)
    assert path.separately is None and path.disagrees(rows) is None
