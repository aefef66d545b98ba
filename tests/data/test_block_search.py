import re

import numpy as np
import pytest

from mta_jax.data.block_search import BlockSearchConfig, BlockSearchSource
from mta_jax.data.tokenizers import LetterTokenizer

PAPER = [(size, answer) for size in (5, 8) for answer in ("all", "first", "last")]
papers_tasks = pytest.mark.parametrize(("block_size", "answer"), PAPER)
TOKENIZER = LetterTokenizer()
SMALL = BlockSearchConfig(block_size=3, sequence_length=30)


def source(config, split="train", seed=0):
    return BlockSearchSource(config, split=split, seed=seed)


def read(config, sample):
    """Complete blocks, what is left of a cut one, question and answer of a sample."""
    text = TOKENIZER.decode(np.append(sample["inputs"], sample["targets"][-1]))
    context, rest = text.split("#")
    blocks = context.split(".")
    complete = [block for block in blocks if len(block) == config.block_size]
    cut = [block for block in blocks if 0 < len(block) < config.block_size]
    asked = config.num_question_letters
    return complete, cut, rest[:asked], rest[asked:]


def expected_answer(config, block):
    return {"all": block, "first": block[0], "last": block[-1]}[config.answer]


@papers_tasks
def test_sample_is_begin_context_question_answer_end(block_size, answer):
    config = BlockSearchConfig(block_size=block_size, answer=answer)
    sample = source(config)[0]
    tokens = np.append(sample["inputs"], sample["targets"][-1])
    assert len(tokens) == 321
    np.testing.assert_array_equal(sample["targets"][:-1], sample["inputs"][1:])
    assert (tokens[0], tokens[-1]) == (TOKENIZER.bos_id, TOKENIZER.eos_id)
    assert TOKENIZER.decode(tokens)[config.context_length] == "#"
    assert sample["inputs"].dtype == sample["targets"].dtype == np.int32
    _, _, question, answered = read(config, sample)
    assert (len(question), len(answered)) == (2, block_size if answer == "all" else 1)


@papers_tasks
def test_one_block_holds_the_question_and_is_never_the_cut_one(block_size, answer):
    config = BlockSearchConfig(block_size=block_size, answer=answer)
    samples = source(config)
    for index in range(200):
        complete, cut, question, answered = read(config, samples[index])
        assert len(complete) == config.num_complete_blocks
        assert len(complete) + len(cut) == config.num_blocks
        assert len(set(question)) == 2
        holders = [block for block in complete if set(question) <= set(block)]
        assert [expected_answer(config, block) for block in holders] == [answered]


@pytest.mark.parametrize(("block_size", "blocks", "complete"), [(5, 52, 52), (8, 35, 34)])
def test_papers_length_holds_this_many_blocks(block_size, blocks, complete):
    config = BlockSearchConfig(block_size=block_size)
    assert (config.num_blocks, config.num_complete_blocks) == (blocks, complete)


@papers_tasks
def test_blocks_differ_and_so_do_their_letters(block_size, answer):
    config = BlockSearchConfig(block_size=block_size, answer=answer)
    samples = source(config)
    for index in range(30):
        complete, cut, _, _ = read(config, samples[index])
        assert len(set(complete)) == len(complete)
        assert all(len(set(block)) == len(block) for block in complete + cut)


@papers_tasks
def test_loss_is_on_the_answer_and_the_end(block_size, answer):
    config = BlockSearchConfig(block_size=block_size, answer=answer)
    sample = source(config)[3]
    weighted = sample["targets"][sample["targets_weights"] > 0]
    _, _, _, answered = read(config, sample)
    np.testing.assert_array_equal(weighted, [*TOKENIZER.encode(answered), TOKENIZER.eos_id])
    assert set(sample["targets_weights"]) == {0.0, 1.0}
    assert sample["targets_weights"].dtype == np.float32


def test_question_is_in_any_order_and_of_any_letters():
    places, alphabetical = set(), set()
    for index in range(300):
        complete, _, question, _ = read(SMALL, source(SMALL)[index])
        target = next(block for block in complete if set(question) <= set(block))
        places.add(tuple(target.index(letter) for letter in question))
        alphabetical.add(question[0] < question[1])
    assert places == {(0, 1), (1, 0), (0, 2), (2, 0), (1, 2), (2, 1)}
    assert alphabetical == {True, False}


def test_other_blocks_may_hold_one_letter_of_the_question():
    held = set()
    for index in range(100):
        complete, _, question, _ = read(SMALL, source(SMALL)[index])
        held |= {len(set(question) & set(block)) for block in complete}
    assert held == {0, 1, 2}


def test_question_may_have_other_lengths():
    config = BlockSearchConfig(block_size=4, num_question_letters=3, sequence_length=50)
    for index in range(50):
        complete, _, question, answered = read(config, source(config)[index])
        assert len(set(question)) == 3
        assert [block for block in complete if set(question) <= set(block)] == [answered]


def test_place_of_the_target_is_uniform_among_complete_blocks():
    config = BlockSearchConfig(block_size=8, sequence_length=78)
    assert (config.num_complete_blocks, config.num_blocks) == (7, 8)
    counts = np.zeros(7)
    samples = source(config)
    for index in range(2_000):
        complete, _, _, answered = read(config, samples[index])
        counts[complete.index(answered)] += 1
    expected = 2_000 / 7
    # Chi-square with 6 degrees of freedom: above 22.5 once in a thousand seeds.
    assert ((counts - expected) ** 2 / expected).sum() < 22.5


def test_sample_depends_on_seed_split_and_index_only():
    def inputs(split, seed, index):
        return source(SMALL, split, seed)[index]["inputs"]

    first = inputs("train", 0, 5)
    samples = source(SMALL)
    assert (samples[4]["inputs"] != first).any()
    np.testing.assert_array_equal(samples[5]["inputs"], first)
    assert (inputs("heldout", 0, 5) != first).any()
    assert (inputs("train", 1, 5) != first).any()


def test_train_and_heldout_share_no_sample():
    def texts(split):
        return {source(SMALL, split)[index]["inputs"].tobytes() for index in range(200)}

    assert len(texts("train")) == len(texts("heldout")) == 200
    assert not texts("train") & texts("heldout")


def test_splits_have_their_lengths():
    config = BlockSearchConfig(num_train_samples=7, num_heldout_samples=3)
    assert len(source(config, "train")) == 7
    assert len(source(config, "heldout")) == 3


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"block_size": 0}, "block_size 0: a block has 1 to 26 different letters"),
        ({"block_size": 27}, "block_size 27: a block has 1 to 26 different letters"),
        ({"num_question_letters": 0}, "num_question_letters 0: must be in 1..5"),
        ({"num_question_letters": 6}, "num_question_letters 6: must be in 1..5"),
        ({"num_train_samples": 0}, "num_train_samples 0: must be at least 1"),
        ({"num_heldout_samples": -1}, "num_heldout_samples -1: must be at least 1"),
        (
            {"sequence_length": 14},
            "sequence_length 14: too short for a block of 5 letters, needs at least 15",
        ),
        (
            {"sequence_length": 6, "answer": "first"},
            "sequence_length 6: too short for a block of 5 letters, needs at least 11",
        ),
        (
            {"block_size": 26},
            "sequence_length 321 needs 11 blocks of 26 letters, too many of the 0",
        ),
        (
            {"block_size": 1, "num_question_letters": 1, "sequence_length": 30},
            "sequence_length 30 needs 13 blocks of 1 letters, too many of the 25 that lack",
        ),
        (
            {"block_size": 2, "sequence_length": 3_000},
            "sequence_length 3000 needs 998 blocks of 2 letters, too many of the 648 that lack",
        ),
    ],
)
def test_impossible_task_is_refused_at_once(fields, message):
    with pytest.raises(ValueError, match=re.escape(f"data.block_search.{message}")):
        BlockSearchConfig(**fields)


@pytest.mark.parametrize(
    "fields",
    [
        {"sequence_length": 15},
        {"sequence_length": 11, "answer": "last"},
        {"block_size": 26, "sequence_length": 57},
        {"block_size": 1, "num_question_letters": 1, "sequence_length": 29},
        {"block_size": 25, "sequence_length": 321},
    ],
)
def test_smallest_and_fullest_tasks_can_be_drawn(fields):
    config = BlockSearchConfig(**fields)
    complete, _, question, answered = read(config, source(config)[0])
    assert len(set(complete)) == config.num_complete_blocks
    holders = [block for block in complete if set(question) <= set(block)]
    assert [expected_answer(config, block) for block in holders] == [answered]
