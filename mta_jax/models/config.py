"""What a model is made of."""

import dataclasses
from typing import Any, Literal, get_args

from mta_jax.layers.group_norm import GroupNormScaling
from mta_jax.layers.initializers import KernelInit
from mta_jax.layers.mlp import default_mlp_dim
from mta_jax.ops.multi_token_attention import Implementation
from mta_jax.ops.rope import RopeLayout, RopeScaling, RopeScalingKind
from mta_jax.typing import KeyPadding

Rematerialization = Literal["none", "full", "attention", "dots"]

AttentionKind = Literal["transformer", "mta", "talking_heads", "diff"]
"""transformer: ordinary attention. mta: as `MTAConfig` says. talking_heads: head
mixing before and after the softmax over all heads, nothing else. diff:
differential attention, pairs of heads."""


def _check_choices(prefix: str, **fields: tuple[str, Any]) -> None:
    """Raises ValueError where a field is none of its literal type's values."""
    for name, (value, choices) in fields.items():
        allowed = get_args(choices)
        if value not in allowed:
            raise ValueError(f"{prefix}{name} {value}: must be one of {', '.join(allowed)}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class MTAConfig:
    """Multi-token attention. The defaults are the paper's, but for `kq_layers`.

    Section 4.2 and appendix E; it has key-query convolution in every fourth layer.
    """

    pre_kq_kernel_size: tuple[int, int] | None = (6, 11)
    """Queries and keys that the convolution of the logits spans; null: none."""

    post_kq_kernel_size: tuple[int, int] | None = (6, 11)
    """The same for the convolution of the attention weights; null: none."""

    kq_layers: list[int] | None = None
    """Layers, from 0, with key-query convolution; null: every layer. Head mixing and
    group norm are in every layer."""

    pre_head_kernel_size: int | Literal["all"] | None = "all"
    """Heads per group that mix their logits; null: none."""

    post_head_kernel_size: int | Literal["all"] | None = "all"
    """Heads per group that mix their attention weights; null: none."""

    group_norm: GroupNormScaling | None = "gate"
    """Normalise each head's output, then: none, depth (a factor that shrinks with
    depth), gate (a sigmoid per token and head). null: no group norm."""

    key_padding: KeyPadding = "both"
    """Whether key-query kernels reach keys on both sides (odd sizes only), left or right."""

    kernel_init: KernelInit = "identity"
    """How the mixing kernels start: identity, constant, uniform, normal, diagonal, zero."""

    def __post_init__(self) -> None:
        _check_choices(
            "model.mta.",
            key_padding=(self.key_padding, KeyPadding),
            kernel_init=(self.kernel_init, KernelInit),
        )
        if self.group_norm is not None:
            _check_choices("model.mta.", group_norm=(self.group_norm, GroupNormScaling))
        for name in ("pre_kq_kernel_size", "post_kq_kernel_size"):
            size = getattr(self, name)
            if size is None:
                continue
            if len(size) != 2 or min(size) < 1:
                raise ValueError(
                    f"model.mta.{name} {list(size)}: expected [queries, keys], both at least 1"
                )
            if self.key_padding == "both" and size[1] % 2 == 0:
                raise ValueError(
                    f"model.mta.{name} {list(size)}: with key_padding 'both' the key size must be "
                    f"odd, such as {size[1] + 1}; 'left' and 'right' take any"
                )


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """A decoder-only transformer: pre-norm, SwiGLU, rotary embedding.

    Example:
      >>> config = ModelConfig(vocab_size=258, num_layers=2, attention=["transformer", "mta"])
      >>> config.attention_of(1)
      'mta'
      >>> config.head_size, config.mlp_size
      (32, 256)
      >>> ModelConfig(num_heads=3)
      Traceback (most recent call last):
      ValueError: model.embed_dim 64 with num_heads 3: must be divisible, or set head_dim
    """

    vocab_size: int | None = None
    """Tokens; null: as many as the tokenizer of the data has."""

    num_layers: int = 2
    """Number of layers."""

    embed_dim: int = 64
    """Width of the model."""

    num_heads: int = 2
    """Query heads. Differential attention pairs them, so it needs an even number."""

    num_kv_heads: int | None = None
    """Key and value heads, a divisor of num_heads; null: num_heads."""

    head_dim: int | None = None
    """Size of a head; null: embed_dim / num_heads."""

    mlp_dim: int | None = None
    """Width of the feed-forward block; null: 8/3 embed_dim, rounded up to 256."""

    attention: AttentionKind | list[AttentionKind] = "mta"
    """Kind of attention, or a list with the kind of each layer."""

    mta: MTAConfig = dataclasses.field(default_factory=MTAConfig)
    """Multi-token attention of the layers of kind mta."""

    rope_theta: float = 100_000.0
    """Base of the rotary embedding."""

    rope_layout: RopeLayout = "interleaved"
    """Rotary pairs: interleaved (the paper's code) or half_split (Hugging Face weights)."""

    rope_scaling: RopeScaling = dataclasses.field(default_factory=RopeScaling)
    """How the rotary embedding was stretched to longer texts."""

    qkv_bias: bool = False
    """Biases of the projections to queries, keys and values, as Qwen2 has them. No other
    projection has one."""

    qk_norm: bool = False
    """RMSNorm of each query and key before the rotary embedding, as Qwen3 has it."""

    norm_epsilon: float = 1e-5
    """Added to the mean square in every RMSNorm."""

    tie_embeddings: bool = True
    """Reuse the embedding matrix as output layer."""

    attention_dropout: float = 0.0
    """Dropout on the final attention weights, in training only."""

    attention_implementation: Implementation | None = None
    """How attention is computed; null: the best for the device. A name is a demand."""

    remat: Rematerialization = "none"
    """What each layer computes again for its gradient instead of keeping it: none, full
    (everything), attention (everything but attention), or dots (everything but attention and
    the results of projections). Attention is kept where `pallas_tpu`, `splash` or `xla_chunked`
    computes it; others compute it again."""

    scan_layers: bool = False
    """Compile equal layers once and run them in a loop; parameters stay per layer. Layers
    that repeat no pattern run as without it."""

    dtype: Literal["float32", "bfloat16"] = "float32"
    """Dtype of the computation; logits, softmax and parameters stay float32."""

    def __post_init__(self) -> None:
        sizes = ("vocab_size", "num_layers", "embed_dim", "num_heads", "num_kv_heads")
        for name in (*sizes, "head_dim", "mlp_dim"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"model.{name} {value}: must be at least 1")
        for name in ("rope_theta", "norm_epsilon"):
            if not getattr(self, name) > 0:
                raise ValueError(f"model.{name} {getattr(self, name)}: must be above 0")
        _check_choices(
            "model.",
            rope_layout=(self.rope_layout, RopeLayout),
            remat=(self.remat, Rematerialization),
        )
        self._check_rope_scaling()
        if self.attention_implementation is not None:
            _check_choices(
                "model.", attention_implementation=(self.attention_implementation, Implementation)
            )
        if self.head_dim is None and self.embed_dim % self.num_heads:
            raise ValueError(
                f"model.embed_dim {self.embed_dim} with num_heads {self.num_heads}: must be "
                "divisible, or set head_dim"
            )
        if self.head_size % 2:
            raise ValueError(
                f"model.head_dim {self.head_size}: must be even, for the rotary embedding"
            )
        if self.num_heads % self.kv_heads:
            raise ValueError(
                f"model.num_kv_heads {self.kv_heads}: must divide num_heads {self.num_heads}"
            )
        if not 0.0 <= self.attention_dropout < 1.0:
            raise ValueError(f"model.attention_dropout {self.attention_dropout}: must be in [0, 1)")
        self._check_layers()

    def _check_rope_scaling(self) -> None:
        scaling, prefix = self.rope_scaling, "model.rope_scaling."
        _check_choices(prefix, kind=(scaling.kind, RopeScalingKind))
        for name in ("factor", "low_frequency_factor", "high_frequency_factor", "original_length"):
            if not getattr(scaling, name) > 0:
                raise ValueError(f"{prefix}{name} {getattr(scaling, name)}: must be above 0")
        if not scaling.high_frequency_factor > scaling.low_frequency_factor:
            raise ValueError(
                f"{prefix}high_frequency_factor {scaling.high_frequency_factor}: must be above "
                f"low_frequency_factor {scaling.low_frequency_factor}"
            )
        if scaling.kind == "none" and scaling.factor != 1.0:
            raise ValueError(
                f"{prefix}factor {scaling.factor}: has no effect with kind none; set kind"
            )

    def _check_layers(self) -> None:
        if isinstance(self.attention, list) and len(self.attention) != self.num_layers:
            raise ValueError(
                f"model.attention lists {len(self.attention)} kinds: expected one for each of "
                f"{self.num_layers} layers"
            )
        kinds = {self.attention_of(layer) for layer in range(self.num_layers)}
        for kind in kinds:
            _check_choices("model.", attention=(kind, AttentionKind))
        if "diff" in kinds and (self.num_heads % 2 or self.kv_heads % 2):
            raise ValueError(
                f"model.num_heads {self.num_heads}, num_kv_heads {self.kv_heads}: differential "
                "attention pairs heads, so both must be even"
            )
        if "diff" in kinds:
            self._check_differential()
        if "mta" not in kinds:
            return
        for name in ("pre_head_kernel_size", "post_head_kernel_size"):
            size = getattr(self.mta, name)
            if isinstance(size, int) and (size < 1 or self.num_heads % size):
                raise ValueError(f"model.mta.{name} {size}: must divide num_heads {self.num_heads}")
        layers = self.mta.kq_layers or []
        if len(set(layers)) != len(layers):
            raise ValueError(f"model.mta.kq_layers {layers}: must name each layer once")
        for layer in layers:
            if not 0 <= layer < self.num_layers:
                raise ValueError(
                    f"model.mta.kq_layers names layer {layer}: must be in 0..{self.num_layers - 1}"
                )

    def _check_differential(self) -> None:
        """Differential attention has none of what converted models bring along."""
        for name in ("qkv_bias", "qk_norm"):
            if getattr(self, name):
                raise ValueError(f"model.{name} true: differential attention has none")
        if self.rope_scaling.kind != "none":
            raise ValueError(
                f"model.rope_scaling.kind {self.rope_scaling.kind}: differential attention has none"
            )

    @property
    def head_size(self) -> int:
        """H."""
        return self.embed_dim // self.num_heads if self.head_dim is None else self.head_dim

    @property
    def kv_heads(self) -> int:
        """K."""
        return self.num_heads if self.num_kv_heads is None else self.num_kv_heads

    @property
    def mlp_size(self) -> int:
        """F."""
        return default_mlp_dim(self.embed_dim) if self.mlp_dim is None else self.mlp_dim

    def attention_of(self, layer: int) -> AttentionKind:
        """The kind of attention of one layer."""
        return self.attention[layer] if isinstance(self.attention, list) else self.attention
