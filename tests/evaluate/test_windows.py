import numpy as np
import pytest

from mta_jax.evaluate.windows import strided_batches

SIZES = (2, 90, 65, 64, 9, 30)
# Each token tells its document and place.
TOKENS = [np.arange(100 * i, 100 * i + size) for i, size in enumerate(SIZES)]
DOCUMENTS = [np.stack([tokens, np.ones_like(tokens)], axis=1) for tokens in TOKENS]


@pytest.mark.parametrize(("length", "stride"), [(8, 8), (8, 3), (8, 1), (70, 35), (200, 100)])
@pytest.mark.parametrize("rows", [1, 3])
def test_every_token_counts_once_with_enough_before_it(length, stride, rows):
    counted = []
    for batch in strided_batches(DOCUMENTS, length=length, stride=stride, rows=rows):
        assert batch["inputs"].shape[0] == rows
        assert batch["inputs"].shape[1] <= length
        for inputs, targets, weights in zip(*batch.values(), strict=True):
            for place in np.flatnonzero(weights):
                counted.append(int(targets[place]))
                assert inputs[place] == targets[place] - 1
                # Everything in the row before it is its document, without a gap.
                first = targets[place] - 1 - place
                np.testing.assert_array_equal(inputs[: place + 1], first + np.arange(place + 1))
                in_document = targets[place] % 100
                assert place + 1 >= min(in_document, length - stride + 1)
    expected = [int(token) for tokens in TOKENS for token in tokens[1:]]
    assert sorted(counted) == sorted(expected)


def test_rows_have_few_lengths():
    batches = list(strided_batches(DOCUMENTS, length=70, stride=70, rows=2))
    assert {batch["inputs"].shape[1] for batch in batches} <= {64, 70}


def test_what_is_given_does_not_count():
    documents = [document.copy() for document in DOCUMENTS]
    for document in documents:
        document[: len(document) // 2, 1] = 0
    counted = []
    for batch in strided_batches(documents, length=8, stride=3, rows=2):
        counted += batch["targets"][batch["targets_weights"] > 0].tolist()
    expected = [token for tokens in TOKENS for token in tokens[max(len(tokens) // 2, 1) :].tolist()]
    assert sorted(counted) == sorted(expected)
