"""Layers by the fused kernels on one device and on a mesh of eight; its own process.

python -m tests.parallel.fused_on_a_mesh STEPS prints, as JSON, how far output and gradients on
the mesh are from those of one device by `xla`, and what serves the mesh where it is of TPUs.
STEPS are the mixing steps of the layer: heads, all or logits.
"""

import json
import os
import sys
import types
from typing import Any

if __name__ == "__main__":
    # Before jax is imported.
    flags = os.environ.get("XLA_FLAGS", "")
    os.environ["XLA_FLAGS"] = f"{flags} --xla_force_host_platform_device_count=8"

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from mta_jax.layers import MultiTokenAttention
from mta_jax.ops.multi_token_attention.api import IMPLEMENTATIONS
from mta_jax.ops.target import targeting
from mta_jax.parallel.mesh import MeshConfig, make_mesh, on
from tests.layers.tools import drawn
from tests.ops.watching import watched

MESH = MeshConfig(fsdp=2, context=2, tensor=2)
BATCH, LENGTH, FEATURES = 2, 600, 16
STEPS: dict[str, dict[str, Any]] = {
    "heads": {"pre_kq_kernel_size": None, "post_kq_kernel_size": None},
    "all": {"pre_kq_kernel_size": (3, 5), "post_kq_kernel_size": (2, 3)},
    # By itself, a convolution of logits has kernels of its own, for whole rows.
    "logits": {
        "pre_kq_kernel_size": (3, 5),
        "post_kq_kernel_size": None,
        "pre_head_kernel_size": None,
        "post_head_kernel_size": None,
    },
}
# A border in the first part of the rows, and one at the end of another.
SEGMENTS = np.tile(np.searchsorted([70, 300], np.arange(LENGTH), side="right"), (BATCH, 1))


def layer(steps: str, implementation: str | None) -> MultiTokenAttention:
    return drawn(
        lambda: MultiTokenAttention(
            num_heads=4,
            in_features=FEATURES,
            num_kv_heads=2,
            **STEPS[steps],
            implementation=implementation,
            rngs=nnx.Rngs(0),
        ),
        scale=0.2,
    )


def results(steps: str, implementation: str | None) -> dict[str, Any]:
    """The output, and the gradients of the parameters and of the input."""
    graphdef, params = nnx.split(layer(steps, implementation))
    rng = np.random.default_rng(1)
    x, cotangent = rng.normal(size=(2, BATCH, LENGTH, FEATURES)).astype(np.float32)

    def attend(params, x):
        return nnx.merge(graphdef, params)(x, segment_ids=jnp.asarray(SEGMENTS))

    @jax.jit
    def run(params, x, cotangent):
        out, pullback = jax.vjp(attend, params, x)
        dparams, dx = pullback(cotangent)
        return {"out": out, "x": dx, **dparams}

    leaves = jax.tree.leaves_with_path(run(params, x, cotangent))
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}


def names_on_tpus(steps: str) -> list[str]:
    """Implementations that serve the mesh where its devices are TPUs."""
    names: list[str] = []
    IMPLEMENTATIONS.update(watched(names))
    with targeting(types.SimpleNamespace(platform="tpu", device_kind="TPU v6 lite")):
        jax.eval_shape(lambda: results(steps, None))
    return names


def main(steps: str) -> None:
    expected = jax.device_get(results(steps, "xla"))
    with on(make_mesh(MESH)):
        got = jax.device_get(results(steps, "pallas_tpu"))
        names = names_on_tpus(steps)
    differences = {
        name: float(np.abs(got[name] - want).max() / np.abs(want).max())
        for name, want in expected.items()
    }
    print(json.dumps({"differences": differences, "names_on_tpus": names}))


if __name__ == "__main__":
    main(sys.argv[1])
