import jax
import numpy as np
from flax import nnx

from mta_jax.models import ModelConfig, MTAConfig, Transformer
from mta_jax.models.rngs import rngs_of

CONFIG = ModelConfig(
    vocab_size=11,
    num_layers=2,
    embed_dim=16,
    num_heads=2,
    attention_dropout=0.1,
    mta=MTAConfig(kernel_init="normal"),
)


def test_a_traced_model_has_the_parameters_of_one_that_is_not():
    key = jax.random.key(3)

    def params(rngs):
        return nnx.to_pure_dict(nnx.state(Transformer(CONFIG, rngs=rngs), nnx.Param))

    plain, traced = params(nnx.Rngs(params=key)), jax.jit(lambda: params(rngs_of(key)))()
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), plain, traced)
    abstract = nnx.eval_shape(lambda: Transformer(CONFIG, rngs=rngs_of(key)))
    assert nnx.graphdef(abstract) == nnx.graphdef(Transformer(CONFIG, rngs=nnx.Rngs(params=key)))
