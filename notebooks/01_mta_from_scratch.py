# %% [markdown]
# # Multi-Token Attention from scratch
#
# [![Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/mta-jax/mta_jax/blob/main/notebooks/01_mta_from_scratch.ipynb)
#
# Every step of [Multi-Token Attention](https://arxiv.org/abs/2504.00927) (MTA), written in a few
# lines of `jax.numpy` and held against the library:
#
# 1. the problem: one query and one key at a time cannot ask for two things in one place;
# 2. key-query convolution, on a search that a hand-made kernel solves;
# 3. how the future stays hidden;
# 4. head mixing, the steps after the softmax, group norm;
# 5. all of it at once, equal to `mta_jax`, and what it costs.
#
# Takes about a minute on a CPU. Nothing is trained, and nothing but `mta_jax` is downloaded.

# %%
# Installs mta_jax where it is missing. The JAX that is here, made for its accelerator, stays.
import importlib.metadata
import importlib.util
import re
import subprocess
import sys
import tempfile
from pathlib import Path

if importlib.util.find_spec("mta_jax") is None:
    packages = {package.name: package.version for package in importlib.metadata.distributions()}
    names = filter(re.compile(r"jax(lib|[-_]cuda.*)?|libtpu").fullmatch, packages)
    kept = {name: packages[name] for name in names}
    if "jax" in kept and tuple(map(int, kept["jax"].split(".")[:2])) < (0, 10):
        raise RuntimeError(
            f"JAX {kept['jax']} is installed here, and mta_jax needs 0.10 or newer: upgrade it "
            "(https://docs.jax.dev/en/latest/installation.html), restart, and run this again."
        )
    with tempfile.TemporaryDirectory() as folder:
        constraints = Path(folder, "constraints.txt")
        constraints.write_text("".join(f"{name}=={kept[name]}\n" for name in kept))
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--constraint", str(constraints)]
        subprocess.run([*pip, "git+https://github.com/mta-jax/mta_jax"], check=True)
    importlib.invalidate_caches()

# %%
import logging
import time

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from flax import nnx

from mta_jax.layers import GroupNorm
from mta_jax.ops.multi_token_attention import multi_token_attention

jax.config.update("jax_default_matmul_precision", "highest")  # on GPU and TPU too

# %% [markdown]
# ## 1. Ordinary attention, and what it cannot ask
#
# For each head, with queries $Q$, keys $K$ and values $V$ of $T$ tokens, $H$ features each:
#
# $$
# L = \tfrac{1}{\sqrt H}\, Q K^\top, \qquad
# P = \mathrm{softmax}(\mathrm{mask}_{-\infty}(L)), \qquad
# O = P\,V
# $$
#
# The logit $L_{ij}$ depends on **one** query and **one** key. Here is a search that needs more: a
# text has blocks of three letters, each closed by a dot, and the question gives two letters. Which
# block has both?
#
# To see through it, nothing is learned here: the vector of a letter is one-hot, so a query and a
# key match where their letters are the same.

# %%
TEXT = "dca.ebc.fab.ade.cdf."
QUESTION = "ba."  # which block has b and a, and ends in a dot?
ALPHABET = sorted(set(TEXT))


def one_hot(tokens):
    return jnp.array([[letter == token for letter in ALPHABET] for token in tokens], jnp.float32)


def search_logits(text, question):
    """Logits of all tokens: the text has keys, the question has queries, the rest is zero."""
    tokens = one_hot(text + question)
    is_question = (jnp.arange(len(tokens)) >= len(text))[:, None]
    query, key = tokens * is_question, tokens * ~is_question
    return query @ key.T


def show(image, title, rows, columns, ax=None, labels=("query", "key")):
    """One map as a picture: the higher, the darker, with its numbers; zeros are left white."""
    image = np.asarray(image)
    ax = ax or plt.subplots(figsize=(0.36 * len(columns) + 0.8, 0.36 * len(rows) + 0.9))[1]
    finite = image[np.isfinite(image)]
    low, high = min(finite.min(), 0.0), 1.2 * finite.max()
    ax.imshow(np.maximum(image, low), cmap="Greys", vmin=low, vmax=high)
    for (row, column), value in np.ndenumerate(image):
        number = np.format_float_positional(value, precision=2, trim="-").replace("inf", "∞")
        if value or low < 0:
            colour = "white" if (value - low) / (high - low) > 0.6 else "black"
            ax.text(column, row, number, ha="center", va="center", color=colour, size=7)
    ax.set_title(title, size=10)
    ax.set(ylabel=labels[0], xlabel=labels[1])
    ax.set_xticks(range(len(columns)), columns)
    ax.set_yticks(range(len(rows)), rows)
    ax.tick_params(length=0)


logits = search_logits(TEXT, QUESTION)
asking = slice(len(TEXT), None)  # rows of the question
asked = slice(0, len(TEXT))  # columns of the text
show(logits[asking, asked], "Logits of the question: each row finds one thing", QUESTION, TEXT)

# %% [markdown]
# Each row knows a part: the first where a `b` is, the second where an `a` is, the third where a
# block ends. **No row knows where they meet.** The softmax of the last row is even over all blocks:

# %%
ends = jax.nn.softmax(8 * logits[-1, asked])[3::4]
print("attention of the last query to the five dots:", np.asarray(ends).round(2))

# %% [markdown]
# (A Transformer has a way round it: an earlier layer gathers all that is searched for into one
# vector. On a task like this one, Transformers often fail to learn that: table 1 of the paper.)
#
# ## 2. Key-query convolution
#
# MTA lets a small kernel $w$ of $C_q \times C_k$ numbers, one per head, slide over the logits:
#
# $$
# X_{ij} = \sum_{a=0}^{C_q-1} \sum_{b=0}^{C_k-1}
# w_{ab}\; L_{\,i-(C_q-1)+a,\;\; j-\lfloor C_k/2 \rfloor+b}
# $$
#
# with zeros outside of the map. So $X_{ij}$ sees the rows of the last $C_q$ queries, and keys on
# both sides of $j$. By shifts:


# %%
def convolve(image, kernel):
    """The key-query convolution of one head's map [T, T] with a kernel [Cq, Ck], Ck odd."""
    rows, columns = kernel.shape
    length = image.shape[0]
    padded = jnp.pad(image, ((rows - 1, 0), (columns // 2, columns // 2)))
    total = jnp.zeros_like(image)
    for a in range(rows):
        for b in range(columns):
            total += kernel[a, b] * padded[a : a + length, b : b + length]
    return total


# %% [markdown]
# Our search, as a kernel: at a dot, count the first letter of the question in the three keys before
# (top row), the second letter likewise (middle row), and the dot itself (bottom row).

# %%
kernel = jnp.array(
    [
        [1, 1, 1, 0, 0, 0, 0],  # two queries back: b
        [1, 1, 1, 0, 0, 0, 0],  # one query back: a
        [0, 0, 0, 1, 0, 0, 0],  # this query: the dot
    ],
    jnp.float32,
)
mixed = convolve(logits, kernel)
show(kernel, "The kernel", ["i-2", "i-1", "i"], [f"j{b:+d}" if b else "j" for b in range(-3, 4)])
show(mixed[asking, asked], "Logits after the convolution", QUESTION, TEXT)

# %% [markdown]
# **The last row is highest, 3, in one place: the dot of `fab`, the one block with both letters.**
# The three rows have met there. Dots of blocks with one of the letters have 2, that of `cdf` has 1.
# A softmax makes a choice of that (the 8 stands for the size that learned weights would have):

# %%
found = jax.nn.softmax(8 * mixed[-1, asked])
show(found[None].round(2), "Attention of the last query", ["."], TEXT)


# %%
def search(text, question):
    """The block that the last query attends to."""
    row = convolve(search_logits(text, question), kernel)[-1, : len(text)]
    end = int(jnp.argmax(row))
    return text[end - 3 : end]


blocks = TEXT.split(".")[:-1]
questions = [(x + y + ".", block) for block in blocks for x in block for y in block if x != y]
unambiguous = [(q, block) for q, block in questions if sum({*q[:2]} <= {*b} for b in blocks) == 1]
right = sum(search(TEXT, question) == block for question, block in unambiguous)
print(f"{right} of {len(unambiguous)} questions with one answer are answered right")
assert right == len(unambiguous)

# %% [markdown]
# One fixed kernel answers every question about two letters. What the letters are stays a matter of
# queries and keys; **the kernel says only how findings are put together**. In a model it is
# learned, starting from the identity (1 at its bottom centre and 0 elsewhere, which changes
# nothing). The paper's kernels span 6 queries and 11 keys.
#
# ## 3. The future stays hidden
#
# Query $i$ may use keys $j \le i$ only. With a convolution one mask is not enough: it would carry
# logits of the future into the past. So there are two, zero **before** it, $-\infty$ **after** it:
#
# $$ P = \mathrm{softmax}(\mathrm{mask}_{-\infty}(\mathrm{conv}_w(\mathrm{mask}_0(L)))) $$

# %%
LENGTH = 6
causal = jnp.tril(jnp.ones((LENGTH, LENGTH), bool))
future = ~causal


def mask_zero(image, allowed):
    return jnp.where(allowed, image, 0)


def mask_infinite(image, allowed):
    return jnp.where(allowed, image, -jnp.inf)


any_logits = jax.random.uniform(jax.random.key(0), (LENGTH, LENGTH))
any_kernel = jax.random.uniform(jax.random.key(1), (3, 3))
before = mask_zero(any_logits, causal)
after = mask_infinite(convolve(before, any_kernel), causal)
steps = {
    "logits": any_logits,
    "zero where j > i": before,
    "convolved, -∞ where j > i": after,
    "softmax": jax.nn.softmax(after, axis=-1),
}
fig, axes = plt.subplots(1, 4, figsize=(11, 3), layout="constrained")
for ax, (title, image) in zip(axes, steps.items(), strict=True):
    show(image, title, range(LENGTH), range(LENGTH), ax)

# %% [markdown]
# Is the first mask needed? Ask the gradient: how much does output $i$ change with token $j$? Above
# the diagonal it must be zero, exactly.

# %%
width = 6
tokens = jax.random.normal(jax.random.key(2), (LENGTH, width))
to_query, to_key, to_value = jax.random.normal(jax.random.key(3), (3, width, width)) / width**0.5


def attend(tokens, first_mask):
    image = (tokens @ to_query) @ (tokens @ to_key).T / width**0.5
    image = mask_zero(image, causal) if first_mask else image
    image = mask_infinite(convolve(image, any_kernel), causal)
    return jax.nn.softmax(image, axis=-1) @ (tokens @ to_value)


def influence(function, tokens):
    """How much the output at i (row) changes with the token at j (column)."""
    return jnp.abs(jax.jacobian(function)(tokens)).sum((1, 3))


fig, axes = plt.subplots(1, 2, figsize=(6.5, 3.3), layout="constrained")
for ax, first_mask in zip(axes, (False, True), strict=True):
    changes = influence(lambda x, first_mask=first_mask: attend(x, first_mask), tokens)
    title = f"Gradients {'with' if first_mask else 'WITHOUT'} the mask before"
    show(changes, title, range(LENGTH), range(LENGTH), ax, ("output", "token"))
    print(f"{title}: largest above the diagonal is {changes[future].max():.3g}")
assert changes[future].max() == 0

# %% [markdown]
# Without it, the past knows the future (numbers above the diagonal, on the left), and a language
# model would learn to cheat.
#
# ## 4. Head mixing
#
# Heads are put together in the same spirit: heads form groups, and the map of each becomes a
# mixture of the maps of its group, by a learned matrix that starts as the identity:
#
# $$ X^{o}_{ij} = \sum_{n} W_{no}\, L^{n}_{ij} . $$
#
# Let one head find what is red, another what is square:

# %%
objects = ["red\ncircle", "blue\nsquare", "red\nsquare", "blue\ncircle", "red\nstar"]
heads = jnp.array([[1.0, 0, 1, 0, 1], [0, 1.0, 1, 0, 0]])[:, None]  # [heads, one query, keys]


def mix_heads(maps, matrix):
    """Maps [N, T, S] mixed by a matrix [in, out] of all N heads."""
    return jnp.einsum("nij,no->oij", maps, matrix)


mixture = jnp.array([[1.0, 1.0], [1.0, -1.0]])
fig, axes = plt.subplots(1, 2, figsize=(9.5, 2.1), layout="constrained")
show(heads[:, 0], "Before", ["red?", "square?"], objects, axes[0], ("head", "key"))
show(
    mix_heads(heads, mixture)[:, 0],
    "Mixed: sum and difference",
    ["red and square", "red, not square"],
    objects,
    axes[1],
    ("head", "key"),
)

# %% [markdown]
# The first new head is highest at the red square, the second at red things that are not square.
#
# ## 5. The same after the softmax
#
# Both steps come again for the attention weights $P$, each with parameters of its own:
#
# $$ Y = \mathrm{mix}_{W'}(\mathrm{mask}_0(\mathrm{conv}_{w'}(P))), \qquad \hat O = Y\,V $$
#
# Before the softmax, findings are combined into one decision. After it, weights are moved and
# added. Our search has found the dot of `fab`; a kernel that hands the weight of a dot to the three
# keys before it reads out the letters. Rows of $Y$ need not sum to one: nothing normalises them
# again.

# %%
spread = jnp.zeros((1, 7)).at[0, 4:].set(1 / 3)  # key j takes from the keys j+1, j+2, j+3
everything = jnp.tril(jnp.ones_like(mixed, bool))
weights = jax.nn.softmax(mask_infinite(8 * mixed, everything), axis=-1)
moved = mask_zero(convolve(weights, spread), everything)
show(
    jnp.stack([weights[-1, asked], moved[-1, asked]]).round(2),
    "Attention of the last query",
    ["before", "after"],
    TEXT,
    labels=("convolution", "key"),
)
read = moved[-1, asked] @ one_hot(TEXT)
print("read out:", {letter: round(float(x), 2) for letter, x in zip(ALPHABET, read, strict=True)})

# %% [markdown]
# ## 6. Group norm
#
# What each head read is normalised on its own, then scaled by a gate per token and head. One weight
# $\gamma$ and one gate $g$, a linear map to one number, are shared by the heads of a layer:
#
# $$ O = \sigma(g(\tilde O))\,\tilde O, \qquad
# \tilde O = \gamma \odot \hat O / \sqrt{\mathrm{mean}(\hat O^2) + \epsilon} $$
#
# The gate lets a layer switch heads off, token by token. The first version of the paper had a
# fixed factor instead, which shrinks with depth: $1 - \lambda$ with
# $\lambda = 0.8 - 0.6\,e^{-0.3\,\ell}$ in layer $\ell$. Both are in the library:


# %%
def group_norm(read, weight, epsilon=1e-5):
    return weight * read / jnp.sqrt((read**2).mean(-1, keepdims=True) + epsilon)


head_outputs = jax.random.normal(jax.random.key(4), (1, LENGTH, 2, 16))  # [batch, T, heads, H]
gated = GroupNorm(16, scaling="gate", embed_dim=32, rngs=nnx.Rngs(0))
normed = group_norm(head_outputs, gated.norm.scale[...])
gate = jax.nn.sigmoid(normed @ gated.gate.kernel[...] + gated.gate.bias[...])
np.testing.assert_allclose(gated(head_outputs), gate * normed, rtol=1e-5, atol=1e-6)

for layer in (0, 1, 2, 6, 23):
    by_depth = GroupNorm(16, scaling="depth", layer_index=layer, rngs=nnx.Rngs(0))
    factor = 1 - (0.8 - 0.6 * np.exp(-0.3 * layer))
    np.testing.assert_allclose(by_depth(head_outputs), factor * normed, rtol=1e-5, atol=1e-6)
    print(f"layer {layer:2}: times {factor:.3f}")

# %% [markdown]
# ## 7. All of it, and the library
#
# In the order of the paper, for one sequence of any number of heads:


# %%
def attention_by_hand(
    q, k, v, pre_kq_kernel=None, pre_head_kernel=None, post_kq_kernel=None, post_head_kernel=None
):
    """Multi-token attention of [T, N, H]; a step whose kernel is None is left out."""
    allowed = jnp.tril(jnp.ones((len(q), len(q)), bool))
    maps = jnp.einsum("inh,jnh->nij", q, k) / q.shape[-1] ** 0.5
    maps = mask_zero(maps, allowed)
    if pre_kq_kernel is not None:
        maps = jax.vmap(convolve)(maps, pre_kq_kernel)
    if pre_head_kernel is not None:
        maps = mix_in_groups(maps, pre_head_kernel)
    maps = jax.nn.softmax(mask_infinite(maps, allowed), axis=-1)
    if post_kq_kernel is not None:
        maps = mask_zero(jax.vmap(convolve)(maps, post_kq_kernel), allowed)
    if post_head_kernel is not None:
        maps = mix_in_groups(maps, post_head_kernel)
    return jnp.einsum("nij,jnh->inh", maps, v)


def mix_in_groups(maps, matrices):
    """Groups of neighbouring heads, a matrix each."""
    groups = jnp.split(maps, len(matrices))
    return jnp.concatenate([mix_heads(*pair) for pair in zip(groups, matrices, strict=True)])


def random(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape)


T, N, H = 40, 4, 8
q, k, v = (random(seed, T, N, H) for seed in range(3))
kernels = {
    "pre_kq_kernel": random(3, N, 6, 11) / 8,
    "pre_head_kernel": random(4, 2, 2, 2),  # two groups of two heads
    "post_kq_kernel": random(5, N, 6, 11) / 8,
    "post_head_kernel": random(6, 1, 4, 4),  # one group of all four
}

print(
    f"{'steps':18}{'reference':>14}{'xla_chunked':>14}   largest difference from the output by hand"
)
for names in ([], *([name] for name in kernels), list(kernels)):
    chosen = {name: kernels[name] for name in names}
    by_hand = attention_by_hand(q, k, v, **chosen)
    row = f"{'all four' if len(names) == 4 else ''.join(names) or 'none':18}"
    for implementation in ("reference", "xla_chunked"):
        out = multi_token_attention(
            q[None], k[None], v[None], **chosen, is_causal=True, implementation=implementation
        )[0]
        np.testing.assert_allclose(out, by_hand, rtol=1e-4, atol=1e-4)
        row += f"{jnp.abs(out - by_hand).max():14.1e}"
    print(row)

# %% [markdown]
# The same for gradients, of all kernels at once, and the proof of section 3 for the library:


# %%
def loss(kernels, attention):
    return (attention(q, k, v, **kernels) ** 2).mean()


def chunked(q, k, v, **kernels):
    return multi_token_attention(
        q[None], k[None], v[None], **kernels, is_causal=True, implementation="xla_chunked"
    )[0]


by_hand = jax.jit(jax.grad(loss), static_argnums=1)(kernels, attention_by_hand)
by_library = jax.jit(jax.grad(loss), static_argnums=1)(kernels, chunked)
for name, gradient in by_library.items():
    np.testing.assert_allclose(gradient, by_hand[name], rtol=1e-3, atol=1e-4)
print("gradients agree:", *by_library)

changes = jax.jacobian(lambda x: chunked(x, x, x, **kernels).sum((1, 2)))(q[:12])
assert (jnp.abs(changes).sum((2, 3))[jnp.triu_indices(12, k=1)] == 0).all()

# %% [markdown]
# ## 8. What it costs
#
# By hand, each head has several maps of $T \times T$ in memory. The library has one function with
# several implementations; not told which, it takes the best that can do what is asked, on the
# device that is there, and logs which that was. On a CPU, and for MTA on a GPU, this is
# `xla_chunked`: it goes through the map in blocks of rows, forward and backward, and its
# convolutions are written as matrix products. (On TPUs fused kernels come first, compiled for them
# and not yet run on one.)

# %%
logger = logging.getLogger("mta_jax")
logger.addHandler(logging.StreamHandler(sys.stdout))
logger.setLevel(logging.INFO)
T, N, H = 512, 8, 64
q, k, v = (random(seed, T, N, H) for seed in range(3))
identity = jnp.zeros((N, 6, 11)).at[:, -1, 5].set(1.0)
kernels = {
    "pre_kq_kernel": identity,
    "pre_head_kernel": jnp.eye(N)[None],
    "post_kq_kernel": identity,
    "post_head_kernel": jnp.eye(N)[None],
}


def automatic(q, k, v, **kernels):
    return multi_token_attention(q[None], k[None], v[None], **kernels, is_causal=True)[0]


def cost(attention, kernels):
    """Milliseconds, and MiB of temporary memory, of the output and all gradients."""

    def loss(arrays):
        return (attention(*arrays[:3], **arrays[3]) ** 2).mean()

    arrays = (q, k, v, kernels)
    compiled = jax.jit(jax.grad(loss)).lower(arrays).compile()
    jax.block_until_ready(compiled(arrays))
    times = []
    for _ in range(3):
        start = time.perf_counter()
        jax.block_until_ready(compiled(arrays))
        times.append(1000 * (time.perf_counter() - start))
    return np.median(times), compiled.memory_analysis().temp_size_in_bytes / 2**20


costs = {
    "ordinary attention, library": cost(automatic, {}),
    "MTA, by hand": cost(attention_by_hand, kernels),
    "MTA, library": cost(automatic, kernels),
}
print(f"{T} tokens, {N} heads of {H}, with gradients, on {jax.devices()[0].device_kind}")
for name, (milliseconds, mebibytes) in costs.items():
    print(f"{name:28}{milliseconds:8.0f} ms{mebibytes:8.0f} MiB")

# %% [markdown]
# That is the attention alone, with kernels in this layer. The paper convolves in every fourth layer
# and mixes heads in all; a step of training of a small model then takes 1.7 times a Transformer's
# on two CPU cores ([measured](https://github.com/mta-jax/mta_jax/blob/main/docs/performance.md),
# with what is known of GPUs and TPUs). Parameters hardly grow: 29,592 of 876,583,320 in the paper's
# 880M model.
#
# ## Where to go
#
# - Does it learn the search of section 2 by itself?
#   [02 A toy task](https://github.com/mta-jax/mta_jax/blob/main/notebooks/02_toy_task.ipynb)
# - In your own model, and in a pretrained Llama: [03 In your own
#   model](https://github.com/mta-jax/mta_jax/blob/main/notebooks/03_in_your_own_model.ipynb)
# - The library: [mta_jax](https://github.com/mta-jax/mta_jax). The paper:
#   [arXiv 2504.00927](https://arxiv.org/abs/2504.00927).
