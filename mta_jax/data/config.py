"""Where the data comes from."""

import dataclasses
from typing import Literal

from mta_jax.data.block_search import BlockSearchConfig
from mta_jax.data.text import TextConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Training and held-out data."""

    source: Literal["block_search", "text"] = "block_search"
    """block_search: the paper's toy task. text: language modelling on real text."""

    batch_size: int = 64
    """Rows per training step, and per batch of an evaluation."""

    block_search: BlockSearchConfig = dataclasses.field(default_factory=BlockSearchConfig)
    """The toy task, for source block_search."""

    text: TextConfig = dataclasses.field(default_factory=TextConfig)
    """Text, for source text."""

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError(f"data.batch_size {self.batch_size}: must be at least 1")

    @property
    def row_length(self) -> int:
        """Tokens in a row of `inputs`."""
        if self.source == "block_search":
            return self.block_search.sequence_length - 1
        return self.text.sequence_length
