"""Tokens of a text that is cut in two."""

import numpy as np

from mta_jax.data.tokenizers.protocol import Tokenizer


def continuation_tokens(tokenizer: Tokenizer, prompt: str, continuation: str) -> np.ndarray:
    """What a continuation adds to the tokens of a prompt, as they are encoded together.

    The tokens of both texts after as many as the prompt has, as in lm-evaluation-harness. So
    spaces belong to the words behind them.
    """
    together = tokenizer.encode(prompt + continuation)
    return together[len(tokenizer.encode(prompt)) :]
