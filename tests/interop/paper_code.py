"""Checkpoints as the paper's code writes them, and its forward pass, in NumPy.

Written from what that code does, without our names, layouts or ops: scores are zeroed where
masked, convolved (cross-correlation, the past side of the queries padded), mixed over heads
by a matrix whose rows are outputs, masked, normalised; the weights are convolved, zeroed
where masked, and mixed by kernels of groups whose rows are inputs.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

MTA_DEFAULTS: dict[str, Any] = {
    "use_mta": False,
    "query_kernel_size": 1,
    "key_kernel_size": 1,
    "after_sm_query_kernel_size": None,
    "after_sm_key_kernel_size": None,
    "mta_layers": None,
    "head_kernel_size": None,
    "pre_sm_linear_head": False,
    "post_sm_linear_head": False,
    "group_norm": False,
    "layer_norm_rescale": False,
    "add_gating": False,
    "gate_1d": True,
    "pad_key": "both",
}
SIZES: dict[str, Any] = {
    "dim": 24,
    "n_layers": 3,
    "n_heads": 4,
    "vocab_size": 270,
    "multiple_of": 8,
    "rope_theta": 500.0,
    "max_seqlen": 64,
    "weight_tying": True,
}
MODELS: dict[str, dict[str, Any]] = {
    "transformer": {"mta": {}},
    "transformer-grouped": {"n_kv_heads": 2, "weight_tying": False, "norm_eps": 1e-6, "mta": {}},
    "mta": {
        "n_kv_heads": 2,
        "mta": {
            "use_mta": True,
            "query_kernel_size": 3,
            "key_kernel_size": 5,
            "after_sm_query_kernel_size": 2,
            "after_sm_key_kernel_size": 3,
            "mta_layers": "1,2",
            "pre_sm_linear_head": True,
            "head_kernel_size": 2,
            "group_norm": True,
            "add_gating": True,
        },
    },
    "depth": {
        "ffn_dim_multiplier": 0.7,
        "mta": {
            "use_mta": True,
            "query_kernel_size": 2,
            "key_kernel_size": 4,
            "pad_key": "left",
            "init_method": "const",
            "pre_sm_linear_head": True,
            "post_sm_linear_head": True,
            "group_norm": True,
            "layer_norm_rescale": True,
        },
    },
    "right": {
        "mta": {
            "use_mta": True,
            "query_kernel_size": 2,
            "key_kernel_size": 2,
            "pad_key": "right",
            "init_method": "const",
            "mta_layers": "0",
            "group_norm": True,
        },
    },
    "talking_heads": {
        "weight_tying": False,
        "mta": {
            "use_mta": True,
            "query_kernel_size": None,
            "pre_sm_linear_head": True,
            "head_kernel_size": 4,
        },
    },
    "norm-alone": {"mta": {"group_norm": True, "add_gating": True}},
}


def settings_of(name: str) -> dict[str, Any]:
    section = SIZES | MODELS[name]
    return {
        "name": name,
        "steps": 10,
        "model": section,
        "data": {"seq_len": 64, "tokenizer": {"name": "bytes", "path": None}},
        "distributed": {"model_dtype": "fp32", "compile": True},
    }


def _options(section: dict[str, Any]) -> dict[str, Any]:
    return MTA_DEFAULTS | section["mta"]


def shapes_of(section: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors."""
    mta, dim, heads = _options(section), section["dim"], section["n_heads"]
    size, kv_heads = dim // heads, section.get("n_kv_heads", heads)
    hidden = int(section.get("ffn_dim_multiplier", 1.0) * int(8 * dim / 3))
    hidden = -(-hidden // section["multiple_of"]) * section["multiple_of"]
    shapes = {"tok_embeddings.weight": (section["vocab_size"], dim), "norm.weight": (dim,)}
    head = "output.tied_module.weight" if section["weight_tying"] else "output.weight"
    shapes[head] = (section["vocab_size"], dim)
    for layer in range(section["n_layers"]):
        here = {
            "attention_norm.weight": (dim,),
            "ffn_norm.weight": (dim,),
            "attention.wq.weight": (heads * size, dim),
            "attention.wk.weight": (kv_heads * size, dim),
            "attention.wv.weight": (kv_heads * size, dim),
            "attention.wo.weight": (dim, heads * size),
            "feed_forward.w1.weight": (hidden, dim),
            "feed_forward.w3.weight": (hidden, dim),
            "feed_forward.w2.weight": (dim, hidden),
        }
        layers = mta["mta_layers"]
        convolves = layers is None or str(layer) in layers.split(",")
        if mta["use_mta"] and convolves and mta["query_kernel_size"]:
            kernel = (heads, 1, mta["query_kernel_size"], mta["key_kernel_size"])
            here["attention.mta_kernel"] = kernel
        if mta["use_mta"] and convolves and mta["after_sm_query_kernel_size"]:
            kernel = (heads, 1, mta["after_sm_query_kernel_size"], mta["after_sm_key_kernel_size"])
            here["attention.mta_kernel_after_sm"] = kernel
        if mta["pre_sm_linear_head"]:
            here["attention.wpsm.weight"] = (heads, heads)
        if mta["post_sm_linear_head"]:
            here["attention.wposm.weight"] = (heads, heads)
        if mta["head_kernel_size"]:
            group = mta["head_kernel_size"]
            here["attention.head_kernel"] = (heads // group, group, group)
        if mta["group_norm"]:
            here["attention.subln.weight"] = (size,)
        if mta["add_gating"]:
            here |= {"attention.gate.weight": (1, size), "attention.gate.bias": (1,)}
        shapes |= {f"layers.{layer}.{name}": shape for name, shape in here.items()}
    return shapes


def drawn(name: str) -> dict[str, Any]:
    """Random tensors of a model."""
    rng = np.random.default_rng(0)
    tensors = {
        key: torch.from_numpy((rng.normal(size=shape) * 0.3).astype(np.float32))
        for key, shape in shapes_of(SIZES | MODELS[name]).items()
    }
    for key, tensor in tensors.items():
        if "norm.weight" in key or "subln" in key:
            tensor += 1.0
    if "output.tied_module.weight" in tensors:
        tensors["output.tied_module.weight"] = tensors["tok_embeddings.weight"]
    return tensors


def save(name: str, folder: Path, dtype: Any = None) -> dict[str, Any]:
    """Writes a checkpoint; returns its tensors."""
    tensors = {key: tensor.to(dtype or tensor.dtype) for key, tensor in drawn(name).items()}
    folder.mkdir(parents=True, exist_ok=True)
    torch.save({"model": tensors}, folder / "consolidated.pth")
    (folder / "params.json").write_text(json.dumps(settings_of(name)))
    return tensors


def logits(name: str, tokens: np.ndarray) -> np.ndarray:
    """Logits [T, V] of one row of tokens, in float64."""
    section = SIZES | MODELS[name]
    weights = {key: tensor.numpy().astype(np.float64) for key, tensor in drawn(name).items()}
    epsilon = section.get("norm_eps", 1e-5)
    x = weights["tok_embeddings.weight"][tokens]
    for layer in range(section["n_layers"]):
        prefix = f"layers.{layer}."
        here = {
            key.removeprefix(prefix): value
            for key, value in weights.items()
            if key.startswith(prefix)
        }
        x = x + _attention(_norm(x, here["attention_norm.weight"], epsilon), here, section, layer)
        y = _norm(x, here["ffn_norm.weight"], epsilon)
        gate = y @ here["feed_forward.w1.weight"].T
        hidden = gate / (1 + np.exp(-gate)) * (y @ here["feed_forward.w3.weight"].T)
        x = x + hidden @ here["feed_forward.w2.weight"].T
    head = "tok_embeddings.weight" if section["weight_tying"] else "output.weight"
    return _norm(x, weights["norm.weight"], epsilon) @ weights[head].T


def _norm(x: np.ndarray, weight: np.ndarray, epsilon: float) -> np.ndarray:
    return x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + epsilon) * weight


def _turn(x: np.ndarray, theta: float) -> np.ndarray:
    """Rotary embedding of [T, N, H]; neighbouring features are the parts of a number."""
    length, _, size = x.shape
    angles = np.outer(np.arange(length), theta ** (-np.arange(0, size, 2) / size))
    turned = (x[..., ::2] + 1j * x[..., 1::2]) * np.exp(1j * angles)[:, None]
    return np.stack([turned.real, turned.imag], axis=-1).reshape(x.shape)


def _convolve(scores: np.ndarray, kernel: np.ndarray, pad_key: str) -> np.ndarray:
    _, queries, keys = scores.shape
    _, _, height, width = kernel.shape
    left = {"both": (width - 1) // 2, "left": width - 1, "right": 0}[pad_key]
    padded = np.pad(scores, ((0, 0), (height - 1, 0), (left, width - 1 - left)))
    out = np.zeros_like(scores)
    for a in range(height):
        for b in range(width):
            out += kernel[:, 0, a, b, None, None] * padded[:, a : a + queries, b : b + keys]
    return out


def _attention(
    x: np.ndarray, here: dict[str, np.ndarray], section: dict[str, Any], layer: int
) -> np.ndarray:
    mta, heads, length = _options(section), section["n_heads"], len(x)
    kv_heads = section.get("n_kv_heads", heads)
    q = _turn((x @ here["attention.wq.weight"].T).reshape(length, heads, -1), section["rope_theta"])
    k = _turn(
        (x @ here["attention.wk.weight"].T).reshape(length, kv_heads, -1), section["rope_theta"]
    )
    v = (x @ here["attention.wv.weight"].T).reshape(length, kv_heads, -1)
    k, v = (np.repeat(part, heads // kv_heads, axis=1) for part in (k, v))
    future = np.triu(np.ones((length, length), bool), 1)
    scores = np.einsum("qnh,knh->nqk", q, k) / np.sqrt(q.shape[-1])
    if "attention.mta_kernel" in here:
        scores = np.where(future, 0.0, scores)
        scores = _convolve(scores, here["attention.mta_kernel"], mta["pad_key"])
    if "attention.wpsm.weight" in here:
        scores = np.einsum("oi,iqk->oqk", here["attention.wpsm.weight"], scores)
    scores = np.exp(np.where(future, -np.inf, scores))
    scores /= scores.sum(-1, keepdims=True)
    if "attention.mta_kernel_after_sm" in here:
        scores = _convolve(scores, here["attention.mta_kernel_after_sm"], mta["pad_key"])
        scores = np.where(future, 0.0, scores)
    if "attention.head_kernel" in here:
        kernel = here["attention.head_kernel"]
        groups = scores.reshape(len(kernel), -1, length, length)
        scores = np.einsum("giqk,gio->goqk", groups, kernel).reshape(scores.shape)
    if "attention.wposm.weight" in here:
        scores = np.einsum("oi,iqk->oqk", here["attention.wposm.weight"], scores)
    out = np.einsum("nqk,knh->qnh", scores, v)
    if mta["group_norm"]:
        out = _norm(out, here["attention.subln.weight"], 1e-5)
    if mta["layer_norm_rescale"]:
        out = out * (1 - (0.8 - 0.6 * np.exp(-0.3 * layer)))
    if mta["add_gating"]:
        gate = out @ here["attention.gate.weight"].T + here["attention.gate.bias"]
        out = out / (1 + np.exp(-gate))
    return out.reshape(length, -1) @ here["attention.wo.weight"].T
