"""A model between two formats."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from mta_jax.data import Tokenizer
from mta_jax.data.tokenizers import load_tokenizer
from mta_jax.errors import UserError
from mta_jax.interop.names import Shapes
from mta_jax.models import ModelConfig

Format = Literal["native", "hugging_face", "lingua"]
"""native: ours, a run folder or a folder of weights. hugging_face: config.json and
safetensors. lingua: params.json and consolidated.pth, as the paper's code has them."""

FORMATS: Mapping[str, str] = {
    "hugging_face": "Hugging Face",
    "lingua": "lingua",
    "native": "native",
}


@dataclasses.dataclass(frozen=True)
class TokenizerFiles:
    """The tokenizer of a model.

    Attributes:
      spec: "byte", "letters" (the toy task's), or the path of its file.
      bos_token: token that begins a document; None: the usual one of the file.
      eos_token: token that ends a document; None: the usual one of the file.
      others: files that other libraries need besides.
    """

    spec: str
    bos_token: str | None = None
    eos_token: str | None = None
    others: tuple[Path, ...] = ()

    @property
    def file(self) -> Path | None:
        """Its file, where it has one."""
        return None if self.spec in ("byte", "letters") else Path(self.spec)

    def open(self) -> Tokenizer:
        """The tokenizer.

        Raises:
          UserError: where it cannot be opened.
        """
        try:
            return load_tokenizer(self.spec, bos_token=self.bos_token, eos_token=self.eos_token)
        except (OSError, ValueError) as error:
            raise UserError(f"tokenizer: {error}") from None


@dataclasses.dataclass(frozen=True)
class Origin:
    """What a conversion back needs to know of the checkpoint that a model came from.

    Attributes:
      format: its format.
      dtype: of most of its tensors.
      dtypes: of the others, by its names.
      settings: its settings as they were.
    """

    format: Format
    dtype: str
    dtypes: Mapping[str, str] = dataclasses.field(default_factory=dict)
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A model that was read.

    Attributes:
      model: what it is made of.
      arrays: its parameters by dotted name, float32; None where only looked at.
      shapes: their shapes.
      length: tokens of the longest text that it is made for.
      tokenizer: its tokenizer; None where none is known.
      origin: where it came from.
      notes: what was left out or is to be known, a line each.
    """

    model: ModelConfig
    arrays: Mapping[str, np.ndarray] | None
    shapes: Shapes
    length: int
    tokenizer: TokenizerFiles | None
    origin: Origin
    notes: tuple[str, ...] = ()

    def settings_of(self, name: Format) -> dict[str, Any]:
        """The settings that the model had in a format; empty where it was in another."""
        return dict(self.origin.settings) if self.origin.format == name else {}

    def dtypes_of(self, name: Format, dtype: str | None) -> tuple[str, Mapping[str, str]]:
        """The dtype to write tensors of a format in, and those of exceptions by name."""
        if dtype is not None:
            return dtype, {}
        return self.origin.dtype, self.origin.dtypes if self.origin.format == name else {}
