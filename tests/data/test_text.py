import collections
import itertools
import re

import grain
import numpy as np
import pytest

from mta_jax.data.standard_library import Document
from mta_jax.data.text import PieceSource, TextConfig, packed_rows
from mta_jax.data.tokenizers import ByteTokenizer

TOKENIZER = ByteTokenizer()
LENGTH = 8
# Every character once in all documents, so that a token tells where it is from.
TEXT_LENGTHS = (30, 7, 1, 0, 45, 8, 15)
CHARACTERS = iter(map(chr, range(1, 128)))
DOCUMENTS = [
    Document("docs", str(length), "".join(next(CHARACTERS) for _ in range(length)))
    for length in TEXT_LENGTHS
]
TOKENS = [
    [TOKENIZER.bos_id, *TOKENIZER.encode(document.text).tolist(), TOKENIZER.eos_id]
    for document in DOCUMENTS
]
# All (token, next token) pairs of all documents.
PAIRS = collections.Counter(pair for tokens in TOKENS for pair in itertools.pairwise(tokens))


def pieces():
    return PieceSource(DOCUMENTS, TOKENIZER, LENGTH)


def rows(shuffled):
    source = grain.MapDataset.source(pieces())
    if shuffled:
        source = source.shuffle(seed=3)
    return list(packed_rows(source.to_iter_dataset(), LENGTH))


def segments(row):
    """Inputs, targets and positions of each document in a row."""
    for segment in range(1, row["inputs_segment_ids"].max() + 1):
        own = row["inputs_segment_ids"] == segment
        yield row["inputs"][own], row["targets"][own], row["inputs_positions"][own]


def test_pieces_hold_every_pair_of_neighbouring_tokens_once():
    found = collections.Counter()
    for piece in (pieces()[index] for index in range(len(pieces()))):
        assert 1 <= len(piece["inputs"]) <= LENGTH
        assert len(piece["inputs"]) == len(piece["targets"]) == len(piece["targets_weights"])
        assert (piece["targets_weights"] == 1).all()
        found.update(zip(piece["inputs"].tolist(), piece["targets"].tolist(), strict=True))
    assert found == PAIRS


def test_pieces_follow_each_other():
    first, second = pieces()[0], pieces()[1]
    np.testing.assert_array_equal(first["inputs"], TOKENS[0][:LENGTH])
    np.testing.assert_array_equal(second["inputs"], TOKENS[0][LENGTH : 2 * LENGTH])
    assert first["targets"][-1] == second["inputs"][0]
    assert first["inputs"].dtype == first["targets"].dtype == np.int32
    assert first["targets_weights"].dtype == np.float32


shuffled_or_not = pytest.mark.parametrize("shuffled", [False, True])


@shuffled_or_not
def test_rows_hold_every_pair_of_neighbouring_tokens_once(shuffled):
    found = collections.Counter()
    for row in rows(shuffled):
        real = row["targets_weights"] > 0
        found.update(zip(row["inputs"][real].tolist(), row["targets"][real].tolist(), strict=True))
    assert found == PAIRS


@shuffled_or_not
def test_rows_have_one_length_and_padding_in_segment_zero_only(shuffled):
    for row in rows(shuffled):
        assert {array.shape for array in row.values()} == {(LENGTH,)}
        np.testing.assert_array_equal(row["inputs_segment_ids"] > 0, row["targets_weights"] > 0)
        assert row["inputs_segment_ids"][0] == 1
        real = row["inputs_segment_ids"][row["inputs_segment_ids"] > 0]
        assert set(np.diff(real)) <= {0, 1}


@shuffled_or_not
def test_positions_restart_with_each_document(shuffled):
    for row in rows(shuffled):
        for inputs, _, positions in segments(row):
            np.testing.assert_array_equal(positions, np.arange(len(inputs)))


@shuffled_or_not
def test_targets_are_the_next_inputs_and_never_cross_documents(shuffled):
    several = 0
    for row in rows(shuffled):
        several += row["inputs_segment_ids"].max() > 1
        for inputs, targets, _ in segments(row):
            np.testing.assert_array_equal(targets[:-1], inputs[1:])
            run = [*inputs.tolist(), int(targets[-1])]
            assert any(
                run == tokens[start : start + len(run)]
                for tokens in TOKENS
                for start in range(len(tokens))
            )
    assert several


def test_full_pieces_stay_whole_rows():
    expected = sum((len(tokens) - 1) // LENGTH for tokens in TOKENS)
    whole = [row for row in rows(False) if (row["inputs_segment_ids"] == 1).all()]
    assert len(whole) >= expected


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"domains": []}, "domains []: name at least one domain, each once"),
        ({"domains": ["docs", "docs"]}, "domains ['docs', 'docs']: name at least one"),
        ({"sequence_length": 1}, "sequence_length 1: must be at least 2"),
        ({"heldout_fraction": 0.0}, "heldout_fraction 0.0: must be above 0, at most 0.5"),
        ({"heldout_fraction": 0.6}, "heldout_fraction 0.6: must be above 0, at most 0.5"),
    ],
)
def test_wrong_field_is_named_with_its_value(fields, message):
    with pytest.raises(ValueError, match=re.escape(f"data.text.{message}")):
        TextConfig(**fields)
