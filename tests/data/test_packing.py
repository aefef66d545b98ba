import collections
import itertools
import json

import grain
import numpy as np
import pytest

from mta_jax.data.packing import framed, pack, unpack
from mta_jax.data.tokenizers import ByteTokenizer

TOKENIZER = ByteTokenizer()
LENGTH = 8
# Every token once in all documents, so that it tells where it is from.
LENGTHS = (30, 7, 1, 0, 45, 8, 15, 3, 6, 2)
NUMBERS = iter(range(1, 255))
FRAMED = [
    framed(np.array([next(NUMBERS) for _ in range(length)], np.uint8), TOKENIZER)
    for length in LENGTHS
]
# All (token, next token) pairs of all documents.
DOCUMENTS = [document[:, 0] for document in FRAMED]
PAIRS = collections.Counter(
    pair for tokens in DOCUMENTS for pair in itertools.pairwise(tokens.tolist())
)

both = pytest.mark.parametrize("packing", ["concat", "best_fit"])


def rows(packing, *, separate=True):
    documents = grain.MapDataset.source(FRAMED).to_iter_dataset()
    return list(unpack(pack(documents, LENGTH, packing, seed=1), separate_documents=separate))


def segments(row):
    """Inputs, targets and positions of each document in a row."""
    for segment in range(1, row["inputs_segment_ids"].max() + 1):
        own = row["inputs_segment_ids"] == segment
        yield row["inputs"][own], row["targets"][own], row["inputs_positions"][own]


@both
def test_rows_hold_every_pair_of_neighbouring_tokens_once(packing):
    found = collections.Counter()
    for row in rows(packing):
        real = row["targets_weights"] > 0
        found.update(zip(row["inputs"][real].tolist(), row["targets"][real].tolist(), strict=True))
    assert found == PAIRS


@both
def test_rows_have_one_length_and_padding_in_segment_zero_only(packing):
    for row in rows(packing):
        assert {array.shape for array in row.values()} == {(LENGTH,)}
        assert row["inputs"].dtype == row["targets"].dtype == np.int32
        np.testing.assert_array_equal(row["inputs_segment_ids"] > 0, row["targets_weights"] > 0)
        assert row["inputs_segment_ids"][0] == 1
        real = row["inputs_segment_ids"][row["inputs_segment_ids"] > 0]
        assert set(np.diff(real)) <= {0, 1}


@both
def test_positions_restart_with_each_document(packing):
    for row in rows(packing):
        for inputs, _, positions in segments(row):
            np.testing.assert_array_equal(positions, np.arange(len(inputs)))


@both
def test_targets_are_the_next_inputs_and_never_cross_documents(packing):
    several = 0
    for row in rows(packing):
        several += row["inputs_segment_ids"].max() > 1
        for inputs, targets, _ in segments(row):
            np.testing.assert_array_equal(targets[:-1], inputs[1:])
            run = [*inputs.tolist(), int(targets[-1])]
            assert any(
                run == tokens[start : start + len(run)].tolist()
                for tokens in DOCUMENTS
                for start in range(len(tokens))
            )
    assert several


def test_concat_fills_every_row_but_the_last_in_the_order_of_documents():
    packed = rows("concat")
    assert all((row["targets_weights"] == 1).all() for row in packed[:-1])
    stream = np.concatenate([row["inputs"][row["targets_weights"] > 0] for row in packed])
    expected = np.concatenate([tokens[:-1] for tokens in DOCUMENTS])
    np.testing.assert_array_equal(stream, expected)


def test_best_fit_cuts_only_documents_longer_than_a_row():
    pieces = collections.Counter(
        len(inputs) for row in rows("best_fit") for inputs, _, _ in segments(row)
    )
    expected = collections.Counter()
    for tokens in DOCUMENTS:
        whole, rest = divmod(len(tokens) - 1, LENGTH)
        expected.update([LENGTH] * whole + ([rest] if rest else []))
    assert pieces == expected


@both
def test_documents_that_are_not_kept_apart_have_no_segments(packing):
    assert all(
        set(row) == {"inputs", "targets", "targets_weights"}
        for row in rows(packing, separate=False)
    )


@both
def test_every_position_can_be_restored(packing):
    documents = grain.MapDataset.source(FRAMED).to_iter_dataset()
    packed = unpack(pack(documents, LENGTH, packing, seed=1), separate_documents=True)
    grain.experimental.assert_equal_output_after_checkpoint(packed)
    # In a checkpoint it becomes JSON, which has no tuples.
    expected = list(packed)
    for count in range(len(expected) + 1):
        iterator = iter(packed)
        for _ in range(count):
            next(iterator)
        restored = iter(packed)
        restored.set_state(json.loads(json.dumps(iterator.get_state())))
        rest = list(restored)
        assert len(rest) == len(expected) - count
        for got, want in zip(rest, expected[count:], strict=True):
            for name, array in want.items():
                np.testing.assert_array_equal(got[name], array)


def test_a_document_is_framed_by_its_begin_and_end():
    document = framed(np.array([1, 2], np.uint16), TOKENIZER)
    assert document.tolist() == [[256, 0], [1, 1], [2, 1], [257, 1]]
    assert document.dtype == np.int32


@both
def test_what_is_given_has_no_weight_and_keeps_its_place(packing):
    """Half of each document is a prompt."""
    documents = [framed(d[1:-1], TOKENIZER, num_given=len(d) // 2 - 1) for d in DOCUMENTS]
    source = grain.MapDataset.source(documents).to_iter_dataset()
    given = collections.Counter()
    for row in unpack(pack(source, LENGTH, packing, seed=1), separate_documents=True):
        own = (row["inputs_segment_ids"] > 0) & (row["targets_weights"] == 0)
        given.update(row["targets"][own].tolist())
        assert set(row["targets_weights"]) <= {0.0, 1.0}
    expected = [d[1 : len(d) // 2].tolist() for d in DOCUMENTS]
    assert given == collections.Counter(itertools.chain(*expected))
