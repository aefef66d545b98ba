# %% [markdown]
# # A small language model, and needles in a haystack
#
# [![Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/mta-jax/mta_jax/blob/main/notebooks/04_language_model_and_needles.ipynb)
#
# From text to trained models with [Multi-Token Attention](https://arxiv.org/abs/2504.00927) (MTA)
# and to their evaluation, by the commands that large runs use too:
#
# 1. a tokenizer and a small language model, trained on text;
# 2. text from the model, over a cache;
# 3. needles: numbers hidden in text, which MTA and a Transformer learn to find;
# 4. the plan of a large run.
#
# All text is what every Python carries; nothing but `mta_jax` is downloaded. It takes minutes on
# one CPU core, so the models are tiny and see little: this shows how things are done, and what
# models of this size learn first, not what large ones can.

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
# %matplotlib inline
import os
import shlex

import matplotlib.pyplot as plt

plt.rcParams["figure.dpi"] = 85

# %% [markdown]
# ## 1. Train
#
# The tokenizer is learned from Python's manual and docstrings (byte-pair encoding; library
# `tokenizers`, extra `data`), and from the sentences of part 3, so often that the cities in them
# become few tokens each.

# %%
from mta_jax.data.haystack import PYTHON_PROSE, load_haystack
from mta_jax.data.needles.cities import CITIES
from mta_jax.data.tokenizers.train import train_bpe

prose = load_haystack(PYTHON_PROSE, setting="haystack").sentences
facts = [f"The magic number of {city} is {digit}." for city in CITIES for digit in range(10)]
train_bpe([*prose, *facts * 100], 1024, Path("tokenizer.json"))

# %% [markdown]
# A run is a file of settings, and a command for a shell, which `shell` runs from here.


# %%
def shell(command, first=""):
    """Runs `python ...` and prints what it prints, from the line on that has `first` in it."""
    print(f"$ {command}")
    # Plain lines: a kernel asks programs for colours, and for bars that move.
    environment = os.environ | {"COLUMNS": "100", "FORCE_COLOR": "", "PYTHONUNBUFFERED": "1"}
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    _, *arguments = shlex.split(command)
    is_shown = False
    with subprocess.Popen([sys.executable, *arguments], env=environment, **options) as process:
        for line in process.stdout:
            is_shown = is_shown or first in line
            if is_shown:
                print(line, end="")


Path("lm.yaml").write_text("""\
run_dir: runs/lm
num_steps: 300
log_every: 50
evaluate_every: 300
model:
  num_layers: 2
  embed_dim: 96
  num_heads: 4
  mlp_dim: 256
  attention: mta
  attention_implementation: xla  # of so few tokens the whole map is the fastest
  mta:
    pre_kq_kernel_size: [6, 11]  # queries, keys
    post_kq_kernel_size: null
    kq_layers: [0]
data:
  source: text
  batch_size: 16
  text:
    tokenizer: tokenizer.json
    domains:
      prose: {train: ["python:docs", "python:docstrings"]}
    sequence_length: 96
    heldout_rows: 128
optimizer:
  learning_rate: 4.0e-3
  schedule: cosine
  warmup_steps: 50
""")
shell("python -m mta_jax.training --config lm.yaml")

# %% [markdown]
# The table is on documents that were held out. Perplexity is per token; bits per byte can be
# compared between tokenizers. A file, a folder or a data set of [your own
# text](https://github.com/mta-jax/mta_jax/blob/main/docs/data.md) goes where `python:docs` stands,
# and `attention: transformer`, `talking_heads` or `diff` is another kind. How the four compare at
# an equal budget, longer than here and with three seeds, is in
# [Results](https://github.com/mta-jax/mta_jax/blob/main/docs/results.md).
#
# ## 2. Generate

# %%
import jax.numpy as jnp
from flax import nnx

from mta_jax.generate import Sampling, load_model

model = load_model("runs/lm")
prompts = ["The", "Return the", "If the value"]
texts = model.generate(prompts, max_new_tokens=40, sampling=Sampling(temperature=0.5))
for text in texts:
    print(repr(text.prompt + text.text), end="\n\n")

# %% [markdown]
# The sound of documentation without its sense, as so small a model has it. Each token was computed
# over a cache of the tokens before it: keys and values, as a Transformer has them, and the last few
# queries, which the kernels still reach. That is exact, to rounding:

# %%
lm = nnx.merge(model.decoder.graphdef, model.decoder.params)
tokens = jnp.array(model.tokenizer.encode(texts[0].prompt + texts[0].text))[None]
whole = lm(tokens)

extend = nnx.jit(lambda lm, token, cache: lm.extend(token, cache))
cache = lm.empty_cache(batch_size=1, capacity=tokens.shape[1])
one_by_one = []
for token in tokens[0]:
    features, cache = extend(lm, token[None, None], cache)
    one_by_one.append(lm.logits(features))
difference = jnp.abs(jnp.concatenate(one_by_one, axis=1) - whole).max()
print(f"logits of {tokens.shape[1]} tokens, up to {jnp.abs(whole).max():.0f} in size:")
print(f"one by one and all at once differ by {difference:.0e} at most")

# %% [markdown]
# ## 3. Needles
#
# The paper hides sentences that tell the "magic number" of a city in a text, and asks for one of
# them (section 4.4). Large models find them by what they know of language; models of this size are
# to be taught. So their training text *is* needles, drawn while they train: `needles:TEXT?OPTIONS`
# is a domain as any other, of which the answers alone count for the loss. Two of its documents,
# with what is to be learned in brackets:

# %%
from mta_jax.data.needles import NeedleDocuments

needles = "needles:python:docstrings?length=96&needles=1,2,3&asked=1,2"
documents = NeedleDocuments(needles, model.tokenizer, "needles")
for number in (12, 23):
    print(f"{documents[number].prompt}[{documents[number].content}]", end="\n\n\n")

# %% [markdown]
# 96 tokens are little: three needles and a question leave hardly any text around them. What remains
# to be learned is to find the right one. MTA and a Transformer, with the same data, steps and
# optimiser:

# %%
Path("needles.yaml").write_text(f"""\
run_dir: runs/needles
compare: [mta, transformer]
num_steps: 800
log_every: 50
evaluate_every: 200
model:
  num_layers: 2
  embed_dim: 64
  num_heads: 2
  mlp_dim: 128
  attention_implementation: xla
  mta:
    pre_kq_kernel_size: [6, 11]
    post_kq_kernel_size: null
data:
  source: text
  batch_size: 8
  text:
    tokenizer: tokenizer.json
    domains:
      needles: {{train: "{needles}"}}
    sequence_length: 96
    packing: best_fit
    heldout_rows: 128
    shuffle_rows: 64
optimizer:
  learning_rate: 3.0e-3
  schedule: linear
  min_ratio: 0.5
  warmup_steps: 100
  weight_decay: 0.0
""")
shell("python -m mta_jax.training --config needles.yaml")

# %%
from mta_jax import viz
from mta_jax.training.records import read_rows

kinds = ("mta", "transformer")
viz.learning_curves(
    {kind: read_rows(Path("runs/needles", kind, "metrics.jsonl")) for kind in kinds},
    {
        "loss": ("Training loss on needles", "nats per token of the answers"),
        "needles/loss": ("Held-out loss on needles", "nats per token of the answers"),
    },
)

# %% [markdown]
# Now both are asked for one number, in a text that they were not trained on (Python's manual), with
# the needle that is asked for at several depths.

# %%
shell(
    "python -m mta_jax.evaluate needle --checkpoint 'runs/needles/*' --lengths '[96]' "
    "--needles '[1, 2, 3]' --haystack python:docs --samples 20 --output found"
)

# %% [markdown]
# A model that finds numbers, but not whose they are, has one of N right where there are N needles.
# The same by depth; by the rule of the evaluation the needle at 0 % is the first of all, and that
# at 100 % the last:

# %%
import json

import numpy as np
from IPython.display import display

rows = json.loads(Path("found/figures.json").read_text())["rows"]
found = {(row["kind"], row["num_needles"], row["depth"]): row["generated"] for row in rows}
depths = sorted({row["depth"] for row in rows})
for kind in kinds:
    panels = {
        f"needles: {count}": np.array([[found[kind, count, depth]] for depth in depths])
        for count in (1, 2, 3)
    }
    title = f"{kind}: numbers found by greedy decoding"
    display(viz.needle_heat_map(panels, depths=depths, lengths=[96], title=title))

# %% [markdown]
# Read these with care: one seed, a training of minutes, 96 tokens where the paper has 2,048 and
# 4,096, and models that learn this task and nothing else. Steps are equal and time is not: one of
# MTA takes longer. Such a run shows which kind needs fewer steps to tell the needles apart, and no
# more; the other may well get there later.
# [Results](https://github.com/mta-jax/mta_jax/blob/main/docs/results.md) has a larger run,
# `configs/needles_small.yaml`: 240 tokens, up to six needles, a tokenizer that does not know the
# cities, and three seeds.
#
# ## 4. Plan a large run
#
# The paper's models are presets. `--dry_run` says what a run would be, without making it:

# %%
from importlib import resources

preset = resources.files("mta_jax.models.presets") / "880m.yaml"
Path("880m.yaml").write_text(preset.read_text())
Path("large.yaml").write_text("""\
run_dir: runs/880m
num_steps: 400000
data:
  source: text
  batch_tokens: 262144
  text:
    sequence_length: 2048
    domains:
      prose: {train: "python:docs"}  # stands for your own: a plan needs shapes, not text
loss:
  tokens_at_once: 8192
""")
large = "--config large.yaml --model 880m.yaml --model.remat full --model.scan_layers true"
shell(f"python -m mta_jax.training {large} --dry_run", first="Parameters")

# %% [markdown]
# Does it fit a slice of TPUs, and how fast could it be? `mta_jax.plan` compiles the real training
# step with the real TPU compiler, on any machine, in one to five minutes. It needs that compiler
# (extra `tpu`), and says so where it is missing:

# %%
shell(f"python -m mta_jax.plan {large} --topology v5p:4x4x4")

# %% [markdown]
# How to read its table: the run fits where *peak memory* is below the memory of a chip, in the line
# after it. *sent per device and step* is what the collectives move between chips. *arithmetic*,
# *memory* and *network* are lower bounds of a step's time; the step takes at least the largest of
# them, and a real one longer. Where it does not fit, the nearest settings that do are named, and
# `--search` tries meshes. Tables of the paper's models on several slices, and how to start them,
# are in [Many devices](https://github.com/mta-jax/mta_jax/blob/main/docs/scale.md).
