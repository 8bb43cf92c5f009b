"""Tokenised rows on disk: found again by their content alone, cut and counted as plain lists would be."""

import dataclasses
import os
import time
from importlib.metadata import version
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from ftp.components import Loader
from ftp.data.examples import encode_batch, read_examples, schema, write_examples
from ftp.files import forget_unused
from ftp.lm import tokens as module
from ftp.lm.rendering import Tokens, encode
from ftp.lm.tokens import TokenRows, token_counter, tokenise
from ftp.types import Example, LoadedTokenizer, Message


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A cache of the test's own; the files in it."""
    monkeypatch.setenv("FTP_CACHE", str(tmp_path / "cache"))
    return lambda: sorted((tmp_path / "cache" / "tokens").glob("*"))


@pytest.fixture
def loaded(ftp_tiny_model):
    tokenizer = AutoTokenizer.from_pretrained(ftp_tiny_model)
    return LoadedTokenizer(tokenizer, (tokenizer.eos_token_id,))


@pytest.fixture
def write(tmp_path):
    made = []

    def write(examples):
        made.append(write_examples(tmp_path / f"rows-{len(made)}.arrow", examples))
        return made[-1]

    return write


CALL = '[{"type": "function", "function": {"name": "f", "arguments": {}}}]'


def talk(n, **more):
    turns = (Message("user", f"Double {n}."), Message("assistant", f"It is {2 * n}, of course."))
    return Example(turns, id=f"a.jsonl:{n}", source="a.jsonl", origin="a", **more)


def rows(count):
    """Rows of every kind, with the rare fields on some."""
    found = []
    for n in range(count):
        example = talk(n)
        if n % 7 == 3:
            example = dataclasses.replace(example, messages=(), text=f"Running text number {n} 🙂.")
        elif n % 7 == 5:
            first, last = example.messages
            context = Message("assistant", "Let me see.", train=False)
            tool = Message("tool", "4", name="f" if n % 2 else "", tool_call_id="c1" if n % 3 else "")
            example = dataclasses.replace(example, messages=(first, context, tool, last))
        elif n % 7 == 6:
            example = dataclasses.replace(example, rejected=(Message("assistant", "No."),))
        found.append(example)
    return found


def plain(loaded, examples):
    return encode(loaded.tokenizer, examples, loaded.stops)


def test_the_rows_are_those_of_encode(loaded, write):
    examples = rows(2345)
    seen = []
    found = tokenise(loaded, write(examples), progress=seen.append)
    assert list(found) == plain(loaded, examples)
    assert seen == [1000, 1000, 345]
    assert len(found) == 2345
    assert found[-1] == found[2344] == plain(loaded, examples[-1:])[0]
    with pytest.raises(IndexError):
        found[2345]


def test_no_rows(loaded, write):
    found = tokenise(loaded, write([]))
    assert (len(found), list(found), list(found.lengths()), list(found.trained_counts())) == (0, [], [], [])
    assert len(found.cut(3)) == len(found.take([])) == 0


def test_the_same_rows_are_tokenised_once(loaded, write, cache, monkeypatch):
    examples = write(rows(1200))
    first = list(tokenise(loaded, examples))
    monkeypatch.setattr(module, "_batches", None)  # nothing is tokenised from here on
    seen = []
    assert list(tokenise(loaded, examples, progress=seen.append)) == first
    assert seen == [1200]
    assert len(cache()) == 1


def test_other_files_ids_origins_groups_and_labels_hit(loaded, write, cache):
    examples = rows(30)
    tokenise(loaded, write(examples))
    other = [
        dataclasses.replace(e, id=f"b:{n}", source="b", origin="house", group=str(n), role="replay", label=None)
        for n, e in enumerate(examples)
    ]
    tokenise(loaded, write(other))
    tokenise(dataclasses.replace(loaded, notes=("said elsewhere",)), write(examples))
    assert len(cache()) == 1


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 2500), st.integers(0, 60), st.integers(0, 40), st.booleans())
def test_rows_hit_wherever_they_come_from(loaded, tmp_path, start, count, before, shuffled):
    pool = read_examples(tmp_path / "pool.arrow") if (tmp_path / "pool.arrow").exists() else None
    if pool is None:
        pool = write_examples(tmp_path / "pool.arrow", rows(2600))
    chosen = pool[start : start + count] if not shuffled else pool.take(range(start, min(start + count, 2600)))
    alone = write_examples(tmp_path / "alone.arrow", iter(list(chosen)))
    moved = write_examples(tmp_path / "moved.arrow", [*rows(before), *chosen])[before:]
    backwards = pool.take(range(2599, -1, -1)).take([2599 - n for n in range(start, min(start + count, 2600))])
    keys = {module._key(loaded, examples, "answers") for examples in (chosen, alone, moved, backwards)}
    assert len(keys) == 1


def test_rows_of_many_batches_hit_when_taken(loaded, write):
    pool = write(rows(3000))
    odd = [n for n in range(3000) if n % 2]
    found = tokenise(loaded, pool.take(odd))
    assert module._key(loaded, write([pool[n] for n in odd]), "answers") == module._key(
        loaded, pool.take(odd), "answers"
    )
    whole = tokenise(loaded, pool)
    assert list(found) == list(whole.take(odd))
    assert list(tokenise(loaded, pool[10:1500])) == list(whole[10:1500])
    assert list(tokenise(loaded, pool.changed({5: talk(7000)}))) == [
        *list(whole[:5]), *plain(loaded, [talk(7000)]), *list(whole[6:])
    ]  # fmt: skip


def with_turn(number, **change):
    def changed(example):
        turns = list(example.messages)
        turns[number] = dataclasses.replace(turns[number], **change)
        return dataclasses.replace(example, messages=tuple(turns))

    return changed


TALK = Example(
    (Message("user", "q"), Message("assistant", "a"), Message("tool", "t"), Message("assistant", "b")), tools="[]"
)
TEXT = Example(text="Some text.")
CHANGES = {
    "a letter": (TALK, with_turn(3, content="B")),
    "a blank": (TALK, with_turn(0, content="q ")),
    "an accent": (TALK, with_turn(0, content="q\u0301")),
    "a role": (TALK, with_turn(0, role="system")),
    "a turn's training": (TALK, with_turn(1, train=False)),
    "a call": (TALK, with_turn(1, tool_calls=CALL)),
    "a tool's name": (TALK, with_turn(2, name="f")),
    "the call a tool answers": (TALK, with_turn(2, tool_call_id="c1")),
    "a turn less": (TALK, lambda e: dataclasses.replace(e, messages=e.messages[:2])),
    "the tools": (TALK, lambda e: dataclasses.replace(e, tools=f"[{CALL}]")),
    "the answer that lost": (TALK, lambda e: dataclasses.replace(e, rejected=(Message("assistant", "c"),))),
    "the text": (TEXT, lambda e: dataclasses.replace(e, text="Some text!")),
    "a text that was an answer": (TALK, lambda e: TEXT),
    "texts that add up to the same": (TALK, lambda e: with_turn(1, content="")(with_turn(0, content="qa")(e))),
}


@pytest.mark.parametrize(("example", "change"), CHANGES.values(), ids=list(CHANGES))
def test_any_change_of_a_row_misses(loaded, write, example, change):
    before, after = ([talk(1), one, talk(2)] for one in (example, change(example)))
    assert module._key(loaded, write(before), "answers") != module._key(loaded, write(after), "answers")


def test_the_order_and_the_number_of_rows_count(loaded, write):
    one, two = talk(1), talk(2)
    keys = {
        module._key(loaded, write(examples), "answers")
        for examples in ([one, two], [two, one], [one], [two], [one, one], [one, two, two], [])
    }
    assert len(keys) == 7


def test_template_tokenizer_stops_and_loss_miss(loaded, write, ftp_tiny_model):
    examples = write(rows(10))

    def fresh(change=lambda tokenizer: None, stops=loaded.stops, loss_on="answers"):
        tokenizer = AutoTokenizer.from_pretrained(ftp_tiny_model)
        change(tokenizer)
        return module._key(LoadedTokenizer(tokenizer, stops), examples, loss_on)

    keys = [
        fresh(),
        fresh(stops=(*loaded.stops, 7)),
        fresh(loss_on="all"),
        fresh(lambda tokenizer: setattr(tokenizer, "chat_template", tokenizer.chat_template + " ")),
        fresh(lambda tokenizer: setattr(tokenizer, "eos_token", "<|im_start|>")),
        fresh(lambda tokenizer: tokenizer.add_tokens(["supplier"])),
        fresh(lambda tokenizer: tokenizer.add_special_tokens({"additional_special_tokens": ["<|tool|>"]})),
    ]
    assert len(set(keys)) == len(keys)
    # Lengths are cut elsewhere, and a tokenizer that was used is the one that it was.
    assert fresh() == keys[0]
    assert fresh(lambda tokenizer: tokenizer("x", truncation=True, max_length=3, padding="max_length")) == keys[0]
    used = AutoTokenizer.from_pretrained(ftp_tiny_model)
    encode(used, rows(10), loaded.stops)
    assert module._key(LoadedTokenizer(used, loaded.stops), examples, "answers") == keys[0]


@pytest.mark.parametrize("library", ["tokenizers", "transformers"])
def test_another_release_of_what_renders_and_encodes_misses(loaded, write, monkeypatch, library):
    examples = write(rows(3))
    before = module._key(loaded, examples, "answers")
    monkeypatch.setattr(module, "version", lambda name: "0" if name == library else version(name))
    assert module._key(loaded, examples, "answers") != before


def test_a_run_that_stops_half_way_leaves_nothing(loaded, write, cache):
    def stop(done):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tokenise(loaded, write(rows(5)), progress=stop)
    assert cache() == []


def test_what_nobody_used_for_a_month_is_forgotten(loaded, write, cache):
    tokenise(loaded, write(rows(5)))
    [old] = cache()
    month_ago = time.time() - 31 * 86400
    os.utime(old, (month_ago, month_ago))
    tokenise(loaded, write(rows(5)))  # used again
    assert old.stat().st_mtime > month_ago + 86400
    os.utime(old, (month_ago, month_ago))
    tokenise(loaded, write(rows(6)))
    assert len(cache()) == 1 and not old.exists()


def test_a_file_that_another_run_forgets_meanwhile(tmp_path, monkeypatch):
    file = tmp_path / "a.arrow"
    file.symlink_to(tmp_path / "gone")  # what is listed and no longer there
    monkeypatch.setattr(Path, "unlink", None)
    forget_unused(tmp_path)


# --- rows, against plain lists --------------------------------------------------------------------------------------

TOKENS = st.lists(st.lists(st.tuples(st.integers(0, 500), st.booleans()), max_size=9), max_size=12)


def table(lists, chunks):
    """Token rows in a table of several chunks."""
    import pyarrow as pa

    kinds = pa.schema([("input_ids", pa.list_(pa.int32())), ("trained", pa.list_(pa.bool_()))])
    columns = [[[pair[part] for pair in pairs] for pairs in lists] for part in (0, 1)]
    whole = pa.table([pa.array(column, kind) for column, kind in zip(columns, kinds.types, strict=True)], schema=kinds)
    size = max(1, len(lists) // chunks)
    parts = [whole.slice(at, size).combine_chunks() for at in range(0, len(lists), size)] or [whole]
    return TokenRows(pa.concat_tables(parts))


@settings(max_examples=300, deadline=None)
@given(TOKENS, st.integers(1, 4), st.integers(0, 10), st.integers(0, 10), st.data())
def test_cut_lengths_counts_and_take_are_those_of_lists(lists, chunks, length, skip, data):
    found = table(lists, chunks)
    indices = data.draw(st.lists(st.integers(0, len(lists) - 1), max_size=15)) if lists else []
    start, stop = data.draw(st.tuples(st.integers(-14, 14), st.integers(-14, 14)))
    step = data.draw(st.sampled_from([1, 2, -1, 3]))
    for rows, plain in (
        (found, lists),
        (found.take(indices), [lists[n] for n in indices]),
        (found[start:stop:step], lists[start:stop:step]),
        (found.cut(length), [pairs[:length] for pairs in lists]),
        (found[start:stop].cut(length).take(range(0)), []),
        (found[start:stop].cut(length), [pairs[:length] for pairs in lists[start:stop]]),
    ):
        assert len(rows) == len(plain)
        assert list(rows) == [Tokens([id for id, _ in pairs], [on for _, on in pairs]) for pairs in plain]
        assert [rows[n] for n in range(len(rows))] == list(rows)
        assert rows.lengths().tolist() == [len(pairs) for pairs in plain]
        assert rows.trained_counts(skip).tolist() == [sum(on for _, on in pairs[skip:]) for pairs in plain]
        assert rows.lengths().dtype == rows.trained_counts().dtype == "int64"


# --- counting for curators ------------------------------------------------------------------------------------------


class Late(Loader):
    """Loads the tokenizer when it is asked for."""

    def load_tokenizer(self):
        LOADED.append(self)
        return LOADED[0]

    def load(self, request):
        raise AssertionError


LOADED = []


def test_tokens_of_texts_are_counted_without_special_ones(loaded, monkeypatch):
    monkeypatch.setitem(globals(), "LOADED", [loaded])
    count = token_counter(Late())
    assert len(LOADED) == 1  # not before it is used
    texts = ["", "The supplier", "🙂\r\n", "word " * 500]
    loaded.tokenizer.backend_tokenizer.enable_truncation(max_length=4)
    assert count(texts) == [len(loaded.tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts]
    assert count([]) == [] and count(["word " * 500])[0] > 400
    assert len(LOADED) == 2


def test_a_loader_without_a_tokenizer_of_its_own_counts_nothing():
    class Bare(Loader):
        """No tokenizer before the weights."""

        def load(self, request):
            raise AssertionError

    assert token_counter(Bare()) is None


def test_a_batch_is_written_as_the_schema_says():
    assert encode_batch(rows(8)).schema == schema()


def test_several_processes_make_the_same_rows_in_the_same_order(tmp_path, ftp_tiny_model, monkeypatch):
    from ftp.lm import tokens
    from ftp_plugins.loaders.weights import load_tokenizer

    loaded = load_tokenizer(str(ftp_tiny_model), None)
    turns = [(Message("user", f"Double {n}é."), Message("assistant", f"{n} doubled is {2 * n}.")) for n in range(2500)]
    examples = write_examples(tmp_path / "e.arrow", (Example(pair, id=f"f:{n}") for n, pair in enumerate(turns)))
    inline = list(tokens._batches(loaded, examples, "answers"))
    monkeypatch.setattr(tokens, "PARALLEL_ROWS", 1)
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0, 1}, raising=False)
    shared_out = list(tokens._batches(loaded, examples, "answers"))
    assert [batch.num_rows for batch in shared_out] == [1000, 1000, 500]
    assert all(a.equals(b) for a, b in zip(inline, shared_out, strict=True))
