import dataclasses
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mta_jax.data import split_tokens
from mta_jax.evaluate.config import EvaluateConfig, checkpoints_of
from mta_jax.evaluate.text_model import folders_of, in_batches, models_of, names_of
from mta_jax.training.loop import train
from tests.training.tiny import text_config


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "lm"
    train(text_config(), folder, name="lm")
    (found,) = models_of(EvaluateConfig(checkpoint=str(folder), batch_size=2))
    return found


PROMPTS = ["a short one", "one that is somewhat longer than that", "x"]


def test_batches_hold_everything_once_the_longest_first():
    lengths = [3, 9, 1, 7, 7]
    batches = list(in_batches(lengths, 2))
    assert [len(batch) for batch in batches] == [2, 2, 1]
    order = [place for batch in batches for place in batch]
    assert sorted(order) == list(range(5))
    assert [lengths[place] for place in order] == sorted(lengths, reverse=True)


def test_scores_are_those_of_the_whole_texts(model):
    choices = [[" yes", " no, not at all"], [" b"], ["y"]]
    counted = []
    found = model.score(PROMPTS, choices, advance=counted.append)
    assert sum(counted) == 3
    network = model.language_model.decoder
    for prompt, own, scores in zip(PROMPTS, choices, found, strict=True):
        for choice, score in zip(own, scores, strict=True):
            tokens = model.tokenizer.encode(prompt + choice)
            row = jnp.asarray([[model.tokenizer.bos_id, *tokens]], jnp.int32)
            logits = np.asarray(nnx.merge(network.graphdef, network.params)(row)[0], np.float64)
            log_probs = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
            count = len(split_tokens(model.tokenizer, prompt, [choice])[1][0])
            places = np.arange(len(tokens) - count, len(tokens))
            expected = log_probs[places, tokens[-count:]].sum()
            assert score.num_tokens == count
            np.testing.assert_allclose(score.log_prob, expected, rtol=1e-4)


def test_texts_do_not_depend_on_the_batch(model):
    together = model.generate(PROMPTS, max_new_tokens=5)
    alone = [model.generate([prompt], max_new_tokens=5)[0] for prompt in PROMPTS]
    other = dataclasses.replace(model, batch_size=3).generate(PROMPTS, max_new_tokens=5)
    assert together == alone == other


def test_names_tell_checkpoints_apart():
    def names(*paths):
        return names_of([Path(path) for path in paths])

    assert names("/r/a/checkpoints/5", "/r/b/checkpoints/5") == ["a", "b"]
    assert names("/r/1/mta/checkpoints/5", "/r/2/mta/checkpoints/5") == ["1/mta", "2/mta"]
    assert names("/r/a/checkpoints/5", "/r/a/checkpoints/10") == ["a@5", "a@10"]
    assert names("/r/w/weights") == ["w"]


def test_a_checkpoint_of_two_names_is_evaluated_once(model):
    run = model.folder.parents[1]
    given = [str(run), f"{run}/", str(model.folder), str(run.parent / "." / "l*")]
    (folder,) = folders_of(EvaluateConfig(checkpoint=given))
    assert folder.samefile(model.folder)


def test_a_glob_names_models_only(tmp_path):
    for name in ("b", "a"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.yaml").write_text("")
    (tmp_path / "c").mkdir()
    found = checkpoints_of(EvaluateConfig(checkpoint=[str(tmp_path / "*"), str(tmp_path / "a")]))
    assert found == [str(tmp_path / "a"), str(tmp_path / "b")]
