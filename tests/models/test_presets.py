import math
import re

import jax
import pytest
from flax import nnx

from mta_jax.models import Transformer, model_preset
from tests.layers.tools import unchecked_types

SIZES = ("300m", "550m", "880m", "1b")

# Appendix F, table 8, gives those of 880M; the others follow from the same formulas.
TOTALS = {
    ("300m", "transformer"): 388_277_248,
    ("300m", "diff"): 388_284_928,
    ("300m", "talking_heads"): 388_287_488,
    ("300m", "mta"): 388_300_628,
    ("550m", "transformer"): 651_818_240,
    ("550m", "diff"): 651_836_672,
    ("550m", "talking_heads"): 651_823_040,
    ("550m", "mta"): 651_837_128,
    ("880m", "transformer"): 876_553_728,
    ("880m", "diff"): 876_567_552,
    ("880m", "talking_heads"): 876_566_016,
    ("880m", "mta"): 876_583_320,
    ("1b", "transformer"): 1_495_894_016,
    ("1b", "diff"): 1_495_912_448,
    ("1b", "talking_heads"): 1_495_906_304,
    ("1b", "mta"): 1_495_925_144,
}


@pytest.fixture
def one_key(monkeypatch):
    """One key for all parameters: drawing keys while tracing is quadratic in their number."""
    key = jax.random.key(0)
    monkeypatch.setattr(nnx.RngStream, "__call__", lambda stream: key)


@pytest.mark.usefixtures("one_key")
@pytest.mark.parametrize(("size", "attention"), TOTALS)
def test_number_of_parameters_is_the_papers(size, attention):
    config = model_preset(size, attention)
    model = nnx.eval_shape(lambda: Transformer(config, rngs=nnx.Rngs(0)))
    leaves = jax.tree.leaves(nnx.state(model, nnx.Param))
    assert sum(math.prod(leaf.shape) for leaf in leaves) == TOTALS[size, attention]


@pytest.mark.parametrize("size", SIZES)
def test_differential_attention_adds_six_vectors_per_layer(size):
    config = model_preset(size)
    added = TOTALS[size, "diff"] - TOTALS[size, "transformer"]
    assert added == 6 * config.num_layers * config.head_size


@pytest.mark.parametrize(
    ("size", "sizes"),
    [
        ("300m", (20, 1024, 16, 64, 2816)),
        ("550m", (24, 1280, 10, 128, 3584)),
        ("880m", (24, 1536, 16, 96, 4096)),
        ("1b", (24, 2048, 16, 128, 5632)),
    ],
)
def test_layers_widths_and_heads_are_the_papers(size, sizes):
    config = model_preset(size)
    assert sizes == (
        config.num_layers,
        config.embed_dim,
        config.num_heads,
        config.head_size,
        config.mlp_size,
    )
    assert config.vocab_size == 128_256
    assert config.rope_theta == 100_000
    assert config.tie_embeddings
    assert config.attention_dropout == 0
    assert config.dtype == "bfloat16"


@pytest.mark.parametrize("size", SIZES)
def test_every_fourth_layer_convolves_from_layer_two(size):
    config = model_preset(size)
    assert config.attention == "mta"
    assert config.mta.kq_layers == list(range(2, config.num_layers, 4))
    assert config.mta.pre_kq_kernel_size == config.mta.post_kq_kernel_size == (6, 11)
    assert config.mta.pre_head_kernel_size == config.mta.post_head_kernel_size == "all"
    assert config.mta.group_norm == "gate"


def test_overrides_replace_fields():
    config = model_preset("300m", "diff", num_layers=20, dtype="float32", vocab_size=100)
    assert (config.attention, config.dtype, config.vocab_size) == ("diff", "float32", 100)
    assert config.embed_dim == 1024


def test_overrides_are_checked_as_well():
    with pytest.raises(ValueError, match=re.escape("model.num_kv_heads 3: must divide")):
        model_preset("300m", num_kv_heads=3)


def test_unknown_name_is_a_value_error():
    message = re.escape("preset '7b': must be 300m, 550m, 880m or 1b")
    with unchecked_types(), pytest.raises(ValueError, match=message):
        model_preset("7b")
