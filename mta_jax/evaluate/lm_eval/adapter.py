"""A checkpoint as a model of lm-evaluation-harness."""

import contextlib
import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import normalize_gen_kwargs

from mta_jax.command_line.live_line import LiveLine
from mta_jax.errors import UserError
from mta_jax.evaluate.lm_eval.rolling import rolling_log_probs
from mta_jax.evaluate.pair_scores import Pair, encoded_pair, score_pairs
from mta_jax.evaluate.text_model import Advance, CheckpointModel, filled, in_batches
from mta_jax.inference import Sampling

_FILTERS = {
    "temperature": float,
    "top_k": int,
    "top_p": float,
    "min_p": float,
    "repetition_penalty": float,
}


class HarnessModel(TemplateLM):
    """A checkpoint that answers the harness's requests.

    The token that begins a document stands before every context and every text, also an empty
    one, as in training. What exceeds the context is cut off on the left, that token included.

    Args:
      model: the checkpoint.
      context_length: tokens that it reads at most; None: as many as it is made for.
      seed: decides what is drawn where a task asks for samples.
    """

    max_gen_toks = 256

    def __init__(
        self, model: CheckpointModel, *, context_length: int | None = None, seed: int = 0
    ) -> None:
        super().__init__()
        self.max_length = context_length or model.context_length
        self._name = model.name
        self._batch_size = model.batch_size
        self._model = model.language_model
        self._tokenizer = model.tokenizer
        self._seed = seed

    @property
    def eot_token_id(self) -> int:
        """Token that ends a document."""
        return self._tokenizer.eos_id

    @property
    def prefix_token_id(self) -> int:
        """Token that begins a document."""
        return self._tokenizer.bos_id

    @property
    def tokenizer_name(self) -> str:
        """Tells tokenizers apart."""
        return self._tokenizer.fingerprint

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **_: Any
    ) -> list[int]:
        """Tokens of a text, after that which begins a document unless that is not wanted."""
        tokens = self._tokenizer.encode(string).tolist()
        return tokens if add_special_tokens is False else [self.prefix_token_id, *tokens]

    def loglikelihood(
        self, requests: Sequence[Instance], disable_tqdm: bool = True
    ) -> list[tuple[float, bool]]:
        """Log-probability of each continuation, and whether greedy decoding writes it."""
        return super().loglikelihood(requests, disable_tqdm=disable_tqdm)

    def _encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        pair = encoded_pair(self._tokenizer, context, continuation)
        return pair.context.tolist(), pair.continuation.tolist()

    def _loglikelihood_tokens(
        self,
        requests: Sequence[tuple[tuple[str, str], list[int], list[int]]],
        disable_tqdm: bool = False,
        **_: Any,
    ) -> list[tuple[float, bool]]:
        pairs = [
            Pair(np.array(context, np.int32), np.array(continuation, np.int32))
            for _, context, continuation in requests
        ]
        with self._progress(len(pairs), "continuations") as advance:
            scores = score_pairs(
                self._model,
                pairs,
                context_length=self.max_length,
                batch_size=self._batch_size,
                advance=advance,
            )
        return [(score.log_prob, score.is_greedy) for score in scores]

    def loglikelihood_rolling(
        self, requests: Sequence[Instance], disable_tqdm: bool = False
    ) -> list[float]:
        """Log-probability of each text as a whole, without its end."""
        texts = [self._tokenizer.encode(request.args[0]) for request in requests]
        num_windows = sum(-(-len(text) // self.max_length) for text in texts)
        with self._progress(num_windows, "windows") as advance:
            return rolling_log_probs(
                self._model,
                texts,
                context_length=self.max_length,
                batch_size=self._batch_size,
                advance=advance,
            )

    def generate_until(self, requests: Sequence[Instance], disable_tqdm: bool = False) -> list[str]:
        """What the model writes after each context, up to a stop string."""
        groups: dict[str, list[int]] = {}
        for number, request in enumerate(requests):
            groups.setdefault(json.dumps(request.args[1], sort_keys=True), []).append(number)
        texts = [""] * len(requests)
        with self._progress(len(requests), "texts") as advance:
            for settings, numbers in groups.items():
                contexts = [requests[number].args[0] for number in numbers]
                lengths = [len(context) for context in contexts]
                for places in in_batches(lengths, self._batch_size):
                    own = [numbers[place] for place in places]
                    found = self._write(
                        [contexts[place] for place in places], json.loads(settings), own
                    )
                    for number, text in zip(own, found, strict=True):
                        texts[number] = text
                    advance(len(places))
        return texts

    def _write(
        self, contexts: Sequence[str], settings: dict[str, Any], numbers: Sequence[int]
    ) -> list[str]:
        """Texts after contexts, with their numbers among the requests."""
        asked = dict(normalize_gen_kwargs(settings, self.max_gen_toks))
        stop, num_tokens = asked.pop("until"), asked.pop("max_gen_toks")
        room = self.max_length - num_tokens
        if room < 1:
            raise UserError(
                f"max_gen_toks {num_tokens}: leaves no room for a question in the model's context "
                f"of {self.max_length:,}; give a larger context_length"
            )
        prompts = [np.array(self.tok_encode(context)[-room:], np.int32) for context in contexts]
        written = self._model.generate(
            filled(prompts, self._batch_size),
            max_new_tokens=num_tokens,
            sampling=_sampling(asked),
            stop=[string for string in stop if string],
            seed=self._seed,
            numbers=filled(numbers, self._batch_size),
        )
        return [text.text for text in written[: len(prompts)]]

    @contextlib.contextmanager
    def _progress(self, total: int, unit: str) -> Iterator[Advance]:
        with LiveLine(self._name, total, unit=unit) as line:
            yield line.advance


def _sampling(asked: dict[str, Any]) -> Sampling:
    """How a task wants tokens to be drawn.

    Raises:
      UserError: where it wants what is not there.
    """
    is_drawn = asked.pop("do_sample")
    filters = {
        name: kind(value)
        for name, kind in _FILTERS.items()
        if (value := asked.pop(name, None)) is not None
    }
    for name, value in asked.items():
        # Beams, and so on, by their names in Hugging Face's library: one or none is no wish.
        if value not in (None, False, 1):
            raise UserError(f"generation_kwargs {name} {value}: is not supported; leave it out")
    if not is_drawn:
        filters["temperature"] = 0.0
    if filters.get("top_k") == 0:
        del filters["top_k"]
    return Sampling(**filters)
