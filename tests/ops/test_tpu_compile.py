"""The kernels compile for real TPUs, none of which is needed.

Interpreting a kernel shows what it computes; this shows that the TPU compiler takes it,
its layouts and the memory it asks for.
"""

import jax
import jax.numpy as jnp
import pytest

from mta_jax.ops.multi_token_attention import multi_token_attention
from mta_jax.ops.target import targeting
from tests.tpu_compiler import TOPOLOGIES, one_tpu

# The TPU compiler, which comes with the extra `tpu`.
pytest.importorskip("libtpu")
pytestmark = pytest.mark.aot

HEADS = 4


def compile_gradients(
    generation,
    *,
    length,
    head_size,
    kernels=("pre_kq_kernel",),
    kernel_size=(6, 11),
    num_kv_heads=HEADS,
    dtype=jnp.bfloat16,
    packed=False,
    group_size=HEADS,
    implementation=None,
):
    """Compiles output and gradients for one TPU; kernels are the paper's by default."""
    device, sharding = one_tpu(generation)

    def array(dtype, *shape):
        return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)

    arrays = {
        "query": array(dtype, 1, length, HEADS, head_size),
        "key": array(dtype, 1, length, num_kv_heads, head_size),
        "value": array(dtype, 1, length, num_kv_heads, head_size),
    }
    for name in kernels:
        groups = (HEADS // group_size, group_size, group_size)
        shape = groups if "head" in name else (HEADS, *kernel_size)
        arrays[name] = array(jnp.float32, *shape)
    segment_ids = array(jnp.int32, 1, length) if packed else None

    def run(arrays, segment_ids, cotangent):
        def attend(arrays):
            return multi_token_attention(
                **arrays, segment_ids=segment_ids, implementation=implementation
            )

        out, pullback = jax.vjp(attend, arrays)
        return out, pullback(cotangent)

    with targeting(device):
        lowered = jax.jit(run).lower(arrays, segment_ids, arrays["query"])
    return lowered.compile()


def pallas_kernels(compiled):
    """How many calls of Pallas kernels a program has."""
    return compiled.as_text().count('custom_call_target="tpu_custom_call"')


# Head sizes of the toy models, of the paper's models and of most others.
@pytest.mark.parametrize("head_size", [64, 96, 128])
@pytest.mark.parametrize("generation", TOPOLOGIES)
def test_the_fused_kernel_is_chosen_and_compiles(generation, head_size):
    compiled = compile_gradients(generation, length=4096, head_size=head_size)
    # Keys are expanded twice.
    assert pallas_kernels(compiled) == 4
    # Nothing of the size of the logits is in main memory.
    assert compiled.memory_analysis().temp_size_in_bytes < HEADS * 4096**2


@pytest.mark.parametrize(
    ("generation", "options"),
    [
        ("v6e", {"packed": True, "num_kv_heads": 2}),
        (
            "v6e",
            {"packed": True, "group_size": 2, "kernels": ("pre_kq_kernel", "post_head_kernel")},
        ),
        ("v5p", {"kernels": ("pre_kq_kernel", "post_head_kernel")}),
        ("v6e", {"dtype": jnp.float32}),
        ("v5p", {"dtype": jnp.float32}),
        ("v6e", {"head_size": 256}),
        # The longest that fit.
        ("v5p", {"length": 15360}),
        ("v5p", {"length": 16384, "packed": True}),
        ("v5p", {"length": 14336, "kernel_size": (9, 11), "packed": True}),
        ("v6e", {"length": 43008}),
    ],
    ids=str,
)
def test_options_of_the_fused_kernel_compile(generation, options):
    options = {"length": 1024, "head_size": 128} | options
    compiled = compile_gradients(generation, implementation="pallas_tpu", **options)
    assert pallas_kernels(compiled) == 4


@pytest.mark.parametrize("options", [{}, {"packed": True, "head_size": 96}, {"length": 8192}])
@pytest.mark.parametrize("generation", TOPOLOGIES)
def test_ordinary_attention_takes_splash_attention(generation, options):
    options = {"length": 1000, "head_size": 128} | options
    compiled = compile_gradients(generation, kernels=(), **options)
    assert pallas_kernels(compiled) == (3 if options["length"] > 4096 else 2)


@pytest.mark.parametrize("generation", TOPOLOGIES)
def test_all_four_mixing_steps_compile_in_row_blocks(generation):
    kernels = ("pre_kq_kernel", "pre_head_kernel", "post_kq_kernel", "post_head_kernel")
    # The compiler takes minutes for kernels of the paper's size.
    compiled = compile_gradients(
        generation, length=512, head_size=96, kernels=kernels, kernel_size=(2, 3)
    )
    assert pallas_kernels(compiled) == 0
