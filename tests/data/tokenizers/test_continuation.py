import numpy as np
import pytest

from mta_jax.data.haystack import Haystack, sentences_of
from mta_jax.data.needles import NeedleSpec, check_spec, draw_context
from mta_jax.data.tokenizers import ByteTokenizer, split_tokens

PROMPT = "It is the year 1846, and nobody\nknows why. " * 30 + "The answer is"
CONTINUATIONS = [" 8", " forty-two.", "n't", "\nno", " of the"]


@pytest.mark.parametrize("prompt", [PROMPT, PROMPT[-40:], "x", "", PROMPT + " ", "ab" * 400])
def test_a_continuation_has_the_tokens_that_it_adds(tokenizer, prompt):
    given, added = split_tokens(tokenizer, prompt, CONTINUATIONS)
    np.testing.assert_array_equal(given, tokenizer.encode(prompt))
    for continuation, tokens in zip(CONTINUATIONS, added, strict=True):
        whole = tokenizer.encode(prompt + continuation)
        expected = whole[len(given) :]
        np.testing.assert_array_equal(
            tokens, expected if len(expected) else tokenizer.encode(continuation)
        )
        assert len(tokens)


def test_of_a_long_prompt_only_the_end_is_encoded_for_each_continuation():
    class Counting(ByteTokenizer):
        num_characters = 0

        def encode(self, text):
            self.num_characters += len(text)
            return super().encode(text)

    tokenizer = Counting()
    split_tokens(tokenizer, "word " * 10_000, CONTINUATIONS)
    assert tokenizer.num_characters < 50_000 + 400 * (len(CONTINUATIONS) + 1)


def test_contexts_are_filled_whatever_the_tokenizer(tokenizer):
    sentences = sentences_of(
        "One of them is short. Another one, which follows it, is not! So? " * 60
    )
    haystack = Haystack("here", sentences, "digest")
    sizes = haystack.token_counts(tokenizer)
    spec = NeedleSpec(length=900, num_needles=2, num_asked=2, digits=2)
    check_spec(spec, haystack, sizes, tokenizer)
    for seed in range(4):
        context = draw_context(haystack, sizes, tokenizer, spec, np.random.default_rng(seed))
        length = 1 + len(tokenizer.encode(context.prompt + context.answer))
        # All but a part of a sentence, and what tokens of neighbours make one.
        assert 900 - 2 * sizes.max() <= length <= 900
