import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mta_jax.inference.generate import generate
from mta_jax.models import ModelConfig, MTAConfig, Transformer
from tests.layers.tools import drawn

VOCAB_SIZE = 16
NO_EOS = VOCAB_SIZE
CONFIG = ModelConfig(
    vocab_size=VOCAB_SIZE,
    num_layers=1,
    embed_dim=16,
    mlp_dim=16,
    mta=MTAConfig(pre_kq_kernel_size=(2, 3), post_kq_kernel_size=None),
    tie_embeddings=False,
)
MODEL = drawn(lambda: Transformer(CONFIG, rngs=nnx.Rngs(0)), scale=0.8)
PROMPT = np.array([3, 1, 4])
NUM_TOKENS = 9


def write(temperature=0.0, seed=0, eos_id=NO_EOS, prompt=PROMPT):
    return generate(
        *nnx.split(MODEL),
        prompt,
        num_tokens=NUM_TOKENS,
        temperature=temperature,
        eos_id=eos_id,
        key=jax.random.key(seed),
    )


@pytest.fixture(scope="module")
def greedy():
    return write()


def test_greedy_text_is_the_likeliest_token_step_by_step(greedy):
    logits_of = jax.jit(lambda model, tokens: model(tokens))
    row = np.zeros((1, len(PROMPT) + NUM_TOKENS), np.int32)
    row[0, : len(PROMPT)] = PROMPT
    for place in range(len(PROMPT), row.shape[1]):
        row[0, place] = jnp.argmax(logits_of(MODEL, jnp.asarray(row))[0, place - 1])
    np.testing.assert_array_equal(greedy, row[0, len(PROMPT) :])
    assert len(set(greedy.tolist())) > 2


def test_text_stops_before_the_end_token(greedy):
    end = int(greedy[4])
    np.testing.assert_array_equal(write(eos_id=end), greedy[: greedy.tolist().index(end)])


def test_end_token_may_come_first(greedy):
    assert len(write(eos_id=int(greedy[0]))) == 0


def test_end_token_in_the_prompt_does_not_stop_the_text():
    unused = next(token for token in range(VOCAB_SIZE) if token not in write())
    prompt = np.array([unused, 1, 4])
    text = write(prompt=prompt)
    assert unused not in text
    np.testing.assert_array_equal(write(prompt=prompt, eos_id=unused), text)


def test_same_key_gives_the_same_text_and_another_key_another():
    first = write(temperature=2.0, seed=1)
    np.testing.assert_array_equal(first, write(temperature=2.0, seed=1))
    assert (first != write(temperature=2.0, seed=2)).any()


def test_every_token_is_drawn_anew():
    # At this temperature all tokens are equally likely.
    text = write(temperature=1e6, seed=1)
    assert len(set(text.tolist())) > 4
    assert ((text >= 0) & (text < VOCAB_SIZE)).all()


def test_temperature_zero_ignores_the_key(greedy):
    np.testing.assert_array_equal(write(seed=5), greedy)


def test_low_temperature_takes_the_likeliest_token(greedy):
    np.testing.assert_array_equal(write(temperature=1e-4, seed=1), greedy)


def test_empty_prompt_is_refused():
    with pytest.raises(ValueError, match="prompt is empty: it needs at least one token"):
        write(prompt=np.array([], np.int32))
