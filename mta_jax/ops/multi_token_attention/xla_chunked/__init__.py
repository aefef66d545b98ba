"""Multi-token attention in memory linear in the length, on every backend.

Query rows are taken in blocks. A block needs its own rows and the few before them
that its kernels reach (the halo), and the keys up to its last row, so the map of one
block is all that ever exists; the gradient computes it again.

==========================  =====================================================
`row_blocks`                which blocks there are, and the loops over them
`row_block`                 the attention of one block
`convolution`               its convolution, with gradients
`banded_product`            the same where matrix products are fast
`products`                  its matrix products, with gradients in full precision
`materialize`               keeps XLA from computing a convolution more than once
==========================  =====================================================
"""

from mta_jax.ops.multi_token_attention.xla_chunked.row_blocks import xla_chunked

__all__ = ["xla_chunked"]
