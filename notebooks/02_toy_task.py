# %% [markdown]
# # Block search: a task that one query and one key cannot do
#
# [![Open In Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/mta-jax/mta_jax/blob/main/notebooks/02_toy_task.ipynb)
#
# The toy task of [Multi-Token Attention](https://arxiv.org/abs/2504.00927) (section 4.1, table 1),
# small enough for one CPU core: train MTA and a Transformer of the same size, compare their errors,
# then look at what MTA has learned and at an example that only MTA gets right.

# %%
# install

# %%
# %matplotlib inline
import numpy as np

from mta_jax.data import BlockSearchConfig, DataConfig, LetterTokenizer
from mta_jax.data.block_search import BlockSearchSource

# %% [markdown]
# ## The task
#
# Blocks of different letters, then `#` and a question of two letters, in any order. Exactly one block
# has both. The answer is that block, letter by letter. Here a sample has four blocks of five letters;
# the paper's have about fifty.

# %%
task = BlockSearchConfig(block_size=5, answer="all", sequence_length=33)
samples = BlockSearchSource(task, split="heldout", seed=0)
letters = LetterTokenizer()


def read(sample):
    """Context, question and answer of a sample, as text."""
    is_answer = sample["targets_weights"] > 0
    context, question = letters.decode(sample["inputs"][: np.argmax(is_answer) + 1]).split("#")
    return context, question, letters.decode(sample["targets"][is_answer])


print(f"{'context':<25} question  answer")
for index in range(6):
    context, question, answer = read(samples[index])
    print(f"{context:<25} {question:<9} {answer}")

# %% [markdown]
# Why is that hard? The question's letters are two tokens, and so are their like in the block. An
# ordinary attention weight compares one query with one key: it can find the places of one letter. That
# both are in *one* block is a statement on two queries and two keys. MTA convolves the logits over
# neighbouring queries and keys before the softmax:
#
# $$A = \mathrm{softmax}\big(\mathrm{mask}_{-\infty}(\mathrm{conv}_w(\mathrm{mask}_0(QK^\top / \sqrt{H})))\big)$$
#
# With a kernel `w` that reaches as many queries as there are between question and answer, and as many
# keys as a block has letters to both sides, a weight can rest on both letters.

# %% [markdown]
# ## Train both
#
# The same data, steps and optimiser. Of MTA's steps only the key-query convolution is used, as in
# the paper's toy task; nothing else distinguishes the two models. `python train.py --config FILE` does
# the same from a file of settings.

# %%
import dataclasses

from mta_jax.models import ModelConfig, MTAConfig
from mta_jax.training.comparison import run
from mta_jax.training.config import CheckpointConfig, OptimizerConfig, TrainConfig

config = TrainConfig(
    run_dir="runs/block_search",
    compare=["mta", "transformer"],
    num_steps=1_200,
    log_every=50,
    evaluate_every=100,
    checkpoint=CheckpointConfig(every=600),
    model=ModelConfig(
        num_layers=2,
        embed_dim=128,
        num_heads=2,
        mlp_dim=128,
        attention_implementation="xla",  # of so few tokens the whole map is the fastest
        mta=MTAConfig(
            pre_kq_kernel_size=(8, 9),  # queries, keys
            post_kq_kernel_size=None,
            pre_head_kernel_size=None,
            post_head_kernel_size=None,
            group_norm=None,
        ),
    ),
    data=DataConfig(source="block_search", batch_size=32, block_search=task),
    optimizer=OptimizerConfig(
        learning_rate=3e-3, schedule="linear", warmup_steps=100, weight_decay=0.0
    ),
)
results = run(config)

# %% [markdown]
# The run folder now holds settings, metrics, checkpoints and pictures. The table's error is the share of
# 1,000 held-out samples whose answer is not right in every letter.

# %%
from mta_jax import viz

viz.learning_curves(
    {kind: result.rows for kind, result in results.items()},
    {
        "loss": ("Training loss", "nats per target token"),
        "heldout/error": ("Held-out samples with a wrong answer", "whole-answer error, %"),
    },
)

# %% [markdown]
# ## What the Transformer answers
#
# Both models write their answers to all held-out samples, letter by letter, the likeliest each time.
# Then the first thing to know of a wrong answer is what kind of block it is.

# %%
from collections import Counter

from mta_jax.inference import Decoder, Sampling

held_out = [samples[index] for index in range(len(samples))]
start = int(np.argmax(held_out[0]["targets_weights"] > 0)) + 1  # tokens up to the question's end


def answers(result):
    """What a model answers to each held-out sample."""
    decoder = Decoder(
        graphdef=result.program.graphdef,
        params=result.params,
        eos_id=letters.eos_id,
        num_tokens=letters.vocab_size,
    )
    written = decoder.generate(
        [sample["inputs"][:start] for sample in held_out],
        max_new_tokens=task.answer_length + 1,
        sampling=Sampling(temperature=0.0),
    )
    return [letters.decode(continuation.tokens) for continuation in written]


def kind_of(answer, sample):
    """What an answer is, seen from its sample."""
    context, question, right = read(sample)
    if answer == right:
        return "the right block"
    if answer in context.split("."):
        asked = len(set(question) & set(answer))
        return ["a block with neither letter", "a block with one of the two letters"][asked]
    return "not a block of the sample"


answered = {kind: answers(result) for kind, result in results.items()}
counts = {
    kind: Counter(kind_of(*pair) for pair in zip(answered[kind], held_out, strict=True))
    for kind in results
}
print(f"{'answer':<38}" + "".join(f"{kind:>12}" for kind in counts))
for what in sorted({what for own in counts.values() for what in own}):
    shares = (own[what] / len(held_out) for own in counts.values())
    print(f"{what:<38}" + "".join(f"{share:>12.1%}" for share in shares))

# %% [markdown]
# ## What MTA has learned
#
# The kernels, one per layer and head. A cell is the weight of a neighbouring logit: the row says how
# many tokens before the query, the column how many before or after the key. They began as the identity:
# 1 at (0, 0), 0 elsewhere.

# %%
from mta_jax.training.learned_kernels import CONVOLUTIONS, learned_kernels, titled

kernels = learned_kernels(results["mta"].params)
viz.key_query_kernels(titled(kernels, CONVOLUTIONS))

# %% [markdown]
# Which of them does the work? Put the identity in the place of one and count the wrong answers again.

# %%
import jax
import jax.numpy as jnp

inputs, targets, weights = (
    jnp.array([sample[name] for sample in held_out])
    for name in ("inputs", "targets", "targets_weights")
)
mta = results["mta"]


def with_identity(params, layer, heads):
    """Parameters with the identity for the kernels of some heads of a layer."""
    params = jax.tree.map(lambda x: x, params)  # other dictionaries, the same arrays
    place = next(p for p in params["layers"] if int(p) == layer)
    kernel = params["layers"][place]["attention"]["pre_kq"]["kernel"]
    identity = jnp.zeros(kernel.shape[1:]).at[-1, kernel.shape[2] // 2].set(1.0)
    params["layers"][place]["attention"]["pre_kq"]["kernel"] = kernel.at[jnp.array(heads)].set(identity)
    return params


@jax.jit
def error(params):
    """Share of wrong answers."""
    is_wrong = mta.program.model(params)(inputs).argmax(-1) != targets
    return (is_wrong & (weights > 0)).any(1).mean()


print(f"all kernels as learned              {error(mta.params):>7.1%}")
for (layer, _), kernel in kernels.items():
    for head in range(len(kernel)):
        share = error(with_identity(mta.params, layer, [head]))
        print(f"identity in layer {layer}, head {head}         {share:>7.1%}")
    share = error(with_identity(mta.params, layer, list(range(len(kernel)))))
    print(f"identity in layer {layer}, both heads    {share:>7.1%}")

# %% [markdown]
# ## One sample
#
# The first that MTA gets right and the Transformer does not: its answer is a block with one of the two
# letters. Below is, of each model, the attention map that follows the right answer best, from the
# question and the answer (queries) to the blocks (keys).

# %%
from mta_jax.training.toy_attention import ToySample

number = next(
    index
    for index, sample in enumerate(held_out)
    if kind_of(answered["mta"][index], sample) == "the right block"
    and kind_of(answered["transformer"][index], sample) == "a block with one of the two letters"
)
context, question, answer = read(held_out[number])
print(f"held-out sample {number}: {context}#{question}")
for kind, own in answered.items():
    print(f"{kind:<12} {own[number]}")

sample = ToySample(
    held_out[number]["inputs"],
    context,
    question,
    answer,
    start=context.index(answer),
    block_size=task.block_size,
)
maps, where = {}, {}
for kind, result in results.items():
    where[kind], maps[kind] = sample.best_map(result.program, result.params)
sample.draw({f"{kind}: {where[kind]}": weights for kind, weights in maps.items()})

# %%
layer, head = (int(word.split()[1]) for word in where["mta"].split(", "))
queries, keys = slice(1 + len(context), None), slice(1, 1 + len(context))


def attention(params):
    """The same map of MTA with other parameters."""
    weights = mta.program.model(params).attention_weights(jnp.array(sample.tokens)[None])
    return np.asarray(weights[layer][0, head, queries, keys])


sample.draw(
    {
        f"{where['mta']}: kernel as learned": attention(mta.params),
        f"{where['mta']}: identity in its place": attention(
            with_identity(mta.params, layer, [head])
        ),
    }
)
