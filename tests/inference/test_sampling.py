import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mta_jax.inference import Sampling
from mta_jax.inference.sampling import draw

PROBS = np.array([0.4, 0.05, 0.3, 0.15, 0.1])
NUM_DRAWS = 4000


def shares(seen=None, probs=PROBS, **settings):
    """How often each token is drawn."""
    logits = jnp.log(jnp.broadcast_to(jnp.asarray(probs, jnp.float32), (NUM_DRAWS, len(probs))))
    keys = jax.random.split(jax.random.key(0), NUM_DRAWS)
    if seen is not None:
        seen = jnp.broadcast_to(jnp.asarray(seen), logits.shape)
    tokens, _ = jax.jit(draw)(logits, Sampling(**settings).settings, keys, seen)
    return np.bincount(tokens, minlength=len(probs)) / NUM_DRAWS


def normalized(*weights):
    return np.array(weights) / sum(weights)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, PROBS),
        ({"temperature": 2.0}, normalized(*PROBS**0.5)),
        ({"temperature": 0.5}, normalized(*PROBS**2)),
        ({"temperature": 0.0}, [1, 0, 0, 0, 0]),
        ({"temperature": 1e-5}, [1, 0, 0, 0, 0]),
        ({"top_k": 1}, [1, 0, 0, 0, 0]),
        ({"top_k": 3}, normalized(0.4, 0, 0.3, 0.15, 0)),
        ({"top_k": 9}, PROBS),
        # 0.4 + 0.3 does not reach 0.75 yet, so that 0.15 is kept as well.
        ({"top_p": 0.75}, normalized(0.4, 0, 0.3, 0.15, 0)),
        ({"top_p": 0.01}, [1, 0, 0, 0, 0]),
        ({"top_p": 1.0}, PROBS),
        ({"min_p": 0.3}, normalized(0.4, 0, 0.3, 0.15, 0)),
        ({"min_p": 1.0}, [1, 0, 0, 0, 0]),
        # Of the two that top-k keeps, the first alone has more than half.
        ({"top_k": 2, "top_p": 0.5}, [1, 0, 0, 0, 0]),
        ({"temperature": 2.0, "min_p": 0.6}, normalized(0.4**0.5, 0, 0.3**0.5, 0.15**0.5, 0)),
    ],
    ids=str,
)
def test_tokens_are_drawn_as_often_as_the_filters_say(settings, expected):
    np.testing.assert_allclose(shares(**settings), expected, rtol=0, atol=0.03)


def test_tokens_of_the_same_probability_share_a_place_among_the_likeliest():
    found = shares(probs=np.array([0.25, 0.25, 0.25, 0.25]), top_k=2)
    np.testing.assert_allclose(found, [0.25] * 4, rtol=0, atol=0.03)


def test_a_penalty_makes_what_was_there_less_likely():
    seen = [True, False, False, False, False]
    # Logarithms of probabilities are negative: times the penalty.
    weights = [0.4**2.0, *PROBS[1:]]
    found = shares(seen=seen, repetition_penalty=2.0)
    np.testing.assert_allclose(found, normalized(*weights), rtol=0, atol=0.03)


def test_a_penalty_divides_positive_logits_also_of_the_likeliest_token():
    logits = jnp.array([[3.0, 2.0, -1.0]])
    settings = Sampling(temperature=0.0, repetition_penalty=2.0).settings
    seen = jnp.array([[True, False, False]])
    tokens, _ = draw(logits, settings, jax.random.split(jax.random.key(0), 1), seen)
    assert tokens.tolist() == [1]


def test_log_probabilities_are_those_of_the_model():
    logits = jnp.log(jnp.asarray(PROBS, jnp.float32))[None] + 5.0
    settings = Sampling(temperature=0.0, top_k=1).settings
    tokens, log_probs = draw(logits, settings, jax.random.split(jax.random.key(0), 1))
    np.testing.assert_allclose(log_probs, np.log(PROBS[tokens]), rtol=1e-5)


def test_what_is_off_is_not_compiled():
    assert Sampling(temperature=0.0, top_k=5, top_p=0.5).settings == {}
    assert Sampling(top_p=1.0, repetition_penalty=1.0).settings == {"temperature": 1.0}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": -1.0}, "temperature -1.0: must be at least 0"),
        ({"temperature": float("nan")}, "temperature nan: must be at least 0"),
        ({"temperature": float("inf")}, "temperature inf: must be at least 0, and finite"),
        ({"top_k": 0}, "top_k 0: must be at least 1, or null"),
        ({"top_p": 0.0}, "top_p 0.0: must be above 0 and at most 1"),
        ({"top_p": 1.5}, "top_p 1.5: must be above 0 and at most 1"),
        ({"min_p": -0.1}, "min_p -0.1: must be above 0 and at most 1"),
        ({"repetition_penalty": 0.0}, "repetition_penalty 0.0: must be above 0"),
    ],
)
def test_a_setting_without_meaning_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Sampling(**settings)
