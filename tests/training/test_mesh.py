import dataclasses

import pytest

from mta_jax.data import BlockSearchConfig, DataConfig
from mta_jax.errors import ConfigError
from mta_jax.models import ModelConfig, MTAConfig
from mta_jax.parallel.mesh import MeshConfig
from mta_jax.training.config import SampleConfig
from mta_jax.training.mesh import mesh_of, mesh_sizes
from tests.training.tiny import text_config


def config(kind="transformer", **model):
    fields = {"num_layers": 1, "embed_dim": 32, "num_heads": 4, "mlp_dim": 64} | model
    return text_config(model=ModelConfig(attention=kind, **fields))


def sizes_of(run, data=1, fsdp=1, context=1, tensor=1):
    mesh = MeshConfig(data=data, fsdp=fsdp, context=context, tensor=tensor)
    run = dataclasses.replace(run, mesh=mesh)
    return mesh_sizes(run, data * fsdp * context * tensor)


@pytest.mark.parametrize(
    ("run", "sizes", "message"),
    [
        (
            config(),
            {"data": 4, "fsdp": 8},
            "mesh.data 4 x mesh.fsdp 8: must divide the rows of a batch, data.batch_size / "
            "accumulate 16; 16 would, with",
        ),
        (
            dataclasses.replace(config(), accumulate=4),
            {"fsdp": 8},
            "mesh.data 1 x mesh.fsdp 8: must divide the rows of a batch, data.batch_size / "
            "accumulate 4; 4 would, with",
        ),
        (
            config(embed_dim=36, head_dim=8),
            {"fsdp": 8},
            "mesh.fsdp 8: must divide model.embed_dim 36; 4 would, with",
        ),
        (config(), {"tensor": 8}, "mesh.tensor 8: must divide model.num_heads 4; 4 would, with"),
        (
            config(mlp_dim=65),
            {"tensor": 4},
            "mesh.tensor 4: must divide model.mlp_dim 65; 1 would, with",
        ),
        (
            config(),
            {"context": 3},
            "mesh.context 3: must divide the length of a row 64; 1 would, with",
        ),
    ],
)
def test_what_cannot_be_split_evenly_is_named(run, sizes, message):
    with pytest.raises(ConfigError) as caught:
        sizes_of(run, **sizes)
    start, _, end = str(caught.value).partition(" the other devices on another axis, or ")
    assert start == message
    assert end.startswith("a multiple of ")


@pytest.mark.parametrize(
    ("kind", "model", "splits_queries"),
    [
        ("transformer", {}, False),
        ("transformer", {"num_kv_heads": 1}, True),
        ("talking_heads", {}, True),
        ("diff", {}, False),
        ("diff", {"num_heads": 2}, True),
        ("mta", {"mta": MTAConfig(pre_head_kernel_size=None, post_head_kernel_size=2)}, False),
        ("mta", {"mta": MTAConfig(pre_head_kernel_size="all", post_head_kernel_size=2)}, True),
    ],
)
def test_rows_must_divide_where_heads_cannot_be_apart(kind, model, splits_queries):
    run = config(kind, **model)
    # 30 positions: context 2 divides them, and context 2 x tensor 2 does not.
    block_search = BlockSearchConfig(sequence_length=31)
    run = dataclasses.replace(
        run, data=DataConfig(batch_size=16, block_search=block_search), sample=SampleConfig()
    )
    assert run.data.row_length == 30
    if splits_queries:
        with pytest.raises(ConfigError, match=r"mesh.context 2 x mesh.tensor 2: must divide the"):
            sizes_of(run, context=2, tensor=2)
    else:
        sizes = sizes_of(run, context=2, tensor=2)
        assert sizes == {"data": 1, "fsdp": 1, "context": 2, "tensor": 2}


def test_a_mesh_of_other_than_the_devices_is_a_mistake_in_the_config():
    assert mesh_of(config()).size == 1
    with pytest.raises(ConfigError, match=r"mesh.tensor 3"):
        mesh_of(dataclasses.replace(config(), mesh=MeshConfig(tensor=3)))
