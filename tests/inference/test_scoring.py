import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mta_jax.inference import score
from tests.inference.test_decoder import MODEL, PROMPT, VOCAB_SIZE, decoder, write

PROMPTS = [PROMPT, np.array([5, 2, 9, 9, 1, 7, 3]), np.array([8])]
CHOICES = [[[1], [4, 4, 2]], [[7, 0], [3], [2, 6, 1, 1, 5, 9, 2, 4, 4]], [[11]]]
CHOICES = [[np.array(choice) for choice in own] for own in CHOICES]


def expected(prompt, choice):
    """From the logits of the whole text at once."""
    text = np.concatenate([prompt, choice])
    logits = np.asarray(MODEL(jnp.asarray(text[None], jnp.int32))[0, len(prompt) - 1 : -1])
    log_probs = np.asarray(jax.nn.log_softmax(logits))[np.arange(len(choice)), choice]
    return float(log_probs.sum()), bool((logits.argmax(axis=-1) == choice).all())


@pytest.mark.parametrize("limits", [{}, {"chunk": 2}])
def test_a_score_is_that_of_the_whole_text(limits):
    found = score(decoder(**limits), PROMPTS, CHOICES)
    for prompt, own, scores in zip(PROMPTS, CHOICES, found, strict=True):
        assert [s.num_tokens for s in scores] == [len(choice) for choice in own]
        for choice, result in zip(own, scores, strict=True):
            log_prob, is_greedy = expected(prompt, choice)
            np.testing.assert_allclose(result.log_prob, log_prob, rtol=1e-5, atol=1e-5)
            assert result.is_greedy == is_greedy


def test_what_greedy_decoding_writes_is_greedy():
    written = write(max_new_tokens=5)
    other = written.tokens.copy()
    other[-1] = (other[-1] + 1) % VOCAB_SIZE
    ((own, changed),) = score(decoder(), [PROMPT], [[written.tokens, other]])
    assert own.is_greedy
    assert not changed.is_greedy
    np.testing.assert_allclose(own.log_prob, written.log_probs.sum(), rtol=1e-5)


def test_a_long_prompt_leaves_room(monkeypatch):
    monkeypatch.setattr("mta_jax.inference.decoder._ROOM", 1)
    prompt = np.arange(64) % VOCAB_SIZE
    ((result,),) = score(decoder(), [prompt], [[CHOICES[1][2]]])
    np.testing.assert_allclose(result.log_prob, expected(prompt, CHOICES[1][2])[0], rtol=1e-5)


def test_empty_prompts_and_continuations_are_refused():
    empty = np.array([], np.int32)
    with pytest.raises(ValueError, match="choices: one is empty; it needs at least one token"):
        score(decoder(), [PROMPT], [[empty]])
    with pytest.raises(ValueError, match="prompts: one is empty; it needs at least one token"):
        score(decoder(), [PROMPT, empty], [[PROMPT], [PROMPT]])
