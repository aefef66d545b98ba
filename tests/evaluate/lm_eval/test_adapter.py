import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

pytest.importorskip("lm_eval")

from lm_eval.api.instance import Instance

from mta_jax.errors import UserError
from mta_jax.evaluate.lm_eval.adapter import HarnessModel
from mta_jax.evaluate.windows import strided_batches
from mta_jax.inference import Sampling
from mta_jax.training.evaluate import total
from mta_jax.training.saved_weights import read_weights
from mta_jax.training.step import make_eval_step

LENGTH = 64
LONG = "Names in this manual are those of the grammar. " * 3


def requests_of(kind, *arguments):
    return [
        Instance(request_type=kind, doc={}, arguments=own, idx=number)
        for number, own in enumerate(arguments)
    ]


def log_probs(model, tokens, count):
    """Of the last `count` tokens, from the logits of all at once; and whether each is likeliest."""
    decoder = model.language_model.decoder
    module = nnx.merge(decoder.graphdef, decoder.params)
    logits = module(jnp.asarray(tokens[None, :-1], jnp.int32))[0, -count:]
    targets = tokens[-count:]
    found = np.asarray(jax.nn.log_softmax(logits))[np.arange(count), targets]
    return found, np.asarray(logits.argmax(axis=-1)) == targets


def tokens_of(model, text):
    return np.concatenate([[model.tokenizer.bos_id], model.tokenizer.encode(text)])


PAIRS = [
    ("Two words", " of text"),
    ("Two words", " or"),
    ("", "Begin"),
    ("Two words ", "of"),
    (LONG, " and one more"),
    (LONG, " and"),
    ("a", "x" * LENGTH),
    *[("Many", f" {letter}") for letter in "abcdefghijk"],
]


def test_a_continuation_has_the_likelihood_of_a_plain_forward_pass(model):
    found = HarnessModel(model).loglikelihood(requests_of("loglikelihood", *PAIRS))
    for (context, continuation), (log_prob, is_greedy) in zip(PAIRS, found, strict=True):
        count = len(context + continuation) - len(context.rstrip())
        tokens = tokens_of(model, context + continuation)[-(LENGTH + 1) :]
        expected, is_likeliest = log_probs(model, tokens, count)
        np.testing.assert_allclose(log_prob, expected.sum(), rtol=1e-5)
        assert is_greedy == is_likeliest.all()


def test_what_the_model_writes_is_greedy(model):
    (text,) = model.language_model.generate(
        ["The "], max_new_tokens=6, sampling=Sampling(temperature=0.0)
    )
    context, own = tokens_of(model, "The ").tolist(), text.tokens.tolist()
    changed = [*own[:-1], (own[-1] + 1) % 256]
    requests = [(("", ""), context, continuation) for continuation in (own, changed)]
    (log_prob, is_greedy), (_, other) = HarnessModel(model)._loglikelihood_tokens(requests)
    assert (is_greedy, other) == (True, False)
    np.testing.assert_allclose(log_prob, text.log_probs.sum(), rtol=1e-5)


# As many tokens as a window, or less, or a multiple.
@pytest.mark.parametrize("size", [1, 40, LENGTH, 2 * LENGTH])
def test_rolling_likelihood_is_that_of_strided_windows_with_stride_of_the_length(run, model, size):
    text = LONG[:size]
    (found,) = HarnessModel(model).loglikelihood_rolling(
        requests_of("loglikelihood_rolling", (text,))
    )
    saved = read_weights(run, "checkpoint")
    # The harness predicts no end of a text.
    tokens = tokens_of(model, text)
    document = np.stack([tokens, np.ones_like(tokens)], axis=1)
    batches = strided_batches([document], length=LENGTH, stride=LENGTH, rows=2)
    totals = total(make_eval_step(saved.program), saved.params, batches, model.tokenizer, name="x")
    assert totals.tokens == size
    np.testing.assert_allclose(found, -totals.nll, rtol=1e-5)


def test_the_last_window_is_full_and_counts_each_token_once(model):
    text = LONG[:100]
    adapter = HarnessModel(model)
    requests = requests_of("loglikelihood_rolling", (text,), ("short",), ("",))
    found = adapter.loglikelihood_rolling(requests)
    tokens = tokens_of(model, text)
    first, _ = log_probs(model, tokens[: LENGTH + 1], LENGTH)
    last, _ = log_probs(model, tokens[-(LENGTH + 1) :], 100 - LENGTH)
    short, _ = log_probs(model, tokens_of(model, "short"), 5)
    np.testing.assert_allclose(found[:2], [first.sum() + last.sum(), short.sum()], rtol=1e-5)
    assert found[2] == 0.0


def test_generation_is_ours(model):
    prompts = ["The ", "A statement ", "Of ", "In this manual"]
    arguments = [(prompt, {"until": ["e"], "max_gen_toks": 12}) for prompt in prompts]
    arguments[1] = (prompts[1], {"until": [], "max_gen_toks": 5, "do_sample": False})
    found = HarnessModel(model).generate_until(requests_of("generate_until", *arguments))
    greedy = Sampling(temperature=0.0)
    ours = model.language_model.generate(prompts, max_new_tokens=12, sampling=greedy, stop=["e"])
    (second,) = model.language_model.generate(prompts[1:2], max_new_tokens=5, sampling=greedy)
    expected = [text.text for text in ours]
    expected[1] = second.text
    assert found == expected


def test_a_long_question_loses_its_beginning(model):
    adapter = HarnessModel(model)
    settings = {"until": [], "max_gen_toks": 10}
    found = adapter.generate_until(
        requests_of("generate_until", (LONG, settings), ("other " + LONG, settings))
    )
    (expected,) = model.language_model.generate(
        [model.tokenizer.encode(LONG)[-(LENGTH - 10) :]],
        max_new_tokens=10,
        sampling=Sampling(temperature=0.0),
    )
    assert found == [expected.text] * 2
    assert expected.prompt == LONG[-(LENGTH - 10) :]


def test_samples_differ_by_request_and_seed(model):
    settings = {"until": [], "max_gen_toks": 20, "do_sample": True, "temperature": 1.0, "top_k": 0}
    requests = requests_of("generate_until", *[("The ", settings)] * 2)
    first, again = (HarnessModel(model).generate_until(requests) for _ in range(2))
    assert first == again
    assert first[0] != first[1]
    assert HarnessModel(model, seed=1).generate_until(requests) != first


def test_a_longer_context_is_read_whole(model):
    text = LONG[:100]
    adapter = HarnessModel(model, context_length=128)
    (found,) = adapter.loglikelihood_rolling(requests_of("loglikelihood_rolling", (text,)))
    expected, _ = log_probs(model, tokens_of(model, text), 100)
    np.testing.assert_allclose(found, expected.sum(), rtol=1e-5)


@pytest.mark.parametrize(
    ("kind", "arguments", "message"),
    [
        ("loglikelihood", ("a", "x" * 65), "continuation of 65 tokens: the model's context is 64"),
        ("generate_until", ("a", {"until": []}), "max_gen_toks 256: leaves no room"),
        (
            "generate_until",
            ("a", {"until": [], "max_gen_toks": 4, "num_beams": 3}),
            "generation_kwargs num_beams 3: is not supported",
        ),
    ],
)
def test_what_cannot_be_asked_is_a_line(model, kind, arguments, message):
    with pytest.raises(UserError, match=message):
        getattr(HarnessModel(model), kind)(requests_of(kind, arguments))


def test_the_begin_token_stands_before_every_text(model):
    adapter = HarnessModel(model)
    tokenizer = model.tokenizer
    assert adapter.tok_encode("ab") == [tokenizer.bos_id, 97, 98]
    assert adapter.tok_encode("ab", add_special_tokens=False) == [97, 98]
    assert (adapter.prefix_token_id, adapter.eot_token_id) == (tokenizer.bos_id, tokenizer.eos_id)
    assert adapter.tokenizer_name == tokenizer.fingerprint
