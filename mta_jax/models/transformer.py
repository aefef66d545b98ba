"""A decoder-only transformer whose attention is a choice per layer."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from mta_jax.layers import DifferentialAttention, Embedding, MultiTokenAttention, SwiGLU
from mta_jax.layers.arguments import dropout_key
from mta_jax.layers.initializers import projection_init
from mta_jax.layers.mixing import PLACES
from mta_jax.models.cache import Cache, LayerCache
from mta_jax.models.config import ModelConfig
from mta_jax.models.scan import scan_layers
from mta_jax.ops.kept import attention_is_kept
from mta_jax.parallel.rules import constrain
from mta_jax.typing import Array, DropoutKey, Float, Int

_PLAIN: dict[str, Any] = {
    "pre_kq_kernel_size": None,
    "pre_head_kernel_size": None,
    "post_kq_kernel_size": None,
    "post_head_kernel_size": None,
    "group_norm": None,
}

_POLICIES: dict[str, Any] = {
    "full": None,
    "attention": attention_is_kept,
    "dots": jax.checkpoint_policies.save_from_both_policies(
        jax.checkpoint_policies.dots_with_no_batch_dims_saveable, attention_is_kept
    ),
}


def _attention(
    config: ModelConfig, layer: int, rngs: nnx.Rngs
) -> MultiTokenAttention | DifferentialAttention:
    """The attention module of one layer."""
    shared: dict[str, Any] = {
        "num_kv_heads": config.kv_heads,
        "head_dim": config.head_size,
        "layer_index": layer,
        "rope_theta": config.rope_theta,
        "rope_layout": config.rope_layout,
        "norm_epsilon": config.norm_epsilon,
        "implementation": config.attention_implementation,
        "dropout_rate": config.attention_dropout,
        "deterministic": True,
        "dtype": jnp.dtype(config.dtype),
        "rngs": rngs,
    }
    kind = config.attention_of(layer)
    if kind == "diff":
        return DifferentialAttention(config.num_heads, config.embed_dim, **shared)
    shared |= {
        "rope_scaling": config.rope_scaling,
        "qkv_bias": config.qkv_bias,
        "qk_norm": config.qk_norm,
        # The model hands every layer its key.
        "keep_rngs": False,
    }
    if kind == "transformer":
        return MultiTokenAttention(config.num_heads, config.embed_dim, **_PLAIN, **shared)
    if kind == "talking_heads":
        mixing = _PLAIN | {"pre_head_kernel_size": "all", "post_head_kernel_size": "all"}
        return MultiTokenAttention(config.num_heads, config.embed_dim, **mixing, **shared)

    mta = config.mta
    convolves = mta.kq_layers is None or layer in mta.kq_layers
    return MultiTokenAttention(
        config.num_heads,
        config.embed_dim,
        pre_kq_kernel_size=mta.pre_kq_kernel_size if convolves else None,
        pre_head_kernel_size=mta.pre_head_kernel_size,
        post_kq_kernel_size=mta.post_kq_kernel_size if convolves else None,
        post_head_kernel_size=mta.post_head_kernel_size,
        key_padding=mta.key_padding,
        mixing_init=mta.kernel_init,
        group_norm=mta.group_norm,
        **shared,
    )


def _split_rows(x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
    """On a mesh, each device has whole vectors of some tokens."""
    return constrain(x, "batch", "length", None)


def _norm(config: ModelConfig, rngs: nnx.Rngs) -> nnx.RMSNorm:
    return nnx.RMSNorm(
        config.embed_dim, epsilon=config.norm_epsilon, dtype=jnp.dtype(config.dtype), rngs=rngs
    )


class Block(nnx.Module):
    """One pre-norm layer: attention, then the feed-forward block."""

    def __init__(self, config: ModelConfig, layer: int, *, rngs: nnx.Rngs):
        self.attention_norm = _norm(config, rngs)
        self.attention = _attention(config, layer, rngs)
        self.mlp_norm = _norm(config, rngs)
        self.mlp = SwiGLU(
            config.embed_dim, config.mlp_size, dtype=jnp.dtype(config.dtype), rngs=rngs
        )

    def __call__(self, x: Float[Array, "B T D"], **options: Any) -> Float[Array, "B T D"]:
        """Applies the layer; options go to the attention."""
        x = _split_rows(x + self.attention(self.attention_norm(x), **options))
        return _split_rows(x + self.mlp(self.mlp_norm(x)))

    def extend(
        self, x: Float[Array, "B T D"], cache: LayerCache, **options: Any
    ) -> tuple[Float[Array, "B T D"], LayerCache]:
        """Applies the layer to new tokens; options go to the attention's `extend`."""
        attention: Any = self.attention
        attended, cache = attention.extend(self.attention_norm(x), cache, **options)
        x = x + attended
        return x + self.mlp(self.mlp_norm(x)), cache


class Transformer(nnx.Module):
    """Decoder-only language model.

    Dropout is off until `model.train()`, and off again after `model.eval()`.

    Args:
      config: what it is made of; `vocab_size` must be set.
      rngs: source of the `params` keys.

    Raises:
      ValueError: where the config has no vocab_size.

    Example:
      >>> config = ModelConfig(vocab_size=258, num_layers=1, embed_dim=32, num_heads=2, mlp_dim=64)
      >>> model = Transformer(config, rngs=nnx.Rngs(0))
      >>> tokens = jnp.array([[72, 101, 108, 108, 111]])  # [batch, length]
      >>> model(tokens).shape  # logits of the next token
      (1, 5, 258)
    """

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        if config.vocab_size is None:
            raise ValueError("model.vocab_size null: a model needs its number of tokens")
        self.embedding = Embedding(
            config.vocab_size, config.embed_dim, dtype=jnp.dtype(config.dtype), rngs=rngs
        )
        self.remat = config.remat
        self.scan_layers = config.scan_layers
        self.layers = nnx.List(
            [Block(config, layer, rngs=rngs) for layer in range(config.num_layers)]
        )
        self.final_norm = _norm(config, rngs)
        self.head = (
            None
            if config.tie_embeddings
            else nnx.Linear(
                config.embed_dim,
                config.vocab_size,
                use_bias=False,
                kernel_init=projection_init(config.embed_dim),
                dtype=jnp.dtype(config.dtype),
                preferred_element_type=jnp.float32,
                rngs=rngs,
            )
        )

    def __call__(
        self,
        tokens: Int[Array, "B T"],
        *,
        positions: Int[Array, "B T"] | None = None,
        segment_ids: Int[Array, "B T"] | None = None,
        deterministic: bool | None = None,
        rngs: nnx.Rngs | nnx.RngStream | DropoutKey | None = None,
    ) -> Float[Array, "B T V"]:
        """Logits of the next token at every position, float32.

        They are `logits` of `features`, which takes the same arguments.
        """
        return self.logits(
            self.features(
                tokens,
                positions=positions,
                segment_ids=segment_ids,
                deterministic=deterministic,
                rngs=rngs,
            )
        )

    def features(
        self,
        tokens: Int[Array, "B T"],
        *,
        positions: Int[Array, "B T"] | None = None,
        segment_ids: Int[Array, "B T"] | None = None,
        deterministic: bool | None = None,
        rngs: nnx.Rngs | nnx.RngStream | DropoutKey | None = None,
    ) -> Float[Array, "B T D"]:
        """What the output layer reads at every position.

        Args:
          tokens: token ids.
          positions: position of each token in its document; default 0, 1, 2, ...
          segment_ids: document of each token in a packed row; tokens see, and
            kernels reach, their own document only.
          deterministic: whether dropout is off; default: what `train` and `eval` said.
          rngs: random source of dropout.
        """
        x = _split_rows(self.embedding(tokens))

        def apply(block: Block, x: Array, key: Array | None) -> Array:
            where = {"positions": positions, "segment_ids": segment_ids}
            return block(x, **where, deterministic=key is None, rngs=key)

        def rematerialized(in_loop: bool) -> Callable[[Block, Array, Array | None], Array]:
            if self.remat == "none":
                return apply
            # The gradient of a loop is another loop: there, nothing that was computed before is at
            # hand to take the place of what is computed again.
            return jax.checkpoint(apply, policy=_POLICIES[self.remat], prevent_cse=not in_loop)

        # Drawn here: what is computed again must draw the same key.
        keys = [
            dropout_key(
                block.attention.dropout_rate,
                block.attention.deterministic if deterministic is None else deterministic,
                rngs,
            )
            for block in self.layers
        ]
        if self.scan_layers:
            x = scan_layers(
                list(self.layers),
                keys,
                x,
                rematerialized(in_loop=False),
                rematerialized(in_loop=True),
            )
        else:
            apply_layer = rematerialized(in_loop=False)
            for block, key in zip(self.layers, keys, strict=True):
                x = apply_layer(block, x, key)
        return self.final_norm(x)

    def logits(self, features: Float[Array, "*tokens D"]) -> Float[Array, "*tokens V"]:
        """Logits of every token, float32."""
        if self.head is None:
            return self.embedding.attend(features)
        return self.head(features)

    def empty_cache(self, batch_size: int, capacity: int) -> Cache:
        """A cache with room for so many tokens of each sequence, for `extend`."""
        return Cache.of(
            [block.attention.empty_cache(batch_size, capacity) for block in self.layers],
            batch_size,
        )

    def extend(
        self,
        tokens: Int[Array, "B T"],
        cache: Cache,
        *,
        counts: Int[Array, "B"] | None = None,
        window: int | None = None,
        from_empty: bool = False,
    ) -> tuple[Float[Array, "B T D"], Cache]:
        """What the output layer reads at new tokens, and the cache with them.

        Equal to `features` of all tokens together, at the new ones. Sequences may have
        different lengths, and chunks any. A cache that has no room gives NaN, since
        under `jax.jit` nothing can be raised: see `Cache.room`.

        Args:
          tokens: the new tokens; those of a sequence beyond its count are padding, whose
            features mean nothing.
          cache: the tokens before them, from `empty_cache` or an earlier call.
          counts: how many new tokens each sequence has, from 0 to T; None: T.
          window: tokens that attention sees, the query's included; None: all.
          from_empty: the cache is empty; then no slower than `features`.

        Raises:
          ValueError: for a window with `from_empty`.
        """
        if from_empty and window is not None:
            raise ValueError(f"window {window} with from_empty: the first tokens have none")
        if counts is None:
            counts = jnp.full(tokens.shape[:1], tokens.shape[1], jnp.int32)
        options: dict[str, Any] = {
            "starts": cache.lengths,
            "counts": counts,
            "positions": (cache.lengths + cache.dropped)[:, None] + jnp.arange(tokens.shape[1]),
            "window": window,
            "from_empty": from_empty,
        }
        x = self.embedding(tokens)
        layers = []
        for block, layer_cache in zip(self.layers, cache.layers, strict=True):
            x, layer_cache = block.extend(x, layer_cache, **options)
            layers.append(layer_cache)
        return self.final_norm(x), cache.with_tokens(layers, counts)

    def attention_weights(
        self,
        tokens: Int[Array, "B T"],
        *,
        positions: Int[Array, "B T"] | None = None,
        segment_ids: Int[Array, "B T"] | None = None,
    ) -> list[Float[Array, "B N T T"]]:
        """The final attention weights of every layer, for a look inside.

        Layers of differential attention have N / 2 maps.
        """
        where = {"positions": positions, "segment_ids": segment_ids}
        x = self.embedding(tokens)
        weights = []
        for block in self.layers:
            weights.append(block.attention.attention_weights(block.attention_norm(x), **where))
            x = block(x, **where, deterministic=True)
        return weights

    def gate_openness(
        self,
        tokens: Int[Array, "B T"],
        *,
        positions: Int[Array, "B T"] | None = None,
        segment_ids: Int[Array, "B T"] | None = None,
    ) -> dict[int, Float[Array, "B T N"]]:
        """How far the gates of each layer that has them are open, from 0 to 1."""
        where = {"positions": positions, "segment_ids": segment_ids}
        x = self.embedding(tokens)
        openness = {}
        for layer, block in enumerate(self.layers):
            attention = block.attention
            norm = attention.group_norm
            if norm is None or norm.gate is None:
                x = block(x, **where, deterministic=True)
                continue
            heads = attention.heads(block.attention_norm(x), **where, deterministic=True)
            openness[layer] = norm.openness(heads)
            x = x + attention.join(heads)
            x = x + block.mlp(block.mlp_norm(x))
        return openness

    def kernel_distances(self) -> dict[int, dict[str, Float[Array, ""]]]:
        """Distance of each mixing kernel from the identity, by layer and place.

        Places are ``pre_kq``, ``pre_head``, ``post_kq`` and ``post_head``. 0 is a kernel that
        leaves attention as it is, 1 one of zeros.
        """
        distances = {}
        for layer, block in enumerate(self.layers):
            modules = {place: getattr(block.attention, place, None) for place in PLACES}
            found = {
                place: module.distance_from_identity()
                for place, module in modules.items()
                if module is not None
            }
            if found:
                distances[layer] = found
        return distances
