import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mta_jax.inference import Decoder, Limits, Sampling, decoding, rows_without_padding
from mta_jax.inference import decoder as decoder_module
from mta_jax.inference.decoding import bucket
from mta_jax.models import ModelConfig, MTAConfig, Transformer
from tests.layers.tools import drawn

VOCAB_SIZE = 16
NO_EOS = VOCAB_SIZE
CONFIG = ModelConfig(
    vocab_size=VOCAB_SIZE,
    num_layers=1,
    embed_dim=16,
    mlp_dim=16,
    mta=MTAConfig(pre_kq_kernel_size=(2, 3), post_kq_kernel_size=(2, 3)),
    tie_embeddings=False,
)
MODEL = drawn(lambda: Transformer(CONFIG, rngs=nnx.Rngs(0)), scale=0.8)
GRAPHDEF, PARAMS = nnx.split(MODEL)
PROMPT = np.array([3, 1, 4])
NUM_TOKENS = 9
GREEDY = Sampling(temperature=0.0)


def decoder(eos_id=NO_EOS, num_tokens=VOCAB_SIZE, **limits):
    return Decoder(
        graphdef=GRAPHDEF,
        params=PARAMS,
        eos_id=eos_id,
        num_tokens=num_tokens,
        limits=Limits(**limits),
    )


def write(temperature=0.0, seed=0, prompt=PROMPT, max_new_tokens=NUM_TOKENS, **changes):
    (written,) = decoder(**changes).generate(
        [prompt],
        max_new_tokens=max_new_tokens,
        sampling=Sampling(temperature=temperature),
        keys=jax.random.key(seed)[None],
    )
    return written


@pytest.fixture(scope="module")
def greedy():
    return write().tokens


def test_greedy_text_is_the_likeliest_token_step_by_step(greedy):
    logits_of = jax.jit(lambda model, tokens: model(tokens))
    row = np.zeros((1, len(PROMPT) + NUM_TOKENS), np.int32)
    row[0, : len(PROMPT)] = PROMPT
    log_probs = []
    for place in range(len(PROMPT), row.shape[1]):
        # Causality makes the rest of the row, not yet written, irrelevant.
        logits = logits_of(MODEL, jnp.asarray(row))[0, place - 1]
        row[0, place] = jnp.argmax(logits)
        log_probs.append(float(jax.nn.log_softmax(logits).max()))
    np.testing.assert_array_equal(greedy, row[0, len(PROMPT) :])
    assert len(set(greedy.tolist())) > 2
    np.testing.assert_allclose(write().log_probs, log_probs, rtol=0, atol=1e-4)
    assert write().finish == "length"


def test_text_stops_before_the_end_token(greedy):
    end = int(greedy[4])
    written = write(eos_id=end)
    np.testing.assert_array_equal(written.tokens, greedy[: greedy.tolist().index(end)])
    assert len(written.log_probs) == len(written.tokens)
    assert written.finish == "end"


def test_end_token_may_come_first(greedy):
    written = write(eos_id=int(greedy[0]))
    assert len(written.tokens) == 0
    assert written.finish == "end"


def test_end_token_in_the_prompt_does_not_stop_the_text():
    unused = next(token for token in range(VOCAB_SIZE) if token not in write().tokens)
    prompt = np.array([unused, 1, 4])
    text = write(prompt=prompt).tokens
    assert unused not in text
    np.testing.assert_array_equal(write(prompt=prompt, eos_id=unused).tokens, text)


def test_same_key_gives_the_same_text_and_another_key_another():
    first = write(temperature=2.0, seed=1).tokens
    np.testing.assert_array_equal(first, write(temperature=2.0, seed=1).tokens)
    assert (first != write(temperature=2.0, seed=2).tokens).any()


def test_every_token_is_drawn_anew():
    # At this temperature all tokens are equally likely.
    text = write(temperature=1e6, seed=1).tokens
    assert len(set(text.tolist())) > 4
    assert ((text >= 0) & (text < VOCAB_SIZE)).all()


def test_temperature_zero_ignores_the_key(greedy):
    np.testing.assert_array_equal(write(seed=5).tokens, greedy)


@pytest.mark.parametrize("limits", [{"block": 1}, {"block": 4}, {"chunk": 2}, {"chunk": 1}])
def test_how_much_is_done_at_once_changes_nothing(greedy, limits):
    np.testing.assert_array_equal(write(**limits).tokens, greedy)
    drawn_at_once = write(temperature=1.5, seed=3).tokens
    np.testing.assert_array_equal(write(temperature=1.5, seed=3, **limits).tokens, drawn_at_once)


def test_a_text_does_not_depend_on_the_others_beside_it():
    rng = np.random.default_rng(0)
    prompts = [rng.integers(VOCAB_SIZE, size=size) for size in (2, 70, 9)]
    keys = jax.random.split(jax.random.key(4), 3)
    together = decoder(chunk=32).generate(
        prompts, max_new_tokens=20, sampling=Sampling(top_k=6), keys=keys, num_samples=2
    )
    for number, prompt in enumerate(prompts):
        alone = decoder().generate(
            [prompt],
            max_new_tokens=20,
            sampling=Sampling(top_k=6),
            keys=keys[number][None],
            num_samples=2,
        )
        for sample in range(2):
            np.testing.assert_array_equal(
                alone[sample].tokens, together[2 * number + sample].tokens
            )
        assert alone[0].tokens.tolist() != alone[1].tokens.tolist()


def test_each_prompt_may_have_its_own_number_of_tokens(greedy):
    written = decoder(block=4).generate(
        [PROMPT] * 3, max_new_tokens=[2, NUM_TOKENS, 4], sampling=GREEDY
    )
    for found, count in zip(written, (2, NUM_TOKENS, 4), strict=True):
        np.testing.assert_array_equal(found.tokens, greedy[:count])
        assert found.finish == "length"


def test_padding_of_a_batch_may_be_on_either_side(greedy):
    tokens = np.array([[0, 0, 3, 1, 4], [3, 1, 4, 0, 0], [0, 3, 1, 4, 0]])
    is_token = np.array([[0, 0, 1, 1, 1], [1, 1, 1, 0, 0], [0, 1, 1, 1, 0]], bool)
    rows = rows_without_padding(tokens, is_token)
    for written in decoder().generate(rows, max_new_tokens=NUM_TOKENS, sampling=GREEDY):
        np.testing.assert_array_equal(written.tokens, greedy)
    is_token[1, 1] = False
    with pytest.raises(ValueError, match="row 1 has padding between its tokens"):
        rows_without_padding(tokens, is_token)


def test_long_texts_outgrow_the_cache_and_stay_the_same(monkeypatch):
    monkeypatch.setattr(decoder_module, "_ROOM", 64)
    written = write(max_new_tokens=150).tokens
    buffer = np.concatenate([PROMPT, written])[None]
    likeliest = np.argmax(MODEL(jnp.asarray(buffer))[0], axis=-1)
    np.testing.assert_array_equal(likeliest[len(PROMPT) - 1 : -1], written)


def test_nothing_is_compiled_anew_for_another_length_in_the_same_bucket():
    write(prompt=np.arange(5), max_new_tokens=20)
    before = (decoding.read._cache_size(), decoding.write._cache_size())
    for length, tokens in ((6, 20), (13, 33), (20, 7)):
        write(prompt=np.arange(length) % VOCAB_SIZE, max_new_tokens=tokens)
    assert (decoding.read._cache_size(), decoding.write._cache_size()) == before


def test_a_window_that_holds_everything_changes_nothing(greedy):
    np.testing.assert_array_equal(write(window=64).tokens, greedy)


def test_a_window_slides_over_texts_of_any_length():
    prompt = np.arange(40) % VOCAB_SIZE
    written = write(prompt=prompt, max_new_tokens=200, window=12, chunk=8).tokens
    text = np.concatenate([prompt, written])
    # One step after the other over a cache that forgets nothing.
    cache = MODEL.empty_cache(1, len(text))
    step = jax.jit(lambda token, cache: MODEL.extend(token, cache, window=12))
    for place, token in enumerate(text[:-1]):
        features, cache = step(jnp.array([[token]]), cache)
        if place >= len(prompt) - 1:
            assert int(jnp.argmax(MODEL.logits(features))) == text[place + 1]


def test_a_penalty_keeps_tokens_from_coming_again():
    (written,) = decoder().generate(
        [PROMPT],
        max_new_tokens=NUM_TOKENS,
        sampling=Sampling(temperature=0.0, repetition_penalty=1e9),
    )
    text = [*PROMPT, *written.tokens]
    assert len(set(text)) == len(text)


def test_tokens_that_no_tokenizer_has_are_never_written():
    text = write(temperature=1e6, num_tokens=3, max_new_tokens=60).tokens
    assert set(text.tolist()) == {0, 1, 2}


def test_who_watches_can_end_a_text(greedy):
    seen = []

    def watch(continuations):
        seen.append([len(continuation.tokens) for continuation in continuations])
        return [len(seen) in (2, 5), len(seen) == 5]

    first, second = decoder(block=2).generate(
        [PROMPT, PROMPT], max_new_tokens=NUM_TOKENS, sampling=GREEDY, watch=watch
    )
    np.testing.assert_array_equal(first.tokens, greedy[:4])
    np.testing.assert_array_equal(second.tokens, greedy)
    # Who watches is asked first.
    assert (first.finish, second.finish) == ("stop", "stop")
    assert seen == [[2, 2], [4, 4], [4, 6], [4, 8], [4, 9]]


def test_buckets_are_few_and_not_much_larger_than_asked_for():
    sizes = {bucket(length) for length in range(1, 5000)}
    assert sorted(sizes)[:6] == [64, 96, 128, 192, 256, 384]
    assert len(sizes) < 16
    assert all(length <= bucket(length) < max(1.5 * length, 65) for length in range(1, 5000))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompts": [PROMPT[:0]]}, "prompt 0 is empty: it needs at least one token"),
        ({"prompts": []}, r"prompts \[\]: give at least one"),
        ({"max_new_tokens": 0}, "max_new_tokens 0: must be at least 1"),
        ({"num_samples": 0}, "num_samples 0: must be at least 1"),
        ({"keys": jax.random.split(jax.random.key(0), 3)}, r"keys \(3,\) for 1 prompts"),
    ],
)
def test_a_call_without_meaning_is_refused(changes, message):
    arguments = {"prompts": [PROMPT], "max_new_tokens": 1} | changes
    with pytest.raises(ValueError, match=message):
        decoder().generate(arguments.pop("prompts"), **arguments)


@pytest.mark.parametrize("name", ["chunk", "block", "window"])
def test_a_limit_below_one_is_refused(name):
    with pytest.raises(ValueError, match=f"{name} 0: must be at least 1"):
        dataclasses.replace(Limits(), **{name: 0})
