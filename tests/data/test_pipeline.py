import dataclasses
import gzip
import itertools
import json

import grain
import numpy as np
import pytest

from mta_jax.data import (
    BlockSearchConfig,
    ByteTokenizer,
    DataConfig,
    DomainConfig,
    LetterTokenizer,
    TextConfig,
    joined,
    load_data,
    tokenizer_for,
)
from mta_jax.data.block_search import BlockSearchSource
from mta_jax.data.domains import split_off
from mta_jax.data.sources import Document, InMemoryDocuments, standard_library
from mta_jax.data.sources import open as open_module
from mta_jax.errors import ConfigError, UserError

TOY = DataConfig(
    batch_size=4,
    block_search=BlockSearchConfig(
        block_size=3, sequence_length=21, num_train_samples=10, num_heldout_samples=6
    ),
)


def text(batch_size=4, **fields):
    defaults = {"sequence_length": 16, "heldout_fraction": 0.2, "shuffle_rows": 8}
    return DataConfig(source="text", batch_size=batch_size, text=TextConfig(**defaults | fields))


TEXT = text()
BEST_FIT = text(packing="best_fit", mixing="rows")
every_source = pytest.mark.parametrize(
    "config", [TOY, TEXT, BEST_FIT], ids=["block_search", "text", "best_fit"]
)


def few_documents(domain):
    """Stands in for the standard library."""
    return [
        Document(f"{domain} {index}", f"{domain} {index}: ü " + "abcdefgh" * (index % 7))
        for index in range(20)
    ]


def code():
    return few_documents("code")


def docs():
    return few_documents("docs")


@pytest.fixture(autouse=True)
def _short_library(monkeypatch):
    monkeypatch.setattr(open_module, "_PYTHON", {"python:code": code, "python:docs": docs})


def load(config, seed=0, **arguments):
    return load_data(config, seed=seed, held_out_rows=config.rows, **arguments)


@every_source
def test_summary_tells_other_content_under_the_same_settings(config, monkeypatch):
    first = load(config).summary
    assert load(config).summary == first

    def one_letter_differs():
        found = few_documents("code")
        return [*found[:-1], dataclasses.replace(found[-1], content=found[-1].content + "!")]

    monkeypatch.setitem(open_module._PYTHON, "python:code", one_letter_differs)
    draw = BlockSearchSource.__getitem__
    monkeypatch.setattr(
        BlockSearchSource,
        "__getitem__",
        lambda self, index: draw(self, index) | {"inputs": draw(self, index)["inputs"][::-1]},
    )
    assert load(config).summary != first


def first_batches(config, count=5, **arguments):
    iterator = iter(load(config, **arguments).train)
    batches = list(itertools.islice(iterator, count))
    iterator.close()
    return batches


def equal(left, right):
    return all(
        first.keys() == second.keys() and all((first[name] == second[name]).all() for name in first)
        for first, second in zip(left, right, strict=True)
    )


@every_source
def test_same_seed_gives_the_same_batches_and_another_seed_others(config):
    assert equal(first_batches(config), first_batches(config))
    assert not equal(first_batches(config), first_batches(config, seed=1))


@every_source
def test_batches_have_the_shapes_of_the_config(config):
    names = {"inputs", "targets", "targets_weights"}
    if config.source == "text":
        names |= {"inputs_segment_ids", "inputs_positions"}
    held_out = [batch for part in load(config).held_out.values() for batch in part.batches]
    for batch in first_batches(config) + held_out:
        assert set(batch) == names
        assert {array.shape for array in batch.values()} == {(config.rows, config.row_length)}
        assert batch["inputs"].dtype == batch["targets"].dtype == np.int32
        assert batch["targets_weights"].dtype == np.float32


@every_source
def test_train_is_endless(config):
    # Far more than one pass over the data of these configs.
    assert len(first_batches(config, count=60)) == 60


def test_epochs_of_block_search_have_every_sample_once_in_another_order():
    config = DataConfig(batch_size=5, block_search=TOY.block_search)
    rows = [row.tobytes() for batch in first_batches(config, count=4) for row in batch["inputs"]]
    source = BlockSearchSource(config.block_search, split="train", seed=0)
    samples = [source[index]["inputs"].tobytes() for index in range(10)]
    assert sorted(rows[:10]) == sorted(rows[10:]) == sorted(samples)
    assert rows[:10] != samples
    assert rows[:10] != rows[10:]


@every_source
def test_restored_position_gives_the_same_next_batches_again_and_again(config):
    data = load(config)
    iterator = iter(data.train)
    for _ in range(3):
        next(iterator)
    # As it is in a checkpoint.
    state = json.loads(json.dumps(iterator.get_state()))
    expected = list(itertools.islice(iterator, 4))
    iterator.set_state(state)
    assert equal(itertools.islice(iterator, 4), expected)
    iterator.set_state(state)
    assert equal(itertools.islice(iterator, 4), expected)
    new_process = iter(load(config).train)
    new_process.set_state(state)
    assert equal(itertools.islice(new_process, 4), expected)
    assert not equal(first_batches(config, count=4), expected)


@every_source
def test_every_position_of_a_short_stream_can_be_restored(config):
    limited = grain.experimental.LimitIterDataset(load(config).train, 6)
    grain.experimental.assert_equal_output_after_checkpoint(limited)


@every_source
def test_held_out_batches_are_the_same_every_time(config):
    for name, part in load(config).held_out.items():
        again = load(config).held_out[name]
        assert equal(list(part.batches), list(part.batches))
        assert equal(list(part.batches), list(again.batches))


def test_held_out_samples_come_once_and_the_last_batch_is_padded():
    batches = list(load(TOY, seed=7).held_out["heldout"].batches)
    assert len(batches) == 2
    inputs = np.concatenate([batch["inputs"] for batch in batches])
    weights = np.concatenate([batch["targets_weights"] for batch in batches])
    source = BlockSearchSource(TOY.block_search, split="heldout", seed=7)
    samples = [source[index] for index in range(6)]
    np.testing.assert_array_equal(inputs[:6], [sample["inputs"] for sample in samples])
    np.testing.assert_array_equal(weights[:6], [sample["targets_weights"] for sample in samples])
    assert (weights[6:] == 0).all()


def text_tokens(batches):
    """How often each byte is a target of weight 1."""
    weighted = [batch["targets"][batch["targets_weights"] > 0] for batch in batches]
    return np.bincount(np.concatenate(weighted), minlength=258)


def expected_tokens(documents):
    tokenizer = ByteTokenizer()
    tokens = [np.append(tokenizer.encode(document.content), 257) for document in documents]
    return np.bincount(np.concatenate(tokens), minlength=258)


def held_out_of(domain, fraction):
    source = InMemoryDocuments(few_documents(domain))
    return [[part[i] for i in range(len(part))] for part in split_off(source, domain, fraction)]


@pytest.mark.parametrize("domain", ["code", "docs"])
def test_held_out_text_is_every_token_of_the_held_out_documents_once(domain):
    _, kept = held_out_of(domain, 0.2)
    part = load(TEXT).held_out[domain]
    np.testing.assert_array_equal(text_tokens(part.batches), expected_tokens(kept))
    decoded = [ByteTokenizer().decode(rows[:, 0]) for rows in part.documents]
    assert decoded == [document.content for document in kept]


def test_held_out_rows_can_be_limited():
    part = load(text(heldout_rows=3)).held_out["code"]
    rows = [row for batch in part.batches for row in batch["targets_weights"] if row.any()]
    assert len(rows) == 3


def test_training_text_has_no_held_out_document():
    decode = ByteTokenizer().decode
    batches = first_batches(text(sequence_length=256), 60)
    found = "".join(decode(row) for batch in batches for row in batch["inputs"])
    for domain in ("code", "docs"):
        train, kept = held_out_of(domain, 0.2)
        assert all(f"{document.name}: " in found for document in train)
        assert not any(f"{document.name}: " in found for document in kept)


def documents(count, length=3):
    """Texts that tell their number in every character."""
    return [Document(f"{i}", chr(ord("!") + i) * length) for i in range(count)]


def test_split_takes_whole_documents_by_their_names():
    source = InMemoryDocuments(documents(40))
    train, kept = split_off(source, "a", 0.2)
    names = [[part.name(i) for i in range(len(part))] for part in (train, kept)]
    assert len(names[1]) == 8
    assert sorted(map(int, names[0] + names[1])) == list(range(40))
    assert names[0] == sorted(names[0], key=int)
    # Not simply the first, the last or every fifth of them.
    places = [int(name) for name in names[1]]
    assert len({later - earlier for earlier, later in itertools.pairwise(places)}) > 1
    reversed_kept = split_off(InMemoryDocuments(documents(40)[::-1]), "a", 0.2)[1]
    assert {reversed_kept.name(i) for i in range(8)} == set(names[1])
    larger = split_off(source, "a", 0.4)[1]
    assert set(names[1]) < {larger.name(i) for i in range(len(larger))}


@pytest.mark.parametrize("compressed", [False, True])
def test_what_is_held_out_does_not_change_when_a_folder_moves(tmp_path, compressed):
    (tmp_path / "here").mkdir()
    config = streams(tmp_path / "here", compressed)
    data = load(config)
    before = text_tokens(data.held_out["a"].batches)
    (tmp_path / "here").rename(tmp_path / "there")
    domains = {"a": DomainConfig(train=f"{tmp_path}/there/*")}
    moved = dataclasses.replace(config.text, domains=domains)
    after = load(dataclasses.replace(config, text=moved))
    np.testing.assert_array_equal(text_tokens(after.held_out["a"].batches), before)
    assert after.summary == data.summary


def test_a_domain_of_one_document_needs_a_held_out_of_its_own(tmp_path):
    (tmp_path / "a.txt").write_text("text")
    domains = {"a": DomainConfig(train=str(tmp_path))}
    with pytest.raises(ConfigError, match=r"1 of 1 documents of domain a leaves none"):
        load(text(domains=domains))
    assert load(text(domains=domains, heldout_fraction=0.0)).held_out == {}


def lines(path, texts):
    path.write_text("".join(json.dumps({"text": each}) + "\n" for each in texts))


def share_of_tokens(config, tokens, count=40):
    batches = first_batches(config, count)
    inputs = np.concatenate([batch["inputs"][batch["targets_weights"] > 0] for batch in batches])
    inputs = inputs[inputs < 256]
    return np.isin(inputs, [ord(token) for token in tokens]).mean()


def test_weights_choose_documents_or_rows(tmp_path):
    lines(tmp_path / "long.jsonl", ["a" * 30] * 9)
    lines(tmp_path / "short.jsonl", ["b" * 10] * 5)
    domains = {
        "long": DomainConfig(train=str(tmp_path / "long.jsonl"), weight=1.0),
        "short": DomainConfig(train=str(tmp_path / "short.jsonl"), weight=3.0),
    }
    by_document = share_of_tokens(text(domains=domains), "a")
    assert by_document == pytest.approx(30 / (30 + 3 * 10), abs=0.03)
    by_row = share_of_tokens(text(domains=domains, mixing="rows"), "a")
    # Rows are full of tokens; those of begin and end do not count here.
    expected = (30 / 31) / (30 / 31 + 3 * 10 / 11)
    assert by_row == pytest.approx(expected, abs=0.03)


def test_without_weights_every_document_comes_once_a_pass(tmp_path):
    lines(tmp_path / "a.jsonl", [chr(ord("A") + i) * 3 for i in range(24)])
    lines(tmp_path / "b.jsonl", [chr(ord("a") + i) * 3 for i in range(8)])
    domains = {name: DomainConfig(train=str(tmp_path / f"{name}.jsonl")) for name in "ab"}
    config = text(batch_size=8, domains=domains, heldout_fraction=0.0)
    batches = first_batches(config, 1)
    # 32 documents of 4 pairs are 8 rows of 16.
    found = np.bincount(batches[0]["inputs"].ravel(), minlength=258)
    assert (found[ord("A") : ord("A") + 24] == 3).all()
    assert (found[ord("a") : ord("a") + 8] == 3).all()


def test_a_domain_of_weight_zero_is_held_out_only(tmp_path):
    domains = {
        "code": DomainConfig(train="python:code", weight=1.0),
        "docs": DomainConfig(train="python:docs", weight=0.0),
    }
    config = text(domains=domains)
    found = "".join(
        ByteTokenizer().decode(row)
        for batch in first_batches(config, 20)
        for row in batch["inputs"]
    )
    assert "docs" not in found
    assert set(load(config).held_out) == {"code", "docs"}


def test_a_held_out_of_its_own_leaves_all_training_text(tmp_path):
    lines(tmp_path / "a.jsonl", ["a" * 5] * 10)
    lines(tmp_path / "b.jsonl", ["b" * 5] * 2)
    domains = {
        "a": DomainConfig(train=str(tmp_path / "a.jsonl"), heldout=str(tmp_path / "b.jsonl"))
    }
    data = load(text(domains=domains))
    assert text_tokens(data.held_out["a"].batches)[ord("b")] == 10
    assert data.summary["a"]["documents"] == 10
    assert data.summary["a (held out)"]["documents"] == 2


def streams(tmp_path, compressed):
    for part in range(3):
        content = "".join(
            f'{{"text": "{chr(ord("A") + 8 * part + i) * 5}"}}\n' for i in range(8)
        ).encode()
        suffix = ".gz" if compressed else ""
        path = tmp_path / f"{part}.jsonl{suffix}"
        path.write_bytes(gzip.compress(content) if compressed else content)
    return text(
        batch_size=6,
        domains={"a": DomainConfig(train=f"{tmp_path}/*")},
        heldout_fraction=0.25,
        heldout_rows=100,
        shuffle_documents=5,
    )


def tokens_of(batches):
    return {int(t) for batch in batches for t in batch["inputs"].ravel() if 0 < t < 256}


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("count", [2, 3, 5])
def test_streams_share_out_the_documents(tmp_path, compressed, count):
    config = streams(tmp_path, compressed)
    text_config = dataclasses.replace(config.text, shuffle_rows=1, shuffle_documents=1)
    config = dataclasses.replace(config, batch_size=count, streams=count, text=text_config)
    shares = [(index, index + 1) for index in range(count)]
    first = [tokens_of(first_batches(config, 1, rows=rows)) for rows in shares]
    assert not any(a & b for a, b in itertools.combinations(first, 2))
    found = [tokens_of(first_batches(config, 40, rows=rows)) for rows in shares]
    held_out = np.flatnonzero(text_tokens(load(config).held_out["a"].batches)[:256])
    assert sorted(set().union(*found)) == sorted(
        set(range(ord("A"), ord("A") + 24)) - set(held_out.tolist())
    )


@pytest.mark.parametrize("num_streams", [1, 2, 4])
@pytest.mark.parametrize("num_processes", [1, 2, 4])
def test_a_batch_is_the_same_for_any_number_of_processes(num_streams, num_processes):
    config = dataclasses.replace(TEXT, streams=num_streams)
    whole = first_batches(config, 3)
    each = config.rows // num_processes
    parts = [
        first_batches(config, 3, rows=(first, first + each))
        for first in range(0, config.rows, each)
    ]
    for index, batch in enumerate(whole):
        for name, rows in batch.items():
            got = np.concatenate([part[index][name] for part in parts])
            np.testing.assert_array_equal(got, rows)


@every_source
def test_other_processes_continue_in_the_same_order(config):
    config = dataclasses.replace(config, streams=2)
    half = config.rows // 2
    iterators = [iter(load(config, rows=rows).train) for rows in ((0, half), (half, config.rows))]
    for iterator in iterators:
        next(iterator)
    position = json.loads(json.dumps(joined(i.get_state() for i in iterators)))
    alone = iter(load(config).train)
    alone.set_state(position)
    want = [next(iterator) for iterator in iterators]
    got = next(alone)
    for name, rows in got.items():
        np.testing.assert_array_equal(rows, np.concatenate([part[name] for part in want]))


def test_streams_that_do_not_divide_a_batch_are_refused():
    with pytest.raises(ValueError, match=r"data.streams 3: must divide the 4 rows of a batch"):
        dataclasses.replace(TEXT, streams=3)


def test_passes_over_a_stream_come_in_another_order(tmp_path):
    config = dataclasses.replace(streams(tmp_path, compressed=True), batch_size=1)
    rows = [batch["inputs"].tobytes() for batch in first_batches(config, 40)]
    assert len(set(rows)) > 20


def test_a_stream_needs_a_bound_on_what_is_held_out_of_it(tmp_path):
    config = streams(tmp_path, compressed=True)
    unbounded = dataclasses.replace(config.text, heldout_rows=None)
    with pytest.raises(ConfigError, match=r"domains.a.heldout null: holding out a share of a str"):
        load(dataclasses.replace(config, text=unbounded))
    none = dataclasses.replace(unbounded, heldout_fraction=0.0)
    assert load(dataclasses.replace(config, text=none)).held_out == {}


def test_no_text_is_trained_on_and_held_out(tmp_path):
    for name in "ab":
        (tmp_path / f"{name}.txt").write_text(name)
    domains = {"a": DomainConfig(train=str(tmp_path), heldout=str(tmp_path / "b.txt"))}
    with pytest.raises(ConfigError, match=r"a.heldout: .*b.txt is training text of a, which"):
        load(text(domains=domains))
    domains = {
        "a": DomainConfig(train=str(tmp_path / "a.txt")),
        "all": DomainConfig(train=str(tmp_path)),
    }
    with pytest.raises(ConfigError, match=r"all.train: .*a.txt is training text of a too"):
        load(text(domains=domains))
    domains = {
        "a": DomainConfig(train=str(tmp_path / "a.txt"), weight=1.0),
        "b": DomainConfig(train=str(tmp_path), heldout=str(tmp_path / "b.txt"), weight=0.0),
    }
    assert set(load(text(domains=domains, heldout_fraction=0.0)).held_out) == {"b"}


def test_streams_need_weights_where_there_are_several(tmp_path):
    config = streams(tmp_path, compressed=True)
    domains = config.text.domains | {"docs": DomainConfig(train="python:docs")}
    with pytest.raises(ConfigError, match=r"domains.a.weight null: a stream does not tell"):
        load(text(domains=domains, heldout_rows=5))


def test_text_that_gives_nothing_ends_instead_of_going_round(tmp_path):
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(b"{\n" * 5))
    config = text(
        domains={"a": DomainConfig(train=str(tmp_path))}, max_skipped=1.0, heldout_fraction=0.0
    )
    with pytest.raises(UserError, match=r"domain a: a whole pass over it gave no document"):
        first_batches(config, 1)
    lines(tmp_path / "b.jsonl", [""] * 5)
    config = text(domains={"a": DomainConfig(train=str(tmp_path / "b.jsonl"))}, max_skipped=1.0)
    with pytest.raises(UserError, match=r"100 of 100 documents cannot be read"):
        first_batches(config, 1)


def test_skipped_documents_are_counted_by_domain(tmp_path):
    lines(tmp_path / "a.jsonl", ["fine"] * 5 + [""])
    config = text(
        domains={"a": DomainConfig(train=str(tmp_path))}, heldout_fraction=0.0, max_skipped=0.5
    )
    data = load(config)
    iterator = iter(data.train)
    next(iterator)
    iterator.close()
    skips = data.skips["a"]
    assert skips.num_skipped > 0
    assert skips.num_read == pytest.approx(5 * skips.num_skipped, abs=5)


def test_each_source_has_its_tokenizer():
    assert isinstance(tokenizer_for(TOY), LetterTokenizer)
    assert isinstance(load(TOY).tokenizer, LetterTokenizer)
    assert isinstance(tokenizer_for(TEXT), ByteTokenizer)
    assert isinstance(load(TEXT).tokenizer, ByteTokenizer)


def test_a_tokenizer_that_is_not_there_is_a_config_error():
    with pytest.raises(ConfigError, match=r"data.text.tokenizer nowhere.json"):
        tokenizer_for(text(tokenizer="nowhere.json"))


def test_python_itself_may_have_no_sources(monkeypatch):
    def none():
        raise FileNotFoundError("no Python sources")

    monkeypatch.setitem(open_module._PYTHON, "python:code", none)
    with pytest.raises(ConfigError, match=r"domains.code.train python:code: no Python sources"):
        load(TEXT)
    assert standard_library.docs()


def test_batch_size_is_at_least_one():
    with pytest.raises(ValueError, match=r"data\.batch_size 0: must be at least 1"):
        DataConfig(batch_size=0)
