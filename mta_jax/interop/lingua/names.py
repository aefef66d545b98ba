"""Names of the tensors of the paper's code."""

from mta_jax.interop import layouts
from mta_jax.interop.names import Place, Table

EMBEDDING, TIED_HEAD = "tok_embeddings.weight", "output.tied_module.weight"


def table(*, is_linear_after: bool) -> Table:
    """The names, which depend on how heads are mixed after the softmax.

    Args:
      is_linear_after: by a linear map over all heads (``wposm``, rows are outputs), where
        it is otherwise by a kernel of groups (``head_kernel``, rows are inputs, as ours).
    """
    after = (
        Place("attention.wposm.weight", layouts.HEAD_LINEAR)
        if is_linear_after
        else Place("attention.head_kernel", layouts.HEAD_KERNEL)
    )
    return Table(
        library="the paper's code",
        layer_prefix="layers.{}.",
        outside={
            "embedding.embedding": Place(EMBEDDING, layouts.MATRIX),
            "final_norm.scale": Place("norm.weight", layouts.VECTOR),
            "head.kernel": Place("output.weight", layouts.LINEAR),
        },
        layer={
            "attention_norm.scale": Place("attention_norm.weight", layouts.VECTOR),
            "attention.query_proj.kernel": Place("attention.wq.weight", layouts.HEADS_IN),
            "attention.key_proj.kernel": Place("attention.wk.weight", layouts.HEADS_IN),
            "attention.value_proj.kernel": Place("attention.wv.weight", layouts.HEADS_IN),
            "attention.out_proj.kernel": Place("attention.wo.weight", layouts.HEADS_OUT),
            "attention.pre_kq.kernel": Place("attention.mta_kernel", layouts.KEY_QUERY_KERNEL),
            "attention.pre_head.kernel": Place("attention.wpsm.weight", layouts.HEAD_LINEAR),
            "attention.post_kq.kernel": Place(
                "attention.mta_kernel_after_sm", layouts.KEY_QUERY_KERNEL
            ),
            "attention.post_head.kernel": after,
            "attention.group_norm.norm.scale": Place("attention.subln.weight", layouts.VECTOR),
            "attention.group_norm.gate.kernel": Place("attention.gate.weight", layouts.LINEAR),
            "attention.group_norm.gate.bias": Place("attention.gate.bias", layouts.VECTOR),
            "mlp_norm.scale": Place("ffn_norm.weight", layouts.VECTOR),
            "mlp.gate_proj.kernel": Place("feed_forward.w1.weight", layouts.LINEAR),
            "mlp.up_proj.kernel": Place("feed_forward.w3.weight", layouts.LINEAR),
            "mlp.down_proj.kernel": Place("feed_forward.w2.weight", layouts.LINEAR),
        },
    )
