import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mta_jax.layers import GroupNorm
from mta_jax.models import ModelConfig, MTAConfig
from mta_jax.training.diagnostics import make_gate_openness, make_kernel_distances
from mta_jax.training.state import Program, make_program
from tests.training.tiny import toy_config

MTA = MTAConfig(
    pre_kq_kernel_size=(2, 3),
    post_kq_kernel_size=(3, 2),
    pre_head_kernel_size=2,
    post_head_kernel_size="all",
    kq_layers=[1],
    key_padding="left",
)
MODEL = ModelConfig(
    num_layers=2,
    embed_dim=16,
    num_heads=4,
    mlp_dim=16,
    attention="mta",
    mta=MTA,
    attention_dropout=0.1,
)


def program_of(**changes):
    return make_program(
        dataclasses.replace(toy_config(), model=dataclasses.replace(MODEL, **changes))
    )


def batch_of(num_rows=2):
    rng = np.random.default_rng(0)
    weights = np.zeros((num_rows, 8), np.float32)
    weights[0, 2:5] = [1.0, 0.5, 2.0]
    weights[1, 7] = 1.0
    return {
        "inputs": rng.integers(0, 10, size=(num_rows, 8)).astype(np.int32),
        "targets_weights": weights,
        "inputs_segment_ids": np.repeat([[1, 2]], [3, 5], axis=1).repeat(num_rows, 0),
        "inputs_positions": np.tile([0, 1, 2, 0, 1, 2, 3, 4], (num_rows, 1)),
    }


@pytest.mark.parametrize("key_padding", ["both", "left", "right"])
def test_identity_kernels_are_at_distance_zero(key_padding):
    size = (3, 3) if key_padding == "both" else (3, 4)
    mta = dataclasses.replace(
        MTA, key_padding=key_padding, pre_kq_kernel_size=size, post_kq_kernel_size=size
    )
    program = program_of(mta=mta)
    assert make_kernel_distances(program)(program.initial_state()["params"]) == {
        "kernels/layer_0/post_head": 0.0,
        "kernels/layer_0/pre_head": 0.0,
        "kernels/layer_1/post_head": 0.0,
        "kernels/layer_1/post_kq": 0.0,
        "kernels/layer_1/pre_head": 0.0,
        "kernels/layer_1/pre_kq": 0.0,
    }


def test_zero_kernels_are_at_distance_one():
    program = program_of(mta=dataclasses.replace(MTA, kernel_init="zero"))
    figures = make_kernel_distances(program)(program.initial_state()["params"])
    assert len(figures) == 6
    assert list(figures.values()) == pytest.approx([1.0] * 6)


def test_distance_is_its_formula():
    program = program_of()
    params = program.initial_state()["params"]
    attention = params["layers"][1]["attention"]
    kernel = attention["pre_kq"]["kernel"]
    # Two of four heads differ, by 3 and by 4 on two taps each.
    attention["pre_kq"]["kernel"] = kernel.at[0, :, 0].add(3.0).at[2, 0, 1:].add(4.0)
    # One of two groups differs, by 1 on each of four taps; the identity's norm is sqrt(2).
    attention["pre_head"]["kernel"] = attention["pre_head"]["kernel"].at[1].add(1.0)
    figures = make_kernel_distances(program)(params)
    assert figures["kernels/layer_1/pre_kq"] == pytest.approx(7 * np.sqrt(2) / 4)
    assert figures["kernels/layer_1/pre_head"] == pytest.approx(2 / np.sqrt(2) / 2)
    assert figures["kernels/layer_1/post_kq"] == 0.0


def test_layers_come_in_their_order():
    program = program_of(num_layers=11, attention="talking_heads")
    figures = make_kernel_distances(program)(jax.jit(program.initial_state)()["params"])
    assert [name.split("/")[1] for name in figures][::2] == [f"layer_{i}" for i in range(11)]


@pytest.mark.parametrize("attention", ["transformer", "diff"])
def test_a_model_without_mixing_and_gates_has_no_figures(attention):
    program = program_of(attention=attention)
    params = program.initial_state()["params"]
    assert make_kernel_distances(program)(params) == {}
    assert make_gate_openness(program)(params, batch_of()) == {}


def test_gates_are_the_mean_of_those_of_counted_tokens():
    program = program_of(num_layers=3, attention=["mta", "diff", "mta"])
    params = jax.jit(program.initial_state)()["params"]
    params = jax.tree.map(
        lambda leaf: leaf + 0.3 * np.random.default_rng(1).normal(size=leaf.shape), params
    )
    batch = batch_of()
    figures = make_gate_openness(program)(params, batch)
    assert list(figures) == ["gates/layer_0", "gates/layer_2"]

    model = program.model(params)
    where = {
        "segment_ids": jnp.asarray(batch["inputs_segment_ids"]),
        "positions": jnp.asarray(batch["inputs_positions"]),
    }
    x = model.embedding(jnp.asarray(batch["inputs"]))
    for layer, block in enumerate(model.layers):
        attention = block.attention
        if layer != 1:
            inputs = block.attention_norm(x)
            weights = attention.attention_weights(inputs, **where)
            heads = jnp.einsum("BNTS,BSNH->BTNH", weights, attention.value_proj(inputs))
            normed = attention.group_norm.norm(heads)
            gate = params["layers"][layer]["attention"]["group_norm"]["gate"]
            openness = 1 / (1 + np.exp(-(normed @ gate["kernel"] + gate["bias"])))
            expected = np.concatenate([openness[0, 2:5], openness[1, 7:]]).mean()
            assert abs(expected - 0.5) > 0.01
            assert figures[f"gates/layer_{layer}"] == pytest.approx(expected, abs=1e-5)
        x = block(x, **where, deterministic=True)


def test_gates_of_no_tokens_are_zero():
    program = program_of(num_layers=1, mta=dataclasses.replace(MTA, kq_layers=[]))
    batch = batch_of() | {"targets_weights": np.zeros((2, 8), np.float32)}
    figures = make_gate_openness(program)(jax.jit(program.initial_state)()["params"], batch)
    assert figures == {"gates/layer_0": 0.0}


def test_gates_do_not_need_the_whole_map():
    program = program_of(attention_implementation="xla_chunked")
    length = 512
    graph = jax.make_jaxpr(lambda params, tokens: program.model(params).gate_openness(tokens))(
        jax.eval_shape(program.initial_state)["params"],
        jax.ShapeDtypeStruct((1, length), jnp.int32),
    )
    assert f"{length},{length}]" not in str(graph)


def test_each_function_is_traced_once(monkeypatch):
    traces = []
    model_of = Program.model
    monkeypatch.setattr(Program, "model", lambda *args: traces.append(1) or model_of(*args))
    program = program_of(num_layers=1, mta=dataclasses.replace(MTA, kq_layers=[]))
    distances, gates = make_kernel_distances(program), make_gate_openness(program)
    params = jax.jit(program.initial_state)()["params"]
    for scale in (1.0, 2.0):
        scaled = jax.tree.map(lambda leaf, scale=scale: scale * leaf, params)
        distances(scaled)
        gates(scaled, batch_of())
    assert len(traces) == 2


def test_a_norm_without_a_gate_says_so():
    norm = GroupNorm(4, scaling="none", rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="group norm without a gate: scaling must be 'gate'"):
        norm.openness(jnp.ones((1, 2, 3, 4)))
