"""Names of the tensors of Llama, Qwen2, Qwen3 and Mistral in `transformers`."""

from mta_jax.interop import layouts
from mta_jax.interop.names import Place, Table

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"

TABLE = Table(
    library="a Hugging Face model of the Llama family",
    layer_prefix="model.layers.{}.",
    outside={
        "embedding.embedding": Place(EMBEDDING, layouts.MATRIX),
        "final_norm.scale": Place("model.norm.weight", layouts.VECTOR),
        "head.kernel": Place(HEAD, layouts.LINEAR),
    },
    layer={
        "attention_norm.scale": Place("input_layernorm.weight", layouts.VECTOR),
        "attention.query_proj.kernel": Place("self_attn.q_proj.weight", layouts.HEADS_IN),
        "attention.key_proj.kernel": Place("self_attn.k_proj.weight", layouts.HEADS_IN),
        "attention.value_proj.kernel": Place("self_attn.v_proj.weight", layouts.HEADS_IN),
        "attention.query_proj.bias": Place("self_attn.q_proj.bias", layouts.HEADS_BIAS),
        "attention.key_proj.bias": Place("self_attn.k_proj.bias", layouts.HEADS_BIAS),
        "attention.value_proj.bias": Place("self_attn.v_proj.bias", layouts.HEADS_BIAS),
        "attention.query_norm.scale": Place("self_attn.q_norm.weight", layouts.VECTOR),
        "attention.key_norm.scale": Place("self_attn.k_norm.weight", layouts.VECTOR),
        "attention.out_proj.kernel": Place("self_attn.o_proj.weight", layouts.HEADS_OUT),
        "mlp_norm.scale": Place("post_attention_layernorm.weight", layouts.VECTOR),
        "mlp.gate_proj.kernel": Place("mlp.gate_proj.weight", layouts.LINEAR),
        "mlp.up_proj.kernel": Place("mlp.up_proj.weight", layouts.LINEAR),
        "mlp.down_proj.kernel": Place("mlp.down_proj.weight", layouts.LINEAR),
    },
)
