"""A trained language model as text in, text out."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import numpy as np

from mta_jax.data import Tokenizer, tokenizer_for
from mta_jax.errors import ConfigError
from mta_jax.generate.text_watch import TextWatch
from mta_jax.inference import Decoder, Limits, Sampling
from mta_jax.inference.decoder import Finish
from mta_jax.training.saved_weights import SavedWeights, check_tokenizer, read_weights

DEFAULT_NEW_TOKENS = 128


@dataclasses.dataclass(frozen=True)
class Text:
    """What a model wrote after one prompt.

    Attributes:
      prompt: the prompt.
      text: what follows it, without the stop string that ended it.
      tokens: new token ids, the end token left out, those of a stop string included up to the
        one that completes it.
      log_probs: of each token by the model, before any filter of the sampling.
      finish: "end": the model ended the document; "stop": a stop string came; "length": it has
        as many tokens as were asked for.
    """

    prompt: str
    text: str
    tokens: np.ndarray
    log_probs: np.ndarray
    finish: Finish


@dataclasses.dataclass(frozen=True)
class LanguageModel:
    """A model with its tokenizer.

    Attributes:
      decoder: the model.
      tokenizer: text to tokens and back.
      context_length: most tokens of a text with its prompt, those the model was trained with.
    """

    decoder: Decoder
    tokenizer: Tokenizer
    context_length: int

    def generate(
        self,
        prompts: Sequence[str | np.ndarray],
        *,
        max_new_tokens: int | None = None,
        sampling: Sampling | None = None,
        stop: Sequence[str] = (),
        num_samples: int = 1,
        seed: int = 0,
        numbers: Sequence[int] | None = None,
        limits: Limits | None = None,
        on_text: Callable[[int, str], None] | None = None,
        on_look: Callable[[], None] | None = None,
    ) -> list[Text]:
        """Writes on from each prompt, all at once.

        Args:
          prompts: texts; an empty one begins a document. Or token ids as they are, with that
            which begins a document.
          max_new_tokens: most tokens to write; None: up to 128, as far as there is room.
          sampling: how they are drawn; None: as the model says, at temperature 1.
          stop: strings that end a text, and are not part of it.
          num_samples: texts for each prompt.
          seed: decides what is drawn, with the number of the prompt and of the sample.
          numbers: of the prompts; None: 0, 1, 2, ...
          limits: how much is computed at once; a window lifts the limit of `context_length`.
          on_text: called with the number of a text, in the order of the result, and what is new
            at its end.
          on_look: called every `limits.block` tokens.

        Returns:
          The texts; those of one prompt follow each other.

        Raises:
          ConfigError: where prompts and tokens do not fit the context, or there are none.
        """
        if not prompts:
            raise ConfigError("prompts []: give at least one")
        if "" in stop:
            raise ConfigError("stop '': an empty string would end every text; leave it out")
        limits = limits or self.decoder.limits
        tokens = [self._encoded(prompt) for prompt in prompts]
        most = [self._new_tokens(len(row), max_new_tokens, limits) for row in tokens]
        key = jax.random.key(seed)
        order = range(len(prompts)) if numbers is None else numbers
        watch = TextWatch(
            self.tokenizer,
            [row for row in tokens for _ in range(num_samples)],
            stop=stop,
            on_text=on_text,
            on_look=on_look,
        )
        decoder = dataclasses.replace(self.decoder, limits=limits)
        continuations = decoder.generate(
            tokens,
            max_new_tokens=most,
            sampling=sampling or Sampling(),
            keys=jax.numpy.stack([jax.random.fold_in(key, number) for number in order]),
            num_samples=num_samples,
            watch=watch,
        )
        texts = []
        for number, (continuation, text) in enumerate(zip(continuations, watch.texts, strict=True)):
            assert continuation.finish is not None
            count = watch.num_tokens[number]
            texts.append(
                Text(
                    self._text_of(prompts[number // num_samples]),
                    text,
                    continuation.tokens[:count],
                    continuation.log_probs[:count],
                    continuation.finish,
                )
            )
        return texts

    def check(
        self, prompts: Sequence[str], *, max_new_tokens: int | None, limits: Limits | None = None
    ) -> None:
        """Makes sure that texts of so many tokens fit the context, before any is written.

        Args:
          prompts: texts.
          max_new_tokens: as of `generate`.
          limits: as of `generate`.

        Raises:
          ConfigError: where one does not.
        """
        for prompt in prompts:
            num_tokens = len(self._encoded(prompt))
            self._new_tokens(num_tokens, max_new_tokens, limits or self.decoder.limits)

    def _text_of(self, prompt: str | np.ndarray) -> str:
        return prompt if isinstance(prompt, str) else self.tokenizer.decode(prompt)

    def _encoded(self, prompt: str | np.ndarray) -> np.ndarray:
        """Tokens of a prompt, of a text after that which begins a document."""
        if not isinstance(prompt, str):
            return prompt
        return np.concatenate([[self.tokenizer.bos_id], self.tokenizer.encode(prompt)]).astype(
            np.int32
        )

    def _new_tokens(self, length: int, asked: int | None, limits: Limits) -> int:
        """How many tokens to write at most after a prompt of so many."""
        if asked is not None and asked < 1:
            raise ConfigError(f"max_new_tokens {asked}: must be at least 1")
        if limits.window is not None:
            return asked or DEFAULT_NEW_TOKENS
        room = self.context_length - length
        ways = "or set context_length, or a window that slides"
        if room < 1:
            raise ConfigError(
                f"prompt of {length:,} tokens: the model's context is {self.context_length:,}; "
                f"shorten it by at least {1 - room:,}, {ways}"
            )
        if asked is not None and asked > room:
            raise ConfigError(
                f"max_new_tokens {asked}: after a prompt of {length:,} tokens the model's context "
                f"of {self.context_length:,} has room for {room:,}; {ways}"
            )
        return asked or min(DEFAULT_NEW_TOKENS, room)


def load_model(
    checkpoint: str | Path,
    *,
    context_length: int | None = None,
    setting: str = "checkpoint",
) -> LanguageModel:
    """Reads a trained language model.

    Args:
      checkpoint: a run folder, whose newest checkpoint is taken, RUN/checkpoints/STEP, or a
        folder of weights.
      context_length: most tokens of a text with its prompt; None: as in training, or as a converted
        model was made for.
      setting: that names the checkpoint, for messages.

    Raises:
      ConfigError: where the tokenizer is not the one of the training, or a length is none.
      UserError: where the checkpoint cannot be read.
    """
    if context_length is not None and context_length < 1:
        raise ConfigError(f"context_length {context_length}: must be at least 1, or null")
    return language_model_of(
        read_weights(checkpoint, setting), context_length=context_length, setting=setting
    )


def language_model_of(
    saved: SavedWeights, *, context_length: int | None = None, setting: str = "checkpoint"
) -> LanguageModel:
    """`load_model` of weights that have been read.

    Raises:
      ConfigError: where the tokenizer is not the one of the training.
    """
    run = saved.program.config
    tokenizer = tokenizer_for(run.data)
    check_tokenizer(saved, tokenizer, setting)
    decoder = Decoder(
        graphdef=saved.program.graphdef,
        params=saved.params,
        eos_id=tokenizer.eos_id,
        num_tokens=tokenizer.vocab_size,
    )
    return LanguageModel(decoder, tokenizer, context_length or saved.length)
