"""Arithmetic of a model, counted from its config.

These are model FLOPs as in PaLM (https://arxiv.org/abs/2204.02311, appendix B): what the
formulas ask for, however it is computed.

- A multiply-add counts 2.
- A query sees (T + 1) / 2 keys: the mean of a full row of T tokens under the causal mask,
  without borders of documents.
- Key-query convolution counts its Cq x Ck taps, and head mixing its Ch heads, at the
  logits of those keys.
- Differential attention counts the maps of all N heads, and one product of the difference
  of each pair with its values, which are twice as wide.
- Norms, gates, activations, softmax, rotary embedding and the look-up of the embedding
  count nothing, nor does what rematerialisation computes again.
- The backward pass counts twice the forward one.
"""

import dataclasses

from mta_jax.models.config import ModelConfig


@dataclasses.dataclass(frozen=True)
class Flops:
    """FLOPs of a forward pass, per token, by part of the model.

    Attributes:
      projections: queries, keys, values and output of attention.
      logits: queries times keys.
      values: attention weights times values.
      key_query_convolution: before and after the softmax.
      head_mixing: before and after the softmax.
      feed_forward: the feed-forward blocks.
      output_layer: features times the output matrix.
    """

    projections: int
    logits: int
    values: int
    key_query_convolution: int
    head_mixing: int
    feed_forward: int
    output_layer: int

    @property
    def forward(self) -> int:
        """Of all parts."""
        return sum(dataclasses.astuple(self))

    @property
    def training(self) -> int:
        """Forward and backward pass."""
        return 3 * self.forward


def flops_per_token(config: ModelConfig, length: int) -> Flops:
    """Counts as the module says.

    Args:
      config: the model; `vocab_size` must be set.
      length: T, tokens of a row.

    Raises:
      ValueError: where the config has no vocab_size, or the length is below 1.
    """
    if config.vocab_size is None:
        raise ValueError("model.vocab_size null: the output layer needs its number of tokens")
    if length < 1:
        raise ValueError(f"length {length}: must be at least 1")
    width = config.embed_dim
    query_width = config.num_heads * config.head_size
    kv_width = config.kv_heads * config.head_size
    # A multiply-add at each logit of the (length + 1) / 2 keys, a whole number.
    each_logit = config.num_heads * (length + 1)
    taps = sum(_taps(config, layer) for layer in range(config.num_layers))
    mixed = sum(_mixed_heads(config, layer) for layer in range(config.num_layers))
    return Flops(
        projections=2 * config.num_layers * width * (2 * query_width + 2 * kv_width),
        logits=config.num_layers * config.head_size * each_logit,
        values=config.num_layers * config.head_size * each_logit,
        key_query_convolution=taps * each_logit,
        head_mixing=mixed * each_logit,
        feed_forward=2 * config.num_layers * 3 * width * config.mlp_size,
        output_layer=2 * width * config.vocab_size,
    )


def _taps(config: ModelConfig, layer: int) -> int:
    """Taps of the key-query kernels of a layer, for one logit."""
    mta = config.mta
    convolves = mta.kq_layers is None or layer in mta.kq_layers
    if config.attention_of(layer) != "mta" or not convolves:
        return 0
    sizes = (mta.pre_kq_kernel_size, mta.post_kq_kernel_size)
    return sum(size[0] * size[1] for size in sizes if size is not None)


def _mixed_heads(config: ModelConfig, layer: int) -> int:
    """Heads that the head mixing of a layer reads, for one logit."""
    kind, mta = config.attention_of(layer), config.mta
    if kind == "talking_heads":
        return 2 * config.num_heads
    if kind != "mta":
        return 0
    sizes = (mta.pre_head_kernel_size, mta.post_head_kernel_size)
    return sum(config.num_heads if size == "all" else size for size in sizes if size is not None)
