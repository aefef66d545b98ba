# %% [markdown]
# # Multi-Token Attention in your own model
#
# [![Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/mta-jax/mta_jax/blob/main/notebooks/03_in_your_own_model.ipynb)
#
# [Multi-Token Attention](https://arxiv.org/abs/2504.00927) (MTA) put into models that are not this
# library's:
#
# 1. a Flax NNX model, instead of `nnx.MultiHeadAttention`, and as its `attention_fn`;
# 2. a Linen model;
# 3. packed documents, kept apart, with the proof;
# 4. a pretrained Llama from Hugging Face, which computes what it did until it is trained on.
#
# Takes two minutes on a CPU where there is no network. With one, section 4 downloads SmolLM2-135M
# (270 MB), and wants a GPU, or patience. It needs `torch` and `transformers`, which Colab has.

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
import os

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # leaves PyTorch room on a GPU

import pydoc_data.topics
import shutil
import socket
import warnings

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from flax import linen as nn
from flax import nnx

from mta_jax import linen as mta
from mta_jax.layers import MultiTokenAttention, MultiTokenAttentionFn

jax.config.update("jax_default_matmul_precision", "highest")  # to compare on a GPU too

# %% [markdown]
# The text to learn from comes with every Python: the reference behind `help()`. A tenth is held
# out.

# %%
TEXT = "\n\n".join(pydoc_data.topics.topics.values())
split = len(TEXT) * 9 // 10
train_bytes, heldout_bytes = (
    np.frombuffer(part.encode(), np.uint8).astype(np.int32) for part in (TEXT[:split], TEXT[split:])
)


def rows_of(tokens, rows, length, seed):
    """Rows of the text, from random places: [rows, length + 1], the inputs and their targets."""
    places = np.random.default_rng(seed).integers(0, len(tokens) - length - 1, rows)
    return jnp.asarray(np.stack([tokens[place : place + length + 1] for place in places]))


# %% [markdown]
# ## 1. Flax NNX
#
# A small language model of bytes, as one might have it. What its attention is, is an argument:

# %%
WIDTH, HEADS, LENGTH = 64, 2, 64


class Block(nnx.Module):
    def __init__(self, attention, rngs):
        self.attention_norm = nnx.RMSNorm(WIDTH, rngs=rngs)
        self.attention = attention(rngs)
        self.mlp_norm = nnx.RMSNorm(WIDTH, rngs=rngs)
        self.mlp_in = nnx.Linear(WIDTH, 4 * WIDTH, rngs=rngs)
        self.mlp_out = nnx.Linear(4 * WIDTH, WIDTH, rngs=rngs)

    def __call__(self, x):
        x = x + self.attention(self.attention_norm(x), is_causal=True)
        return x + self.mlp_out(nnx.gelu(self.mlp_in(self.mlp_norm(x))))


class LanguageModel(nnx.Module):
    def __init__(self, attention, rngs):
        self.embedding = nnx.Embed(256, WIDTH, rngs=rngs)
        self.positions = nnx.Embed(LENGTH, WIDTH, rngs=rngs)
        self.blocks = nnx.List([Block(attention, rngs) for _ in range(2)])
        self.head = nnx.Linear(WIDTH, 256, rngs=rngs)

    def __call__(self, tokens):
        x = self.embedding(tokens) + self.positions(jnp.arange(tokens.shape[1]))
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def flax_attention(rngs):
    return nnx.MultiHeadAttention(num_heads=HEADS, in_features=WIDTH, decode=False, rngs=rngs)


def mta_attention(rngs):
    return MultiTokenAttention(
        num_heads=HEADS,
        in_features=WIDTH,
        use_bias=True,  # as Flax's class has them; the paper has none
        rope_theta=None,  # this model has positions of its own
        rngs=rngs,
    )


# %% [markdown]
# `MultiTokenAttention` has the arguments of `nnx.MultiHeadAttention` in the same order, and its own
# behind them. That is the whole change. Both train:


# %%
def loss_of(model, rows):
    logits = model(rows[:, :-1])
    return optax.softmax_cross_entropy_with_integer_labels(logits, rows[:, 1:]).mean()


@nnx.jit
def train_step(model, optimizer, rows):
    loss, gradients = nnx.value_and_grad(loss_of)(model, rows)
    optimizer.update(model, gradients)
    return loss


logits_of = nnx.jit(lambda model, tokens: model(tokens))


def train(model, steps, learning_rate=3e-3, seed=0):
    optimizer = nnx.Optimizer(model, optax.adam(learning_rate), wrt=nnx.Param)
    rows = (rows_of(train_bytes, 16, LENGTH, (seed, step)) for step in range(steps))
    return [float(train_step(model, optimizer, batch)) for batch in rows]


STEPS = 80
models = {
    "nnx.MultiHeadAttention": LanguageModel(flax_attention, nnx.Rngs(0)),
    "MultiTokenAttention": LanguageModel(mta_attention, nnx.Rngs(0)),
}
curves = {}
for name, model in models.items():
    curves[name] = train(model, STEPS)
    size = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))
    print(f"{name:24}{size:8,} parameters, loss of the last steps {np.mean(curves[name][-5:]):.2f}")

# %% [markdown]
# ### A model that is there already
#
# Kernels start as identities, so they can be put into a trained model without a change of what it
# computes. `MultiTokenAttentionFn` is the kernels alone, called as Flax calls an `attention_fn`.
# One assignment per layer does it, and the training goes on, kernels and all:

# %%
grown = models["nnx.MultiHeadAttention"]
tokens = rows_of(heldout_bytes, 16, LENGTH, seed=0)[:, :-1]
before = logits_of(grown, tokens)
for layer, block in enumerate(grown.blocks):
    block.attention.attention_fn = nnx.data(MultiTokenAttentionFn(HEADS, rngs=nnx.Rngs(layer)))
after = logits_of(grown, tokens)
np.testing.assert_allclose(after, before, atol=1e-4)
difference = jnp.abs(after - before).max()
print(f"largest logit {jnp.abs(before).max():.1f}, changed by at most {difference:.0e}")

curves["and on, with attention_fn"] = train(grown, STEPS, learning_rate=1e-3, seed=1)
kernel = grown.blocks[0].attention.attention_fn.pre_kq.kernel[...]
moved = jnp.abs(kernel.at[:, -1, 5].add(-1.0)).max()  # the identity has its 1 there
print(f"kernels {kernel.shape}, moved by up to {moved:.2f}")

fig, ax = plt.subplots(figsize=(6.5, 3.2), layout="constrained")
ax.plot(curves["nnx.MultiHeadAttention"], "--", color="0.5", label="nnx.MultiHeadAttention")
ax.plot(curves["MultiTokenAttention"], "-", color="black", label="MultiTokenAttention")
ax.plot(
    range(STEPS, 2 * STEPS),
    curves["and on, with attention_fn"],
    ":",
    color="black",
    label="attention_fn",
)
ax.set(title="Training loss", xlabel="step", ylabel="nats per byte")
ax.legend()
plt.show()

# %% [markdown]
# (The optimiser of the second part begins anew, at a lower rate.) So few steps say that it trains,
# and nothing about which is better.
#
# ## 2. Linen
#
# The same classes by the same arguments, in `mta_jax.linen`:


# %%
class LinenModel(nn.Module):
    @nn.compact
    def __call__(self, tokens):
        x = nn.Embed(256, WIDTH)(tokens)
        # was: nn.MultiHeadDotProductAttention(num_heads=HEADS), with a causal mask
        attention = mta.MultiTokenAttention(num_heads=HEADS, in_features=WIDTH)
        x = x + attention(nn.LayerNorm()(x))
        x = x + nn.Dense(WIDTH)(nn.gelu(nn.Dense(4 * WIDTH)(nn.LayerNorm()(x))))
        return nn.Dense(256)(x)


linen_model = LinenModel()
variables = jax.jit(linen_model.init)(jax.random.key(0), tokens)
adam = optax.adam(3e-3)


def linen_loss(variables, rows):
    logits = linen_model.apply(variables, rows[:, :-1])
    return optax.softmax_cross_entropy_with_integer_labels(logits, rows[:, 1:]).mean()


@jax.jit
def linen_step(variables, state, rows):
    loss, gradients = jax.value_and_grad(linen_loss)(variables, rows)
    updates, state = adam.update(gradients, state)
    return optax.apply_updates(variables, updates), state, loss


state = adam.init(variables)
for step in range(STEPS):
    rows = rows_of(train_bytes, 16, LENGTH, step)
    variables, state, loss = linen_step(variables, state, rows)
    if step in (0, STEPS - 1):
        print(f"step {step:2}: loss {loss:.2f}")
shapes = jax.tree.map(jnp.shape, variables["params"]["MultiTokenAttention_0"])
for name in ("query_proj", "pre_kq", "pre_head", "post_kq", "post_head"):
    print(f"{name:12}{shapes[name]['kernel']}")

# %% [markdown]
# ## 3. Packed documents
#
# Where several documents share a row, a mask is not enough: it keeps attention inside a document,
# but a kernel that reaches over earlier queries still takes in those of the document before.
# `segment_ids` say which document a token belongs to, and stop both. The proof is the gradient of
# each output with respect to each input:

# %%
documents = jnp.array([[0] * 5 + [1] * 7])
positions = jnp.array([[*range(5), *range(7)]])  # each begins at 0
same_document = documents[:, None, :, None] == documents[:, None, None, :]
x = jax.random.normal(jax.random.key(0), (1, 12, 8))
attention = MultiTokenAttention(
    num_heads=2, in_features=8, mixing_init="uniform", group_norm=None, rngs=nnx.Rngs(0)
)


def influence(**options):
    """How much the output at i (row) changes with the input at j (column)."""

    def output(x, i):
        return attention(x, positions=positions, **options)[0, i].sum()

    gradient = jax.jit(jax.grad(output))
    return jnp.stack([jnp.abs(gradient(x, i))[0].sum(-1) for i in range(12)])


ways = {
    "nothing": influence(),
    "a mask": influence(mask=same_document),
    "segment_ids": influence(segment_ids=documents),
}
fig, axes = plt.subplots(1, 3, figsize=(9, 3.3), layout="constrained")
for ax, (name, changes) in zip(axes, ways.items(), strict=True):
    across = changes[5:, :5].max()
    ax.imshow(jnp.log10(changes + 1e-4), cmap="Greys")
    for colour, dashes in (("white", "-"), ("black", "--")):
        ax.add_patch(plt.Rectangle((-0.5, 4.5), 5, 7, fill=False, ls=dashes, lw=2, ec=colour))
    ax.set(xticks=range(0, 12, 2), yticks=range(0, 12, 2))
    ax.set(title=f"{name}\nlargest across documents: {across:.2g}", xlabel="input", ylabel="output")
assert ways["segment_ids"][5:, :5].max() == 0

# %% [markdown]
# Dashed: outputs of the second document, inputs of the first. White is zero (the scale is
# logarithmic), and with `segment_ids` it is zero exactly.
#
# ## 4. A pretrained Llama
#
# The same for a model from Hugging Face, of `model_type` llama, qwen2, qwen3 or mistral.

# %%
wanted = ("torch", "transformers", "safetensors")
missing = [name for name in wanted if importlib.util.find_spec(name) is None]
if missing:
    raise ModuleNotFoundError(f"this section needs more: %pip install {' '.join(missing)}")

warnings.filterwarnings("ignore", message="IProgress")  # without ipywidgets, bars are plain
import torch
import transformers

transformers.utils.logging.disable_progress_bar()


def is_online(host="huggingface.co"):
    try:
        socket.create_connection((host, 443), timeout=5).close()
    except OSError:
        return False
    return True


def pretrained_by_us():
    """A small Llama of bytes, trained for a few seconds with PyTorch."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 3}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    llama = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(vocab_size=258, max_position_embeddings=256, **sizes, **heads)
    )
    adam = torch.optim.AdamW(llama.parameters(), lr=3e-3)
    for step in range(200):
        rows = torch.from_numpy(np.array(rows_of(train_bytes, 16, 64, step)))
        loss = llama(rows.long(), labels=rows.long()).loss
        adam.zero_grad()
        loss.backward()
        adam.step()
    return llama


if is_online():
    source = "HuggingFaceTB/SmolLM2-135M"
    llama = transformers.AutoModelForCausalLM.from_pretrained(source).float()
    transformers.AutoTokenizer.from_pretrained(source).save_pretrained("llama")
    tokenizer_flags = []
else:
    source = "NO NETWORK: not a pretrained model, but a small one trained here for 200 steps"
    llama = pretrained_by_us()
    tokenizer_flags = ["--tokenizer", "byte"]
llama.eval().save_pretrained("llama")
print(source, f"{llama.num_parameters():,} parameters", sep="\n")

# %% [markdown]
# One command makes it a model of this library, with MTA in it: here with key-query kernels in every
# fourth layer and head mixing in all, as in the paper, but without its group norm, which would
# change what the model computes.

# %%
kq_layers = list(range(2, llama.config.num_hidden_layers, 4))
command = [
    *("-m", "mta_jax.convert", "--input", "llama", "--output", "weights/llama_mta"),
    *("--retrofit", "mta", "--mta.kq_layers", str(kq_layers), *tokenizer_flags),
]
print("python", *command)
shutil.rmtree("weights/llama_mta", ignore_errors=True)  # of an earlier run of this cell
finished = subprocess.run([sys.executable, *command], capture_output=True, text=True)
print(finished.stdout, finished.stderr)
finished.check_returncode()

# %% [markdown]
# Does it compute what it did? The same text through `transformers` and through ours:

# %%
from mta_jax.generate import load_model
from mta_jax.models.parts import is_mixing

loaded = load_model("weights/llama_mta")
tokenizer = loaded.tokenizer
ROW = 128  # tokens
model = nnx.merge(loaded.decoder.graphdef, loaded.decoder.params)

train_tokens, heldout_tokens = tokenizer.encode(TEXT[:split]), tokenizer.encode(TEXT[split:])
heldout = rows_of(heldout_tokens, 32, ROW, seed=0)
with torch.no_grad():
    theirs = llama(torch.from_numpy(np.array(heldout[:, :-1])).long()).logits.numpy()
ours = np.asarray(logits_of(model, heldout[:, :-1]))
difference = np.abs(ours - theirs).max()
print(f"largest logit {np.abs(theirs).max():.1f}, largest difference {difference:.0e}")
np.testing.assert_allclose(ours, theirs, atol=1e-4 * np.abs(theirs).max())

# %% [markdown]
# Now the new parameters are trained, and nothing else is touched:

# %%
mixing = nnx.All(nnx.Param, lambda path, _: is_mixing(path))


def count(model, which):
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, which)))


print(f"trained: {count(model, mixing):,} of {count(model, nnx.Param):,} parameters")
optimizer = nnx.Optimizer(model, optax.adam(1e-2), wrt=mixing)


@nnx.jit
def finetune_step(model, optimizer, rows):
    loss, gradients = nnx.value_and_grad(loss_of, argnums=nnx.DiffState(0, mixing))(model, rows)
    optimizer.update(model, gradients)
    return loss


heldout_loss = nnx.jit(loss_of)
before = heldout_loss(model, heldout)
for step in range(100):
    finetune_step(model, optimizer, rows_of(train_tokens, 8, ROW, (2, step)))
after = heldout_loss(model, heldout)
print(f"held-out loss before {before:.3f}, after {after:.3f} nats per token")
assert after < before

# %% [markdown]
# It goes down: the new parameters learn. Whether they are the best use of so many steps, this does
# not say. In earnest, finetuning is better done by the command, which saves, continues and
# evaluates:
#
# ```bash
# python -m mta_jax.training --config weights/llama_mta/config.yaml --init_from weights/llama_mta \
#   --finetune.train mixing --data.text.domains '{mine: {train: my/texts}}' --run_dir runs/mine
# ```
#
# `--finetune.train all` trains everything, `--finetune.lora.rank 16` low-rank terms. More of all
# this: [use in your model](https://github.com/mta-jax/mta_jax/blob/main/docs/use_in_your_model.md)
# (Equinox, Haiku and plain JAX too), [weights of other
# libraries](https://github.com/mta-jax/mta_jax/blob/main/docs/convert.md),
# [finetuning](https://github.com/mta-jax/mta_jax/blob/main/docs/finetune.md).
