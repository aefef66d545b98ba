"""The kernels compile for real TPUs, none of which is needed.

Interpreting a kernel shows what it computes; this shows that the TPU compiler takes it,
its layouts and the memory it asks for.
"""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from mta_jax.ops.multi_token_attention import multi_token_attention
from mta_jax.ops.target import targeting
from mta_jax.parallel.attention import attend_on_mesh
from mta_jax.parallel.mesh import MeshConfig, make_mesh, on
from tests.tpu_compiler import TOPOLOGIES, one_tpu, tpus

# The TPU compiler, which comes with the extra `tpu`.
pytest.importorskip("libtpu")
pytestmark = pytest.mark.aot

HEADS = 4
MIXING = ("pre_head_kernel", "post_head_kernel")
EVERYTHING = ("pre_kq_kernel", "pre_head_kernel", "post_kq_kernel", "post_head_kernel")


def compile_gradients(
    generation,
    *,
    length,
    head_size,
    kernels=("pre_kq_kernel",),
    kernel_size=(6, 11),
    num_kv_heads=None,
    dtype=jnp.bfloat16,
    packed=False,
    num_heads=HEADS,
    group_size=None,
    implementation=None,
):
    """Compiles output and gradients for one TPU; kernels are the paper's by default."""
    device, sharding = one_tpu(generation)
    num_kv_heads = num_kv_heads or num_heads
    group_size = group_size or num_heads

    def array(dtype, *shape):
        return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)

    arrays = {
        "query": array(dtype, 1, length, num_heads, head_size),
        "key": array(dtype, 1, length, num_kv_heads, head_size),
        "value": array(dtype, 1, length, num_kv_heads, head_size),
    }
    for name in kernels:
        groups = (num_heads // group_size, group_size, group_size)
        shape = groups if "head" in name else (num_heads, *kernel_size)
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


def slow(*values):
    """Of a test's parameters, those that take the compiler a minute."""
    return pytest.param(*values, marks=pytest.mark.slow)


# Head sizes of the toy models, of the paper's models and of most others.
@pytest.mark.parametrize(
    ("generation", "head_size"),
    [
        ("v5e", 64),
        ("v5p", 96),
        ("v6e", 128),
        *(slow("v5e", size) for size in (96, 128)),
        *(slow("v5p", size) for size in (64, 128)),
        *(slow("v6e", size) for size in (64, 96)),
    ],
)
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
        slow("v5p", {"kernels": ("pre_kq_kernel", "post_head_kernel")}),
        slow("v6e", {"dtype": jnp.float32}),
        slow("v5p", {"dtype": jnp.float32}),
        slow("v6e", {"head_size": 256}),
        # The longest that fit.
        slow("v5p", {"length": 15360}),
        ("v5p", {"length": 16384, "packed": True}),
        slow("v5p", {"length": 14336, "kernel_size": (9, 11), "packed": True}),
        slow("v6e", {"length": 43008}),
    ],
    ids=str,
)
def test_options_of_the_fused_kernel_compile(generation, options):
    options = {"length": 1024, "head_size": 128} | options
    compiled = compile_gradients(generation, implementation="pallas_tpu", **options)
    assert pallas_kernels(compiled) == 4


@pytest.mark.parametrize(
    ("kernels", "count"), [(("pre_kq_kernel",), 4), (("post_head_kernel",), 3), (EVERYTHING, 2)]
)
def test_64_bit_mode_compiles(kernels, count):
    with jax.enable_x64(True):
        compiled = compile_gradients(
            "v6e", length=256, head_size=64, kernels=kernels, num_heads=2, packed=True
        )
    assert pallas_kernels(compiled) == count


@pytest.mark.parametrize("options", [{}, {"packed": True, "head_size": 96}, {"length": 8192}])
@pytest.mark.parametrize("generation", TOPOLOGIES)
def test_ordinary_attention_takes_splash_attention(generation, options):
    options = {"length": 1000, "head_size": 128} | options
    compiled = compile_gradients(generation, kernels=(), **options)
    assert pallas_kernels(compiled) == (3 if options["length"] > 4096 else 2)


@pytest.mark.parametrize(
    ("generation", "options"),
    [
        slow("v5e", {"kernels": MIXING}),
        slow("v5p", {"kernels": MIXING}),
        slow("v6e", {"kernels": MIXING}),
        slow("v5p", {"kernels": MIXING, "packed": True, "num_kv_heads": 4, "head_size": 128}),
        slow("v6e", {"kernels": MIXING, "dtype": jnp.float32, "packed": True, "head_size": 128}),
        ("v6e", {"kernels": MIXING, "num_heads": 6, "num_kv_heads": 3, "group_size": 2}),
        slow("v6e", {"kernels": ("post_head_kernel",), "head_size": 64, "length": 32768}),
    ],
    ids=str,
)
def test_head_mixing_is_fused(generation, options):
    """With the paper's heads unless said."""
    options = {"length": 4096, "head_size": 96, "num_heads": 16} | options
    compiled = compile_gradients(generation, **options)
    assert pallas_kernels(compiled) == 3
    # Less than one map of the logits in bfloat16 takes.
    map_bytes = 2 * options["num_heads"] * options["length"] ** 2
    assert compiled.memory_analysis().temp_size_in_bytes < map_bytes


@pytest.mark.parametrize(
    ("generation", "kernels"),
    [
        slow("v5e", MIXING),
        ("v5p", MIXING),
        slow("v6e", MIXING),
        slow("v5e", EVERYTHING),
        slow("v5p", EVERYTHING),
        slow("v6e", EVERYTHING),
    ],
    ids=str,
)
def test_mixing_steps_on_a_mesh_are_fused(generation, kernels):
    """Each of four chips has a part of the rows of queries, at an offset known only to it."""
    mesh = make_mesh(MeshConfig(context=4), tpus(generation))
    shape = (1, 8192, 16, 96)
    by_rows = NamedSharding(mesh, PartitionSpec(None, "context"))
    sequence = jax.ShapeDtypeStruct(shape, jnp.bfloat16, sharding=by_rows)
    segment_ids = jax.ShapeDtypeStruct(shape[:2], jnp.int32, sharding=by_rows)
    everywhere = NamedSharding(mesh, PartitionSpec())
    arrays = {
        name: jax.ShapeDtypeStruct(
            (16, 6, 11) if "kq" in name else (1, 16, 16), jnp.float32, sharding=everywhere
        )
        for name in kernels
    }

    def run(sequences, kernels, segment_ids, cotangent):
        def attend(sequences, kernels):
            return attend_on_mesh(
                multi_token_attention,
                *sequences,
                kernels=kernels,
                scalars={},
                heads_per_part=16,
                segment_ids=segment_ids,
                dropout_key=None,
            )

        out, pullback = jax.vjp(attend, sequences, kernels)
        return out, pullback(cotangent)

    with targeting(mesh.devices.flat[0]), on(mesh):
        lowered = jax.jit(run).lower((sequence,) * 3, arrays, segment_ids, sequence)
    compiled = lowered.compile()
    assert pallas_kernels(compiled) == (3 if kernels == MIXING else 2)
    # Less than a chip's part of one map of the logits in bfloat16 takes.
    assert compiled.memory_analysis().temp_size_in_bytes < 2 * 16 * 8192**2 // 4


@pytest.mark.parametrize(
    ("generation", "options"),
    [
        slow("v5e", {}),
        ("v5p", {}),
        slow("v6e", {}),
        slow("v5p", {"packed": True, "num_kv_heads": 4, "head_size": 128}),
        slow("v6e", {"packed": True, "head_size": 128}),
        ("v6e", {"kernels": EVERYTHING[:3], "dtype": jnp.float32, "num_heads": 4}),
        slow("v6e", {"dtype": jnp.float32, "num_heads": 2, "head_size": 192, "packed": True}),
        slow("v6e", {"dtype": jnp.float32, "num_heads": 16, "head_size": 128, "packed": True}),
        ("v6e", {"kernels": ("post_kq_kernel",), "num_heads": 2, "kernel_size": (9, 33)}),
        slow("v5p", {"length": 32768}),
    ],
    ids=str,
)
def test_all_four_mixing_steps_are_fused(generation, options):
    """With the paper's heads and kernels unless said."""
    options = {"length": 4096, "head_size": 96, "num_heads": 16, "kernels": EVERYTHING} | options
    compiled = compile_gradients(generation, **options)
    assert pallas_kernels(compiled) == 2
    # Less than one map of the logits in bfloat16 takes.
    map_bytes = 2 * options["num_heads"] * options["length"] ** 2
    assert compiled.memory_analysis().temp_size_in_bytes < map_bytes
