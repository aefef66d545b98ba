"""config.json of `transformers` as our ModelConfig, and back."""

from typing import Any

from mta_jax.errors import ConfigError
from mta_jax.interop.fields import Fields
from mta_jax.models import ModelConfig
from mta_jax.ops.rope import RopeScaling

MODEL_TYPES = ("llama", "qwen2", "qwen3", "mistral")

_CLASSES = {
    "llama": "LlamaForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "mistral": "MistralForCausalLM",
}


# The window of these where config.json does not name one; null there means none.
_USUAL_WINDOWS = {"mistral": 4096, "qwen2": 4096, "qwen3": 4096}


def model_config(config: Fields) -> tuple[ModelConfig, int]:
    """The model of a config.json, and the longest text that it is made for.

    Raises:
      ConfigError: where ours has no such model; it names the field.
    """
    model_type = config.get("model_type", str)
    if model_type not in MODEL_TYPES:
        raise config.refused("model_type", f"must be one of {', '.join(MODEL_TYPES)}")
    _refuse_others(config, model_type)
    num_heads, width = config.get("num_attention_heads", int), config.get("hidden_size", int)
    # Qwen3's class has a size of its own where the file has none.
    head_dim = config.get("head_dim", int, default=128 if model_type == "qwen3" else None)
    length = config.get("max_position_embeddings", int)
    _refuse_window(config, model_type, length)
    theta, scaling = _rope(config, length)
    try:
        model = ModelConfig(
            vocab_size=config.get("vocab_size", int),
            num_layers=config.get("num_hidden_layers", int),
            embed_dim=width,
            num_heads=num_heads,
            num_kv_heads=config.get("num_key_value_heads", int, default=num_heads),
            head_dim=head_dim,
            mlp_dim=config.get("intermediate_size", int),
            attention="transformer",
            rope_theta=theta,
            rope_layout="half_split",
            rope_scaling=scaling,
            qkv_bias=model_type == "qwen2",
            qk_norm=model_type == "qwen3",
            norm_epsilon=config.get("rms_norm_eps", float, default=1e-6),
            tie_embeddings=config.get("tie_word_embeddings", bool, default=False),
            attention_dropout=config.get("attention_dropout", float, default=0.0),
        )
    except ValueError as error:
        raise ConfigError(f"{config.where}: {error}") from None
    return model, length


def _refuse_others(config: Fields, model_type: str) -> None:
    """Refuses what makes another model of it."""
    config.refuse("hidden_act", "silu", reason="must be silu")
    config.refuse("quantization_config", reason="a quantised checkpoint; take the original")
    biases = "the model here has no such biases"
    config.refuse("mlp_bias", False, reason=biases)
    if model_type != "qwen2":
        config.refuse("attention_bias", False, reason=biases)
    config.refuse("partial_rotary_factor", 1, 1.0, reason="must be 1")
    for name in ("num_experts", "num_local_experts"):
        config.refuse(name, 0, reason="a mixture of experts; the model here has none")


def _refuse_window(config: Fields, model_type: str, length: int) -> None:
    """Refuses attention that sees less than the whole text."""
    reason = f"shorter than max_position_embeddings {length}, and attention here sees all"
    window = _window(config, model_type)
    if window is not None and window < length:
        if "sliding_window" not in config.values:
            reason = f"missing, which is {window} there: {reason}; null where it has none"
            raise ConfigError(f"{config.where}: sliding_window {reason}")
        raise config.refused("sliding_window", reason)
    layers = config.get("layer_types", list, default=[])
    others = [kind for kind in layers if kind not in ("full_attention", "sliding_attention")]
    if others:
        raise config.refused("layer_types", "must be full_attention")


def _window(config: Fields, model_type: str) -> int | None:
    """Tokens that attention sees in some layer; None: all."""
    layers = config.get("layer_types", list, default=[])
    # Mistral has it in each layer, whatever layer_types says. Qwen's is that of
    # use_sliding_window where there are no layer_types.
    is_used = model_type == "mistral" or (
        "sliding_attention" in layers
        if layers
        else config.get("use_sliding_window", bool, default=False)
    )
    is_named = "sliding_window" in config.values
    usual = None if is_named else _USUAL_WINDOWS.get(model_type)
    window: int | None = config.get("sliding_window", int, default=usual)
    return window if is_used else None


def _rope(config: Fields, length: int) -> tuple[float, RopeScaling]:
    """Base and scaling of the rotary embedding.

    ``rope_theta`` and ``rope_scaling`` up to version 4 of the library, then one section,
    ``rope_parameters``.
    """
    name = "rope_parameters" if config.values.get("rope_parameters") else "rope_scaling"
    section = config.section(name)
    theta = section.get(
        "rope_theta", float, default=config.get("rope_theta", float, default=10_000.0)
    )
    section.refuse("partial_rotary_factor", 1, 1.0, reason="must be 1")
    kind_name = "rope_type" if section.values.get("rope_type") else "type"
    kind = section.get(kind_name, str, default="default")
    if kind == "default":
        return theta, RopeScaling()
    if kind == "linear":
        return theta, RopeScaling(kind="linear", factor=section.get("factor", float))
    if kind != "llama3":
        raise section.refused(kind_name, "must be default, linear or llama3")
    return theta, RopeScaling(
        kind="llama3",
        factor=section.get("factor", float),
        low_frequency_factor=section.get("low_freq_factor", float),
        high_frequency_factor=section.get("high_freq_factor", float),
        original_length=section.get("original_max_position_embeddings", int, default=length),
    )


def settings_of(model: ModelConfig, length: int, before: dict[str, Any]) -> dict[str, Any]:
    """The config.json of a model.

    Args:
      model: the model, in the half_split layout of the rotary embedding.
      length: the longest text that it is made for.
      before: the config.json that it came from; what we do not know of stays as it is there.

    Raises:
      ConfigError: where `transformers` has no such model; it names the field.
    """
    model_type = _model_type(model, before.get("model_type"))
    if before.get("model_type") != model_type:
        before = {}
    settings = before | {
        "architectures": [_CLASSES[model_type]],
        "model_type": model_type,
        "vocab_size": model.vocab_size,
        "hidden_size": model.embed_dim,
        "intermediate_size": model.mlp_size,
        "num_hidden_layers": model.num_layers,
        "num_attention_heads": model.num_heads,
        "num_key_value_heads": model.kv_heads,
        "head_dim": model.head_size,
        "hidden_act": "silu",
        "max_position_embeddings": length,
        "rms_norm_eps": model.norm_epsilon,
        "tie_word_embeddings": model.tie_embeddings,
        "attention_dropout": model.attention_dropout,
        "rope_theta": model.rope_theta,
        "rope_scaling": _scaling_section(model.rope_scaling),
    }
    # Both versions of the library read the older spelling.
    settings.pop("rope_parameters", None)
    if model_type == "mistral":
        # Where the library would take 4096.
        settings.setdefault("sliding_window", None)
    window = _window(Fields(settings, "config.json"), model_type)
    if window is not None and window < length:
        # It was as long as the texts before the model was trained on longer ones.
        settings |= {"sliding_window": None, "use_sliding_window": False}
        settings.pop("layer_types", None)
    return settings


def _model_type(model: ModelConfig, before: str | None) -> str:
    for layer in range(model.num_layers):
        kind = model.attention_of(layer)
        if kind != "transformer":
            raise ConfigError(
                f"model.attention {kind}: Hugging Face's models of the Llama family have ordinary "
                "attention (transformer); to lingua takes mta and talking_heads"
            )
    if model.qkv_bias and model.qk_norm:
        raise ConfigError(
            "model.qkv_bias true with qk_norm true: Qwen2 has the one, Qwen3 the other"
        )
    if model.qkv_bias:
        return "qwen2"
    if model.qk_norm:
        return "qwen3"
    return "mistral" if before == "mistral" else "llama"


def _scaling_section(scaling: RopeScaling) -> dict[str, Any] | None:
    if scaling.kind == "none":
        return None
    section: dict[str, Any] = {"rope_type": scaling.kind, "factor": scaling.factor}
    if scaling.kind == "llama3":
        section |= {
            "low_freq_factor": scaling.low_frequency_factor,
            "high_freq_factor": scaling.high_frequency_factor,
            "original_max_position_embeddings": scaling.original_length,
        }
    return section
