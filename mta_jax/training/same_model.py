"""Whether the same parameters mean the same in two models."""

from typing import Any

from mta_jax.models import ModelConfig

_MUST_BE_THE_SAME = ("rope_layout", "norm_epsilon")


def forbidden_difference(there: ModelConfig, here: ModelConfig) -> str | None:
    """The first setting that gives the same parameters another meaning; None: there is none.

    Args:
      there: the model that the weights are of.
      here: the one that is to begin with them.
    """
    for name in _MUST_BE_THE_SAME:
        if getattr(there, name) != getattr(here, name):
            return _difference(f"model.{name}", getattr(there, name), getattr(here, name))
    paddings = [model.mta.key_padding for model in (there, here) if _convolves(model)]
    if len(set(paddings)) > 1:
        return _difference("model.mta.key_padding", *paddings)
    norms = [model.mta.group_norm for model in (there, here) if _has_mta(model)]
    # With a gate, or without a norm, parameters differ too.
    if set(norms) == {"none", "depth"}:
        return _difference("model.mta.group_norm", *norms)
    return None


def allowed_differences(there: ModelConfig, here: ModelConfig) -> list[str]:
    """Settings that finetuning may change on purpose, though they change what is computed.

    To longer texts it changes the rotary embedding; dropout is of the training alone.
    """
    values = [
        {
            "model.rope_theta": model.rope_theta,
            "model.rope_scaling": _spell_scaling(model),
            "model.attention_dropout": model.attention_dropout,
        }
        for model in (there, here)
    ]
    return [
        _difference(name, value, values[1][name])
        for name, value in values[0].items()
        if value != values[1][name]
    ]


def _convolves(model: ModelConfig) -> bool:
    sizes = (model.mta.pre_kq_kernel_size, model.mta.post_kq_kernel_size)
    return _has_mta(model) and sizes != (None, None) and model.mta.kq_layers != []


def _has_mta(model: ModelConfig) -> bool:
    return any(model.attention_of(layer) == "mta" for layer in range(model.num_layers))


def _difference(name: str, there: Any, here: Any) -> str:
    return f"{name} is {there} there and {here} here"


def _spell_scaling(model: ModelConfig) -> str:
    """The kind, and the numbers that it uses."""
    scaling = model.rope_scaling
    names = {"none": [], "linear": ["factor"]}.get(
        scaling.kind, ["factor", "low_frequency_factor", "high_frequency_factor", "original_length"]
    )
    return " ".join([scaling.kind, *(f"{name} {getattr(scaling, name)}" for name in names)])
