"""Token embedding whose matrix can also produce the output logits."""

import jax.numpy as jnp
from flax import nnx

from mta_jax.layers.initializers import projection_init
from mta_jax.parallel.rules import constrain
from mta_jax.typing import Array, DTypeLike, Float, Int


class Embedding(nnx.Embed):
    """Token embedding; `attend` reuses the matrix as output layer (tied weights).

    Args:
      vocab_size: V.
      embed_dim: D.
      dtype: dtype of the embedded tokens.
      param_dtype: dtype of the matrix.
      rngs: source of the `params` key.
    """

    def __init__(
        self,
        vocab_size: int,
        embed_dim: int,
        *,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        super().__init__(
            vocab_size,
            embed_dim,
            dtype=dtype,
            param_dtype=param_dtype,
            embedding_init=projection_init(embed_dim),
            rngs=rngs,
        )

    def __call__(self, inputs: Int[Array, "B T"]) -> Float[Array, "B T D"]:
        """Embeds tokens."""
        (embedding,) = self.promote_dtype((self.embedding[...],), dtype=self.dtype, inexact=False)
        # On a mesh the matrix stays where it is: each device looks up its part of the width for
        # the tokens of all that share a copy. Vectors are sent where they belong afterwards, which
        # are far fewer than there are tokens in the vocabulary.
        embedding = constrain(embedding, "vocab", "embed")
        embedded = jnp.take(embedding, constrain(inputs, "copy", "length"), axis=0)
        return constrain(embedded, "copy", "length", "embed")

    def attend(self, query: Float[Array, "*tokens D"]) -> Float[Array, "*tokens V"]:
        """Logits of every token, accumulated and returned in float32."""
        embedding = self.embedding[...].astype(query.dtype)
        return jnp.einsum("...D,VD->...V", query, embedding, preferred_element_type=jnp.float32)
