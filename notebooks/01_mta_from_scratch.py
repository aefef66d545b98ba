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
# Takes under a minute on a CPU. Nothing is trained, and nothing but `mta_jax` is downloaded.

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
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

# %% [markdown]
# ## 1. Ordinary attention, and what it cannot ask
#
# For each head, queries $Q$, keys $K$ and values $V$ of $T$ tokens, with $H$ features each:
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

# %%
TEXT = "dca.ebc.fab.ade.bcf."
QUESTION = "ba."
TOKENS = TEXT + QUESTION
ALPHABET = sorted(set(TOKENS))


def one_hot(tokens):
    """A row per token: 1 at the place of its letter."""
    return jnp.array([[letter == token for letter in ALPHABET] for token in tokens], jnp.float32)


# Only the question asks, and only the text is asked.
asks = jnp.arange(len(TOKENS)) >= len(TEXT)
query = one_hot(TOKENS) * asks[:, None]
key = one_hot(TOKENS) * ~asks[:, None]


def attention_logits(query, key):
    return query @ key.T / query.shape[-1] ** 0.5


logits = attention_logits(query, key) * len(ALPHABET) ** 0.5  # 1 where letters are the same


def show(image, title, rows, columns, ax=None, xlabel="key", ylabel="query", values=False):
    """One map: black is high. `values` writes the numbers into it."""
    ax = ax or plt.subplots(figsize=(0.36 * len(columns) + 1.2, 0.36 * len(rows) + 1))[1]
    image = np.asarray(image)
    low, high = min(image.min(), 0.0), max(image.max(), 1e-9)
    ax.imshow(image, cmap="Greys", vmin=low, vmax=high)
    ax.set(title=title, xlabel=xlabel, ylabel=ylabel)
    ax.set_xticks(range(len(columns)), columns)
    ax.set_yticks(range(len(rows)), rows)
    ax.tick_params(length=0)
    if values:
        for (row, column), value in np.ndenumerate(image):
            if value:
                shade = "white" if (value - low) / (high - low) > 0.55 else "black"
                ax.text(column, row, f"{value:.3g}", ha="center", va="center", color=shade, size=8)


show(logits[-3:, : len(TEXT)], "Logits of the question", QUESTION, TEXT, values=True)
