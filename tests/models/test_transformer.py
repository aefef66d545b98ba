import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mta_jax.models import ModelConfig, MTAConfig, Transformer
from tests.layers.tools import drawn

# As many tokens as positions, each once: the gradient of a row of the embedding is
# then the gradient of the one input it stands for. Untied, so that there is no other way.
LENGTH = 16
TOKENS = jnp.asarray(np.random.default_rng(0).permutation(LENGTH))[None]
CONFIG = ModelConfig(
    vocab_size=LENGTH,
    num_layers=1,
    embed_dim=16,
    num_heads=2,
    mlp_dim=16,
    attention="mta",
    tie_embeddings=False,
)
CONFIGS = {
    "transformer": dataclasses.replace(CONFIG, attention="transformer"),
    "mta": CONFIG,
    "talking_heads": dataclasses.replace(CONFIG, attention="talking_heads"),
    "diff": dataclasses.replace(CONFIG, attention="diff"),
    "mixed": dataclasses.replace(
        CONFIG, num_layers=4, attention=["diff", "mta", "talking_heads", "transformer"]
    ),
}
DOCUMENTS = (5, 7, 4)
SEGMENTS = jnp.asarray(np.repeat([1, 2, 3], DOCUMENTS))[None]
POSITIONS = jnp.asarray(np.concatenate([np.arange(length) for length in DOCUMENTS]))[None]
PACKED = {"segment_ids": SEGMENTS, "positions": POSITIONS}

every_kind = pytest.mark.parametrize("kind", CONFIGS)


@functools.cache
def model_of(config_name: str) -> Transformer:
    return build(CONFIGS[config_name])


def build(config: ModelConfig, **changes) -> Transformer:
    config = dataclasses.replace(config, **changes)
    return drawn(lambda: Transformer(config, rngs=nnx.Rngs(0)))


@jax.jit
def forward(model, tokens, **where):
    return model(tokens, **where)


@jax.jit
def forward_in_training(model, tokens, key):
    return model(tokens, deterministic=False, rngs=nnx.Rngs(dropout=key))


@jax.jit
def logits_and_influence(model, tokens, **where):
    """The logits of one row and, as [i, j], how much those of position i depend on input j."""
    graphdef, state = nnx.split(model)
    embedding = state["embedding"]["embedding"]
    # Random weights, so that no dependence cancels in a sum.
    weights = np.random.default_rng(1).normal(size=model.head.kernel.shape[1])

    def sums_of_logits(matrix):
        state["embedding"]["embedding"] = embedding.replace(matrix)
        logits = nnx.merge(graphdef, state)(tokens, **where)[0]
        return logits @ weights, logits

    gradients, logits = jax.jacrev(sums_of_logits, has_aux=True)(embedding[...])
    return logits, jnp.abs(gradients).sum(-1)[:, tokens[0]]


@every_kind
def test_future_tokens_get_zero_gradient_and_past_ones_do_not(kind):
    _, influence = logits_and_influence(model_of(kind), TOKENS)
    past = np.tril(np.ones((LENGTH, LENGTH), bool))
    assert (np.asarray(influence)[~past] == 0).all()
    assert (np.asarray(influence)[past] > 0).all()


@every_kind
def test_other_documents_get_zero_gradient_and_the_own_one_does_not(kind):
    _, influence = logits_and_influence(model_of(kind), TOKENS, **PACKED)
    own_past = np.tril(np.asarray(SEGMENTS[0][:, None] == SEGMENTS[0][None, :]))
    assert (np.asarray(influence)[~own_past] == 0).all()
    assert (np.asarray(influence)[own_past] > 0).all()


@every_kind
@pytest.mark.parametrize("place", [1, 9, LENGTH - 1])
def test_changed_token_leaves_earlier_logits_identical(kind, place):
    changed = TOKENS.at[0, place].set((TOKENS[0, place] + 1) % LENGTH)
    before, _ = logits_and_influence(model_of(kind), TOKENS)
    after, _ = logits_and_influence(model_of(kind), changed)
    np.testing.assert_array_equal(before[:place], after[:place])
    assert (jnp.abs(before - after)[place:].max(axis=-1) > 0).all()


@every_kind
def test_packed_documents_get_the_logits_they_get_alone(kind):
    packed, _ = logits_and_influence(model_of(kind), TOKENS, **PACKED)
    start = 0
    for length in DOCUMENTS:
        document = slice(start, start + length)
        # Causality hides what fills the rest of the row.
        row = jnp.zeros_like(TOKENS).at[0, :length].set(TOKENS[0, document])
        alone, _ = logits_and_influence(model_of(kind), row)
        np.testing.assert_allclose(packed[document], alone[:length], atol=2e-5)
        start += length


def test_packed_documents_differ_from_the_same_row_as_one_document():
    packed, _ = logits_and_influence(model_of("mta"), TOKENS, **PACKED)
    joined, _ = logits_and_influence(model_of("mta"), TOKENS)
    first = DOCUMENTS[0]
    np.testing.assert_allclose(packed[:first], joined[:first], atol=2e-5)
    assert (jnp.abs(packed - joined)[first:].max(axis=-1) > 1e-3).all()


def test_distances_between_positions_count_and_where_they_start_does_not():
    def logits(positions):
        return logits_and_influence(model_of("mixed"), TOKENS, **PACKED | {"positions": positions})[
            0
        ]

    np.testing.assert_allclose(logits(POSITIONS + 50), logits(POSITIONS), atol=1e-4)
    assert jnp.abs(logits(POSITIONS * 3) - logits(POSITIONS)).max() > 0.01


def test_identity_kernels_without_group_norm_are_the_transformer():
    mta = MTAConfig(group_norm=None, kernel_init="identity")
    config = dataclasses.replace(CONFIG, mta=mta)
    model = jax.jit(lambda: Transformer(config, rngs=nnx.Rngs(0)))()
    transformer = model_of("transformer")
    nnx.update(model, nnx.state(transformer))
    np.testing.assert_allclose(forward(model, TOKENS), forward(transformer, TOKENS), atol=1e-5)


def test_only_listed_layers_convolve_and_all_mix_heads():
    mta = MTAConfig(kq_layers=[1, 3], pre_head_kernel_size=1)
    model = nnx.eval_shape(
        lambda: Transformer(dataclasses.replace(CONFIG, num_layers=5, mta=mta), rngs=nnx.Rngs(0))
    )
    for layer, block in enumerate(model.layers):
        attention = block.attention
        assert (attention.pre_kq is not None) == (layer in (1, 3))
        assert (attention.post_kq is not None) == (layer in (1, 3))
        assert attention.pre_head.kernel.shape == (2, 1, 1)
        assert attention.post_head.kernel.shape == (1, 2, 2)
        assert attention.group_norm is not None


def test_kinds_have_the_parts_of_their_kind():
    model = nnx.eval_shape(lambda: Transformer(CONFIGS["mixed"], rngs=nnx.Rngs(0)))
    diff, mta, talking_heads, transformer = (block.attention for block in model.layers)
    names = ("pre_kq", "pre_head", "post_kq", "post_head", "group_norm")
    assert all(getattr(mta, name) is not None for name in names)
    assert all(getattr(transformer, name) is None for name in names)
    assert [getattr(talking_heads, name) is not None for name in names] == [0, 1, 0, 1, 0]
    assert diff.lambda_q1.shape == (8,)


def test_depth_of_a_layer_reaches_its_attention():
    two_layers = dataclasses.replace(CONFIGS["diff"], num_layers=2)
    model = nnx.eval_shape(lambda: Transformer(two_layers, rngs=nnx.Rngs(0)))
    assert [block.attention.lambda_init for block in model.layers] == pytest.approx(
        [0.2, 0.3555091]
    )
    two_layers = dataclasses.replace(CONFIG, num_layers=2, mta=MTAConfig(group_norm="depth"))
    model = nnx.eval_shape(lambda: Transformer(two_layers, rngs=nnx.Rngs(0)))
    factors = [block.attention.group_norm.factor for block in model.layers]
    assert factors == pytest.approx([0.8, 0.6444909])


def test_tied_logits_are_products_with_the_embedding():
    tied = build(CONFIGS["transformer"], tie_embeddings=True)
    assert tied.head is None
    untied = build(CONFIGS["transformer"])
    nnx.update(untied, nnx.state(tied))
    untied.head.kernel[...] = tied.embedding.embedding[...].T
    np.testing.assert_allclose(forward(tied, TOKENS), forward(untied, TOKENS), atol=1e-5)


@pytest.mark.parametrize("tie_embeddings", [True, False])
def test_bfloat16_keeps_logits_and_parameters_float32(tie_embeddings):
    exact = build(CONFIG, tie_embeddings=tie_embeddings)
    rounded = build(CONFIG, tie_embeddings=tie_embeddings, dtype="bfloat16")
    assert {leaf.dtype for leaf in jax.tree.leaves(nnx.state(rounded))} == {jnp.dtype("float32")}
    assert rounded.embedding(TOKENS).dtype == jnp.bfloat16
    logits, expected = forward(rounded, TOKENS), forward(exact, TOKENS)
    assert logits.dtype == jnp.float32
    error = jnp.abs(logits - expected).max() / jnp.abs(expected).max()
    assert 1e-4 < error < 0.05
    # Accumulated in float32, not rounded to bfloat16 and back.
    assert (logits != logits.astype(jnp.bfloat16)).any()


def test_dropout_is_off_unless_asked_for():
    model = build(CONFIG, attention_dropout=0.5)
    without = forward(model_of("mta"), TOKENS)
    np.testing.assert_array_equal(forward(model, TOKENS), without)
    model.train()
    key = jax.random.key(0)
    assert (jax.jit(lambda m: m(TOKENS, rngs=key))(model) != without).any()
    overridden = jax.jit(lambda m: m(TOKENS, deterministic=True))(model)
    np.testing.assert_array_equal(overridden, without)
    model.eval()
    np.testing.assert_array_equal(forward(model, TOKENS), without)


@pytest.mark.parametrize("kind", ["mta", "diff"])
def test_norm_epsilon_reaches_every_norm(kind):
    model = nnx.eval_shape(
        lambda: Transformer(dataclasses.replace(CONFIGS[kind], norm_epsilon=0.5), rngs=nnx.Rngs(0))
    )
    norms = [module for _, module in nnx.iter_modules(model) if isinstance(module, nnx.RMSNorm)]
    assert len(norms) > 2 * CONFIG.num_layers + 1
    assert {norm.epsilon for norm in norms} == {0.5}


@pytest.mark.parametrize("kind", ["mta", "diff"])
def test_dropout_follows_its_key(kind):
    model = build(CONFIGS[kind], attention_dropout=0.5)
    first = forward_in_training(model, TOKENS, jax.random.key(1))
    np.testing.assert_array_equal(first, forward_in_training(model, TOKENS, jax.random.key(1)))
    assert (first != forward_in_training(model, TOKENS, jax.random.key(2))).any()
    assert (first != forward(model, TOKENS)).any()


def test_dropout_needs_rngs():
    model = build(CONFIG, attention_dropout=0.5)
    with pytest.raises(ValueError, match=r"dropout_rate 0\.5 in training: pass rngs"):
        jax.eval_shape(lambda: model(TOKENS, deterministic=False))


def test_training_without_dropout_needs_no_rngs():
    logits = jax.eval_shape(lambda: model_of("mta")(TOKENS, deterministic=False))
    assert logits.shape == (1, LENGTH, LENGTH)


def test_grouped_query_attention_is_attention_with_repeated_heads():
    grouped = build(CONFIG, num_heads=4, num_kv_heads=2)
    full = build(CONFIG, num_heads=4)
    state = nnx.state(grouped)
    for projection in ("key_proj", "value_proj"):
        kernel = state["layers"][0]["attention"][projection]["kernel"]
        assert kernel.shape == (16, 2, 4)
        repeated = kernel.replace(jnp.repeat(kernel[...], 2, axis=1))
        state["layers"][0]["attention"][projection]["kernel"] = repeated
    nnx.update(full, state)
    np.testing.assert_allclose(forward(grouped, TOKENS), forward(full, TOKENS), atol=1e-5)


@jax.jit
def forward_through_weights(model, tokens, **where):
    """The model, its attention replaced by weights @ values."""
    weights = model.attention_weights(tokens, **where)
    assert len(weights) == len(model.layers)
    x = model.embedding(tokens)
    for block, probs in zip(model.layers, weights, strict=True):
        attention = block.attention
        values = attention.value_proj(block.attention_norm(x))
        values = jnp.repeat(values, probs.shape[1] // values.shape[2], axis=2)
        out = jnp.einsum("BNTS,BSNH->BTNH", probs, values)
        if attention.group_norm is not None:
            out = attention.group_norm(out)
        x = x + attention.out_proj(out)
        x = x + block.mlp(block.mlp_norm(x))
    return model.head(model.final_norm(x))


def test_attention_weights_are_those_the_layers_use():
    model = model_of("mixed")
    where = PACKED | {"positions": POSITIONS * 3}
    logits, _ = logits_and_influence(model, TOKENS, **where)
    through_weights = forward_through_weights(model, TOKENS, **where)
    np.testing.assert_allclose(through_weights[0], logits, atol=2e-5)


def test_model_needs_its_vocabulary():
    with pytest.raises(ValueError, match=r"model\.vocab_size null: a model needs its number"):
        Transformer(ModelConfig(), rngs=nnx.Rngs(0))


@pytest.mark.parametrize("remat", ["full", "attention", "dots"])
def test_what_is_computed_again_gives_the_same_gradients(remat):
    tokens = jnp.asarray(np.random.default_rng(3).integers(0, LENGTH, size=(2, LENGTH)))

    @functools.partial(jax.jit, static_argnums=0)
    def gradients(remat, key):
        graphdef, params = nnx.split(build(CONFIGS["mixed"], attention_dropout=0.3, remat=remat))

        def loss(params):
            model = nnx.merge(graphdef, params)
            logits = model(tokens, deterministic=False, rngs=nnx.Rngs(dropout=key))
            return jnp.mean(jax.nn.logsumexp(logits, axis=-1))

        return jax.value_and_grad(loss)(params)

    key = jax.random.key(5)
    expected, got = gradients("none", key), gradients(remat, key)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), got, expected)

    def calls_of_remat(remat):
        return str(jax.make_jaxpr(functools.partial(gradients, remat))(key)).count("remat")

    assert calls_of_remat(remat) > calls_of_remat("none") == 0
