"""Running text that something is hidden in, sentence by sentence."""

import dataclasses
import hashlib
import re
from collections.abc import Sequence

import numpy as np

from mta_jax.data.sources import every_text
from mta_jax.data.tokenizers import Tokenizer
from mta_jax.errors import ConfigError

PYTHON_PROSE = ("python:docs", "python:docstrings")
"""About 2 MB of English that needs no download."""

_END = re.compile(r"(?<=[.!?])\s+|(?<=[.!?][\"')\]])\s+")
# Tables and lists of code have no full stops. More is cut between words.
_LONGEST = 400
# Enough for any context; a folder may hold a library.
_MOST_CHARACTERS = 50_000_000


@dataclasses.dataclass(frozen=True)
class Haystack:
    """Sentences in their order.

    Attributes:
      name: where they are from.
      sentences: the sentences, without white space around or line breaks in them.
      digest: tells this text from other text.
    """

    name: str
    sentences: Sequence[str]
    digest: str

    def token_counts(self, tokenizer: Tokenizer) -> np.ndarray:
        """Tokens of each sentence behind another, with the space between, int64 [sentences]."""
        return np.maximum(tokens_behind(tokenizer, self.sentences), 1)


def tokens_behind(tokenizer: Tokenizer, texts: Sequence[str]) -> np.ndarray:
    """How many tokens each text adds behind another sentence, with the space between them.

    Encoded alone it would have other ones: some tokenizers put a space in front of every text.

    Returns:
      int64 [texts].
    """
    before = len(tokenizer.encode("."))
    return np.array([len(tokenizer.encode(f". {text}")) - before for text in texts], np.int64)


def load_haystack(locations: Sequence[str], *, setting: str, field: str = "text") -> Haystack:
    """Opens text and cuts it into sentences.

    Args:
      locations: files, folders, globs, data sets, as for training text. At most the first 50
        million characters are read.
      setting: that names them, for messages.
      field: of lines of JSON, parquet and Hugging Face, the field that holds the text.

    Raises:
      ConfigError: where a location names nothing, or holds no sentence.
      UserError: where a file is damaged.
    """
    name = ", ".join(locations)
    sentences: list[str] = []
    num_characters = 0
    digest = hashlib.sha256()
    for _, text in every_text(locations, field=field, setting=setting):
        for sentence in sentences_of(text):
            sentences.append(sentence)
            num_characters += len(sentence) + 1
            digest.update(sentence.encode(errors="surrogatepass") + b"\n")
        if num_characters >= _MOST_CHARACTERS:
            break
    if not sentences:
        raise ConfigError(f"{setting} {name}: holds no text")
    return Haystack(name, sentences, digest.hexdigest())


def sentences_of(text: str) -> list[str]:
    """The sentences of a text: up to a full stop, or another end, and at most 400 characters."""
    found = []
    for sentence in _END.split(" ".join(text.split())):
        while len(sentence) > _LONGEST:
            cut = sentence.rfind(" ", 1, _LONGEST)
            cut = cut if cut > 0 else _LONGEST
            found.append(sentence[:cut])
            sentence = sentence[cut:].lstrip()
        if sentence:
            found.append(sentence)
    return found
