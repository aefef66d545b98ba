"""Attention maps to move about in."""

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import matplotlib
import numpy as np
from matplotlib.colors import Colormap, to_hex

from mta_jax.typing import Array
from mta_jax.viz.interactive.coding import coded
from mta_jax.viz.interactive.page import Page, page_of
from mta_jax.viz.style import DARK_IS_MOST, SIGNED, SIGNED_ON_BLACK

Layers: TypeAlias = np.ndarray | Array | Sequence[np.ndarray | Array]
"""Weights [layers, heads, queries, keys], or [heads, queries, keys] of each layer."""

# Colours of a map, between which the page interpolates; odd, so that one is at zero.
_NUM_COLOURS = 33


def attention_page(
    weights: Layers | Mapping[str, Layers],
    tokens: Sequence[str],
    *,
    queries: Sequence[str] | None = None,
    title: str = "Attention",
    layer_names: Sequence[str] | None = None,
) -> Page:
    """A page with every attention map of a text, for notebooks or as a file of its own.

    It shows one map at a time, chosen by kind, layer and head, over the text: pointing at a
    token, tapping it, or reaching it with the arrow keys colours the tokens that it attends to,
    and tells their weights. A weight takes two bytes and is off by 1/4094 of the largest of its
    map at most; a page of 4 layers of 8 heads and 64 tokens has less than 300 kB.

    From a model to a page, which a notebook shows where it is the last line of a cell::

        import jax.numpy as jnp
        from flax import nnx
        from mta_jax.data import ByteTokenizer
        from mta_jax.models import ModelConfig, Transformer
        from mta_jax.viz import attention_page

        tokenizer = ByteTokenizer()
        tokens = tokenizer.encode("the cat sat on the mat")
        model = Transformer(ModelConfig(vocab_size=tokenizer.vocab_size), rngs=nnx.Rngs(0))
        weights = [layer[0] for layer in model.attention_weights(jnp.asarray(tokens)[None])]
        page = attention_page(weights, [tokenizer.decode([int(token)]) for token in tokens])

    Args:
      weights: of one text, [layers, heads, queries, keys], or a list of [heads, queries, keys],
        whose heads may differ in number; or such by the name of a kind, to compare kinds. They
        may be negative and need not sum to one.
      tokens: label of each key; shown as text, whatever is in it.
      queries: label of each query; None: those of the keys.
      title: of the page.
      layer_names: of all layers; None: their numbers.

    Raises:
      ValueError: where shapes and labels do not match, or weights are not finite.
    """
    kinds = {
        name: _arrays(layers, f"weights[{name!r}]" if isinstance(weights, Mapping) else "weights")
        for name, layers in _by_kind(weights).items()
    }
    _check_shapes(kinds, tokens, queries)
    num_layers = max(len(layers) for layers in kinds.values())
    if layer_names is None:
        layer_names = [f"layer {number}" for number in range(num_layers)]
    elif len(layer_names) != num_layers:
        raise ValueError(
            f"layer_names: has {len(layer_names)} names; must have {num_layers}, one for each layer"
        )
    signed = any(bool((array < 0).any()) for layers in kinds.values() for array in layers)
    data = {
        "keys": list(tokens),
        "queries": None if queries is None else list(queries),
        "kinds": [
            {
                "name": name,
                "layers": [
                    {
                        "name": layer_name,
                        "heads": [
                            dict(zip(("limit", "rows"), coded(x), strict=True)) for x in layer
                        ],
                    }
                    # Some kinds may have fewer layers.
                    for layer_name, layer in zip(layer_names, layers, strict=False)
                ],
            }
            for name, layers in kinds.items()
        ],
        "signed": signed,
        "colours": {
            "light": _colours(SIGNED if signed else DARK_IS_MOST),
            "dark": _colours(SIGNED_ON_BLACK) if signed else _colours(DARK_IS_MOST)[::-1],
        },
    }
    return page_of("attention_page", title=title, data=data)


def _by_kind(weights: Layers | Mapping[str, Layers]) -> Mapping[str, Layers]:
    """A single kind has no name."""
    if isinstance(weights, Mapping):
        if not weights:
            raise ValueError("weights: has no kinds; must have at least one")
        return weights
    return {"": weights}


def _arrays(layers: Layers, where: str) -> list[np.ndarray]:
    """The weights of each layer, checked one by one.

    Args:
      layers: weights of a kind.
      where: what the caller calls them.
    """
    arrays = [np.asarray(layer, np.float32) for layer in layers]
    if not arrays:
        raise ValueError(f"{where}: has no layers; must have at least one")
    for number, array in enumerate(arrays):
        if array.ndim != 3 or 0 in array.shape:
            raise ValueError(
                f"{where}: layer {number} has shape {array.shape}; must be [heads, queries, keys], "
                "none of them 0, of one text: of a batch take one, as in "
                "[layer[0] for layer in weights]"
            )
        bad = np.argwhere(~np.isfinite(array))
        if len(bad):
            head, query, key = bad[0].tolist()
            raise ValueError(
                f"{where}: layer {number}, head {head} has {array[head, query, key]} at query "
                f"{query}, key {key}; must be finite"
            )
    return arrays


def _check_shapes(
    kinds: Mapping[str, Sequence[np.ndarray]],
    tokens: Sequence[str],
    queries: Sequence[str] | None,
) -> None:
    """All maps have the same queries and keys, and those have labels."""
    (num_queries, num_keys), *others = {
        array.shape[1:]: None for layers in kinds.values() for array in layers
    }
    if others:
        raise ValueError(
            f"weights: has maps of {num_queries} queries by {num_keys} keys and of "
            f"{others[0][0]} by {others[0][1]}; all must be of the same text"
        )
    if len(tokens) != num_keys:
        raise ValueError(
            f"tokens: has {len(tokens)} labels; must have {num_keys}, one for each key of weights"
        )
    if queries is None and num_queries != num_keys:
        raise ValueError(
            f"queries: is None, which takes the {num_keys} labels of the keys; must have "
            f"{num_queries} labels, one for each query of weights"
        )
    if queries is not None and len(queries) != num_queries:
        raise ValueError(
            f"queries: has {len(queries)} labels; must have {num_queries}, one for each query of "
            "weights"
        )


def _colours(name: str | Colormap) -> list[str]:
    """A colour map as the page takes it, from its low to its high end."""
    colour_map = matplotlib.colormaps[name] if isinstance(name, str) else name
    return [to_hex(colour) for colour in colour_map(np.linspace(0, 1, _NUM_COLOURS))]
