"""The model section of params.json as our ModelConfig, and back."""

import dataclasses
from collections.abc import Mapping
from typing import Any, get_args

from mta_jax.errors import ConfigError
from mta_jax.interop.fields import Fields
from mta_jax.layers.group_norm import GroupNormScaling
from mta_jax.layers.initializers import KernelInit
from mta_jax.models import AttentionKind, ModelConfig, MTAConfig
from mta_jax.typing import KeyPadding

# Of the group norm there, whatever norm_eps says.
_GROUP_NORM_EPSILON = 1e-5

_INITS: Mapping[str, KernelInit] = {
    "identity": "identity",
    "const": "constant",
    "uniform": "uniform",
    "normal": "normal",
    "diagonal": "diagonal",
}

# What says nothing of the trained model.
_WITHOUT_EFFECT = ("init_base_std", "init_std_factor", "seed", "cache_attention_maps")
_MODEL = (
    *("dim", "n_layers", "head_dim", "n_heads", "n_kv_heads", "ffn_dim_multiplier"),
    *("multiple_of", "norm_eps", "rope_theta", "max_seqlen", "mta", "dropout", "triton"),
    *("vocab_size", "weight_tying", "sliding_window"),
    *_WITHOUT_EFFECT,
)
_MTA = (
    *("use_mta", "query_kernel_size", "key_kernel_size", "pad_key", "mta_layers"),
    *("after_sm_query_kernel_size", "after_sm_key_kernel_size", "init_method"),
    *("head_kernel_size", "group_norm", "layer_norm_rescale", "curse_norm"),
    *("pre_sm_linear_head", "post_sm_linear_head", "add_gating", "gate_1d"),
)


@dataclasses.dataclass(frozen=True)
class Described:
    """What the settings say.

    Attributes:
      model: the model.
      length: the longest text that it is made for.
      is_linear_after: whether heads are mixed by ``wposm`` after the softmax.
    """

    model: ModelConfig
    length: int
    is_linear_after: bool


def model_config(settings: Fields) -> Described:
    """The model of a params.json.

    Raises:
      ConfigError: where ours has no such model; it names the field.
    """
    section, mta = settings.section("model"), settings.section("model").section("mta")
    mta = Fields(mta.values, settings.where, "model.mta.")
    _refuse_others(section, mta)
    width = section.get("dim", int, default=512)
    head_dim = section.get("head_dim", int, default=None)
    by_size = {"default": width // head_dim} if head_dim else {}
    num_heads = section.get("n_heads", int, **by_size)
    epsilon = section.get("norm_eps", float, default=1e-5)
    kind, options = _attention(mta, num_heads)
    if options.get("group_norm") is not None and epsilon != _GROUP_NORM_EPSILON:
        raise section.refused(
            "norm_eps", f"group norm there has {_GROUP_NORM_EPSILON}, and here that of all norms"
        )
    length = section.get("max_seqlen", int, default=1024)
    window = section.get("sliding_window", int, default=None)
    if window is not None and window < length:
        raise section.refused(
            "sliding_window", f"shorter than max_seqlen {length}, and attention here sees all"
        )
    try:
        model = ModelConfig(
            vocab_size=section.get("vocab_size", int),
            num_layers=section.get("n_layers", int, default=8),
            embed_dim=width,
            num_heads=num_heads,
            num_kv_heads=section.get("n_kv_heads", int, default=num_heads),
            head_dim=head_dim,
            mlp_dim=_mlp_dim(
                width,
                section.get("ffn_dim_multiplier", float, default=None),
                section.get("multiple_of", int, default=256),
            ),
            attention=kind,
            mta=MTAConfig(**options) if kind == "mta" else MTAConfig(),
            rope_theta=section.get("rope_theta", float, default=10_000.0),
            rope_layout="interleaved",
            norm_epsilon=epsilon,
            tie_embeddings=section.get("weight_tying", bool, default=False),
            attention_dropout=section.get("dropout", float, default=0.0),
        )
    except ValueError as error:
        raise ConfigError(f"{settings.where}: {error}") from None
    is_linear_after = mta.get("post_sm_linear_head", bool, default=False)
    return Described(model, length, is_linear_after)


def _refuse_others(section: Fields, mta: Fields) -> None:
    """Refuses what makes another model of it, and what nobody here knows of."""
    section.refuse("triton", False, reason="its kernels have other names; must be false")
    mta.refuse("curse_norm", False, reason="residual norms here have no factor of depth")
    mta.refuse("pad_key", *get_args(KeyPadding), reason="must be both, left or right")
    for fields, known in ((section, _MODEL), (mta, _MTA)):
        for name in fields.values:
            if name not in known:
                raise fields.refused(name, "an unknown option")


def _mlp_dim(width: int, multiplier: float | None, multiple: int) -> int:
    """Two thirds of 4 D, by the multiplier, rounded up."""
    hidden = int(2 * (4 * width) / 3)
    if multiplier is not None:
        hidden = int(multiplier * hidden)
    return -(-hidden // multiple) * multiple


def _attention(mta: Fields, num_heads: int) -> tuple[Any, dict[str, Any]]:
    """The kind of attention, and the fields of MTAConfig."""
    group_norm = _group_norm(mta)
    if not mta.get("use_mta", bool, default=False):
        if group_norm is None:
            return "transformer", {}
        return "mta", _kernels() | {"group_norm": group_norm}
    is_linear_after = mta.get("post_sm_linear_head", bool, default=False)
    after = mta.get("head_kernel_size", int, default=None)
    if is_linear_after and after is not None:
        raise mta.refused("head_kernel_size", "must be null where post_sm_linear_head is true")
    options = _kernels(
        pre_kq_kernel_size=_kernel_size(mta, "query_kernel_size", "key_kernel_size", 1),
        post_kq_kernel_size=_kernel_size(
            mta, "after_sm_query_kernel_size", "after_sm_key_kernel_size", None
        ),
        pre_head_kernel_size="all" if mta.get("pre_sm_linear_head", bool, default=False) else None,
        post_head_kernel_size="all" if is_linear_after or after == num_heads else after,
    )
    if group_norm is None and options == _kernels(
        pre_head_kernel_size="all", post_head_kernel_size="all"
    ):
        return "talking_heads", {}
    return "mta", options | {
        "kq_layers": _layers(mta),
        "group_norm": group_norm,
        "key_padding": mta.get("pad_key", str, default="both"),
        "kernel_init": _INITS.get(mta.get("init_method", str, default="identity"), "identity"),
    }


def _kernels(**sizes: Any) -> dict[str, Any]:
    names = ("pre_kq", "post_kq", "pre_head", "post_head")
    return {f"{name}_kernel_size": None for name in names} | sizes


def _kernel_size(
    mta: Fields, queries: str, keys: str, default: int | None
) -> tuple[int, int] | None:
    """Size of a key-query kernel; null in either field is none, and differs from no field."""
    sizes: list[int | None] = []
    for name in (queries, keys):
        is_null = name in mta.values and mta.values[name] is None
        sizes.append(None if is_null else mta.get(name, int, default=default))
    queries_size, keys_size = sizes
    return None if queries_size is None or keys_size is None else (queries_size, keys_size)


def _layers(mta: Fields) -> list[int] | None:
    """Layers with key-query convolution."""
    text = mta.get("mta_layers", (str, int), default=None)
    if text is None:
        return None
    try:
        return [int(layer) for layer in str(text).split(",")]
    except ValueError:
        raise mta.refused("mta_layers", "expected numbers of layers, as in '2,6,10'") from None


def _group_norm(mta: Fields) -> GroupNormScaling | None:
    has_norm = mta.get("group_norm", bool, default=False)
    is_gated = mta.get("add_gating", bool, default=False)
    by_depth = mta.get("layer_norm_rescale", bool, default=False)
    if is_gated and not mta.get("gate_1d", bool, default=True):
        raise mta.refused("gate_1d", "the gate here is one number for each token and head")
    if is_gated and not has_norm:
        raise mta.refused("add_gating", "the gate here follows a group norm; group_norm is false")
    if is_gated and by_depth:
        raise mta.refused("layer_norm_rescale", "the group norm here has a gate or the factor")
    if not has_norm:
        return None
    return "gate" if is_gated else "depth" if by_depth else "none"


def settings_of(
    model: ModelConfig, length: int, *, is_linear_after: bool, before: dict[str, Any]
) -> dict[str, Any]:
    """The model section of the params.json of a model.

    Args:
      model: the model, in the interleaved layout of the rotary embedding.
      length: the longest text that it is made for.
      is_linear_after: whether to mix heads by ``wposm`` after the softmax.
      before: the section that it came from; what changes nothing stays as it is there.

    Raises:
      ConfigError: where the paper's code has no such model; it names the field.
    """
    kinds = {model.attention_of(layer) for layer in range(model.num_layers)}
    _refuse_ours(model, kinds)
    mta = model.mta if kinds == {"mta"} else MTAConfig(**_kernels(group_norm=None))
    if kinds == {"talking_heads"}:
        mta = dataclasses.replace(mta, pre_head_kernel_size="all", post_head_kernel_size="all")
    kept = {name: before[name] for name in (*_WITHOUT_EFFECT, "sliding_window") if name in before}
    if (kept.get("sliding_window") or length) < length:
        # It was as long as the texts before the model was trained on longer ones.
        kept["sliding_window"] = None
    section = kept | {
        "dim": model.embed_dim,
        "n_layers": model.num_layers,
        "head_dim": model.head_dim,
        "n_heads": model.num_heads,
        "n_kv_heads": model.num_kv_heads,
        "vocab_size": model.vocab_size,
        "norm_eps": model.norm_epsilon,
        "rope_theta": model.rope_theta,
        "weight_tying": model.tie_embeddings,
        "dropout": model.attention_dropout,
        "max_seqlen": length,
        "mta": _mta_section(mta, model.num_heads, is_linear_after=is_linear_after),
    }
    return section | _mlp_fields(model, before)


def _refuse_ours(model: ModelConfig, kinds: set[AttentionKind]) -> None:
    """Refuses what the paper's code lacks."""

    def refuse(field: str, reason: str) -> None:
        raise ConfigError(f"model.{field}: {reason}")

    lacks = "the paper's code has none"
    if len(kinds) > 1 or "diff" in kinds:
        refuse(
            f"attention {', '.join(sorted(kinds))}",
            "the paper's code has transformer, mta or talking_heads, the same in each layer",
        )
    if model.qkv_bias:
        refuse("qkv_bias true", lacks)
    if model.qk_norm:
        refuse("qk_norm true", lacks)
    if model.rope_scaling.kind != "none":
        refuse(f"rope_scaling.kind {model.rope_scaling.kind}", lacks)
    if model.embed_dim % model.num_heads:
        refuse(f"num_heads {model.num_heads}", f"must divide embed_dim {model.embed_dim} there")
    if kinds != {"mta"}:
        return
    mta = model.mta
    if mta.group_norm is not None and model.norm_epsilon != _GROUP_NORM_EPSILON:
        refuse(f"norm_epsilon {model.norm_epsilon}", f"must be {_GROUP_NORM_EPSILON} there")
    if mta.pre_head_kernel_size not in (None, "all", model.num_heads):
        refuse(
            f"mta.pre_head_kernel_size {mta.pre_head_kernel_size}",
            "all heads mix before the softmax there",
        )
    if mta.key_padding != "both" and mta.post_kq_kernel_size is not None:
        refuse(f"mta.key_padding {mta.key_padding}", "with post_kq_kernel_size it is both there")
    if _begins_constant(mta) and mta.post_head_kernel_size is not None and not _mixes_all(model):
        refuse(
            f"mta.key_padding {mta.key_padding}",
            f"with post_head_kernel_size {mta.post_head_kernel_size} it is both there, unless all "
            "heads mix before the softmax and after it",
        )
    if mta.kq_layers == []:
        refuse("mta.kq_layers []", "name a layer there, or set the sizes of the kernels to null")


def is_linear_after(model: ModelConfig, before: Mapping[str, Any]) -> bool:
    """Whether heads are to be mixed by ``wposm`` after the softmax, and not by ``head_kernel``.

    Args:
      model: the model.
      before: the mta section that it came from; empty where it is from elsewhere.
    """
    # Their constructor takes wposm beside wpsm only, and head_kernel with identities only.
    return _mixes_all(model) and (
        bool(before.get("post_sm_linear_head")) or _begins_constant(model.mta)
    )


def _mixes_all(model: ModelConfig) -> bool:
    sizes = (model.mta.pre_head_kernel_size, model.mta.post_head_kernel_size)
    return all(size in ("all", model.num_heads) for size in sizes)


def _begins_constant(mta: MTAConfig) -> bool:
    """Whether the kernels cannot begin as identities there, which ask for keys on both sides."""
    return mta.pre_kq_kernel_size is not None and mta.key_padding != "both"


def _mta_section(mta: MTAConfig, num_heads: int, *, is_linear_after: bool) -> dict[str, Any]:
    before, after = mta.pre_kq_kernel_size or (None, None), mta.post_kq_kernel_size or (None, None)
    heads_after = num_heads if mta.post_head_kernel_size == "all" else mta.post_head_kernel_size
    mixes = (mta.pre_kq_kernel_size, mta.post_kq_kernel_size, mta.pre_head_kernel_size, heads_after)
    layers = None if mta.kq_layers is None else ",".join(map(str, mta.kq_layers))
    return {
        "use_mta": any(size is not None for size in mixes),
        "query_kernel_size": before[0],
        "key_kernel_size": before[1],
        "after_sm_query_kernel_size": after[0],
        "after_sm_key_kernel_size": after[1],
        "pre_sm_linear_head": mta.pre_head_kernel_size is not None,
        "post_sm_linear_head": is_linear_after,
        "head_kernel_size": None if is_linear_after else heads_after,
        "mta_layers": layers,
        "pad_key": mta.key_padding if _begins_constant(mta) else "both",
        # Trained weights do not depend on it, but their constructor takes one of these only.
        "init_method": "const" if _begins_constant(mta) else "identity",
        "group_norm": mta.group_norm is not None,
        "layer_norm_rescale": mta.group_norm == "depth",
        "add_gating": mta.group_norm == "gate",
        "gate_1d": True,
        "curse_norm": False,
    }


def _mlp_fields(model: ModelConfig, before: dict[str, Any]) -> dict[str, Any]:
    """The two fields that the width of the feed-forward block is computed from."""
    for multiplier, multiple in (
        (before.get("ffn_dim_multiplier"), before.get("multiple_of", 256)),
        (None, 256),
        # The half keeps rounding errors from the whole number below.
        ((model.mlp_size + 0.5) / int(2 * (4 * model.embed_dim) / 3), 1),
    ):
        if _mlp_dim(model.embed_dim, multiplier, multiple) == model.mlp_size:
            return {"ffn_dim_multiplier": multiplier, "multiple_of": multiple}
    raise ConfigError(f"model.mlp_dim {model.mlp_size}: no multiplier there gives this width")
