"""Where the data comes from."""

import dataclasses
from typing import Literal

from mta_jax.data.block_search import BlockSearchConfig
from mta_jax.data.text_config import TextConfig

_ROWS = 64


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Training and held-out data."""

    source: Literal["block_search", "text"] = "block_search"
    """block_search: the paper's toy task. text: language modelling on text."""

    batch_size: int | None = None
    """Rows of a training step, of all processes together; null: as batch_tokens says, or 64."""

    batch_tokens: int | None = None
    """Tokens of a training step, padding included, in place of batch_size; a multiple of the
    row's length. null: as batch_size says."""

    streams: int = 1
    """Streams that training data is read in, with as many rows of a batch each. A process reads
    the streams of its own rows: with fewer streams than processes, some read the same. Sets the
    order of the data, whatever the number of processes."""

    block_search: BlockSearchConfig = dataclasses.field(default_factory=BlockSearchConfig)
    """The toy task, for source block_search."""

    text: TextConfig = dataclasses.field(default_factory=TextConfig)
    """Text, for source text."""

    def __post_init__(self) -> None:
        if self.batch_size is not None and self.batch_size < 1:
            raise ValueError(f"data.batch_size {self.batch_size}: must be at least 1, or null")
        if self.streams < 1:
            raise ValueError(f"data.streams {self.streams}: must be at least 1")
        self._check_batch_tokens()
        if self.rows % self.streams:
            raise ValueError(
                f"data.streams {self.streams}: must divide the {self.rows} rows of a batch"
            )

    def _check_batch_tokens(self) -> None:
        if self.batch_tokens is None:
            return
        if self.batch_size is not None:
            raise ValueError(
                f"data.batch_size {self.batch_size} and data.batch_tokens {self.batch_tokens}: one "
                "of them must be null"
            )
        if self.batch_tokens < 1 or self.batch_tokens % self.row_length:
            raise ValueError(
                f"data.batch_tokens {self.batch_tokens}: must be a multiple of the row's length "
                f"{self.row_length}"
            )

    @property
    def row_length(self) -> int:
        """Tokens in a row of `inputs`."""
        if self.source == "block_search":
            return self.block_search.sequence_length - 1
        return self.text.sequence_length

    @property
    def rows(self) -> int:
        """Rows of a training step."""
        if self.batch_tokens is not None:
            return self.batch_tokens // self.row_length
        return _ROWS if self.batch_size is None else self.batch_size
