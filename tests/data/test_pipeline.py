import dataclasses
import itertools

import grain
import numpy as np
import pytest

from mta_jax.data import (
    BlockSearchConfig,
    ByteTokenizer,
    DataConfig,
    LetterTokenizer,
    TextConfig,
    load_data,
    pipeline,
    tokenizer_for,
)
from mta_jax.data.block_search import BlockSearchSource
from mta_jax.data.standard_library import Document, split_off

TOY = DataConfig(
    batch_size=4,
    block_search=BlockSearchConfig(
        block_size=3, sequence_length=21, num_train_samples=10, num_heldout_samples=6
    ),
)
TEXT = DataConfig(
    source="text", batch_size=3, text=TextConfig(sequence_length=16, heldout_fraction=0.2)
)
both_sources = pytest.mark.parametrize("config", [TOY, TEXT], ids=["block_search", "text"])


def few_documents(domain):
    """Stands in for the standard library, whose tokens take a second."""
    return [
        Document(domain, f"{domain} {index}", f"{domain} {index}: ü " + "abcdefgh" * (index % 7))
        for index in range(20)
    ]


@both_sources
def test_fingerprint_tells_other_content_under_the_same_settings(config, monkeypatch):
    first = load_data(config, seed=0).fingerprint
    assert load_data(config, seed=0).fingerprint == first

    def one_letter_differs(domain):
        found = few_documents(domain)
        return [*found[:-1], dataclasses.replace(found[-1], text=found[-1].text + "!")]

    monkeypatch.setattr(pipeline.standard_library, "documents", one_letter_differs)
    draw = BlockSearchSource.__getitem__
    monkeypatch.setattr(
        BlockSearchSource,
        "__getitem__",
        lambda self, index: draw(self, index) | {"inputs": draw(self, index)["inputs"][::-1]},
    )
    assert load_data(config, seed=0).fingerprint != first


@pytest.fixture(autouse=True)
def _short_library(monkeypatch):
    monkeypatch.setattr(pipeline.standard_library, "documents", few_documents)


def first_batches(config, count=5, **arguments):
    data = load_data(config, **{"seed": 0} | arguments)
    return list(itertools.islice(iter(data.train), count))


def equal(left, right):
    return all(
        first.keys() == second.keys() and all((first[name] == second[name]).all() for name in first)
        for first, second in zip(left, right, strict=True)
    )


@both_sources
def test_same_seed_gives_the_same_batches_and_another_seed_others(config):
    assert equal(first_batches(config), first_batches(config))
    assert not equal(first_batches(config), first_batches(config, seed=1))


@both_sources
def test_batches_have_the_shapes_of_the_config(config):
    names = {"inputs", "targets", "targets_weights"}
    if config.source == "text":
        names |= {"inputs_segment_ids", "inputs_positions"}
    held_out = [
        batch for part in load_data(config, seed=0).held_out.values() for batch in part.batches
    ]
    for batch in first_batches(config) + held_out:
        assert set(batch) == names
        assert {array.shape for array in batch.values()} == {(config.batch_size, config.row_length)}
        assert batch["inputs"].dtype == batch["targets"].dtype == np.int32
        assert batch["targets_weights"].dtype == np.float32


@both_sources
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


@both_sources
def test_restored_position_gives_the_same_next_batches_again_and_again(config):
    data = load_data(config, seed=0)
    iterator = iter(data.train)
    for _ in range(3):
        next(iterator)
    state = iterator.get_state()
    expected = list(itertools.islice(iterator, 4))
    iterator.set_state(state)
    assert equal(itertools.islice(iterator, 4), expected)
    iterator.set_state(state)
    assert equal(itertools.islice(iterator, 4), expected)
    new_process = iter(load_data(config, seed=0).train)
    new_process.set_state(state)
    assert equal(itertools.islice(new_process, 4), expected)
    assert not equal(first_batches(config, count=4), expected)


@both_sources
def test_every_position_of_a_short_stream_can_be_restored(config):
    limited = grain.experimental.LimitIterDataset(load_data(config, seed=0).train, 6)
    grain.experimental.assert_equal_output_after_checkpoint(limited)


@both_sources
def test_held_out_batches_are_the_same_every_time(config):
    for name, part in load_data(config, seed=0).held_out.items():
        again = load_data(config, seed=0).held_out[name]
        assert equal(list(part.batches), list(part.batches))
        assert equal(list(part.batches), list(again.batches))


def test_held_out_samples_come_once_and_the_last_batch_is_padded():
    batches = list(load_data(TOY, seed=7).held_out["heldout"].batches)
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
    tokens = [np.append(tokenizer.encode(document.text), 257) for document in documents]
    return np.bincount(np.concatenate(tokens), minlength=258)


@pytest.mark.parametrize("domain", ["code", "docs"])
def test_held_out_text_is_every_token_of_the_held_out_documents_once(domain):
    _, held_out = split_off(few_documents(domain), 0.2)
    part = load_data(TEXT, seed=0).held_out[domain]
    np.testing.assert_array_equal(text_tokens(part.batches), expected_tokens(held_out))
    assert part.num_bytes == sum(len(document.text.encode()) for document in held_out)


def test_training_text_has_no_held_out_document():
    config = DataConfig(
        source="text", batch_size=3, text=TextConfig(sequence_length=256, heldout_fraction=0.2)
    )
    decode = ByteTokenizer().decode
    text = "".join(decode(row) for batch in first_batches(config, 30) for row in batch["inputs"])
    for domain in ("code", "docs"):
        train, held_out = split_off(few_documents(domain), 0.2)
        assert all(f"{document.name}: " in text for document in train)
        assert not any(f"{document.name}: " in text for document in held_out)


def test_block_search_has_no_bytes_to_count():
    assert load_data(TOY, seed=0).held_out["heldout"].num_bytes is None


def test_each_source_has_its_tokenizer():
    assert isinstance(tokenizer_for(TOY), LetterTokenizer)
    assert isinstance(load_data(TOY, seed=0).tokenizer, LetterTokenizer)
    assert isinstance(tokenizer_for(TEXT), ByteTokenizer)
    assert isinstance(load_data(TEXT, seed=0).tokenizer, ByteTokenizer)


def test_batch_size_is_at_least_one():
    with pytest.raises(ValueError, match=r"data\.batch_size 0: must be at least 1"):
        DataConfig(batch_size=0)
