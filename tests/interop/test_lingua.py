import json
import pathlib
import pickle
import re
import sys

import numpy as np
import pytest

from mta_jax.errors import ConfigError, UserError
from mta_jax.interop import lingua
from mta_jax.interop.fields import Fields
from mta_jax.interop.lingua.settings import is_linear_after, model_config, settings_of
from mta_jax.interop.rotary import in_rope_layout
from mta_jax.models import ModelConfig, MTAConfig
from mta_jax.ops.rope import RopeScaling
from tests.interop import paper_code
from tests.interop.tools import close, our_logits

torch = paper_code.torch
TOKENS = np.random.default_rng(0).integers(0, 270, size=40)


def read_file(folder):
    return torch.load(folder / "consolidated.pth", weights_only=True)["model"]


def assert_same_bits(found, expected):
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype, name
        assert torch.equal(found[name], tensor), name


@pytest.mark.parametrize("name", paper_code.MODELS)
def test_logits_are_those_of_the_papers_code_and_the_way_back_is_exact(name, tmp_path):
    tensors = paper_code.save(name, tmp_path / "theirs")
    checkpoint = lingua.read(tmp_path / "theirs")
    close(our_logits(checkpoint, TOKENS[None])[0], paper_code.logits(name, TOKENS))
    (tmp_path / "back").mkdir()
    lingua.write(checkpoint, tmp_path / "back", None)
    assert_same_bits(read_file(tmp_path / "back"), tensors)
    again = lingua.read(tmp_path / "back", with_arrays=False)
    assert (again.model, again.length) == (checkpoint.model, checkpoint.length)
    settings = json.loads((tmp_path / "back" / "params.json").read_text())
    before = paper_code.settings_of(name)
    assert {key: settings[key] for key in ("name", "steps", "data", "distributed")} == {
        key: before[key] for key in ("name", "steps", "data", "distributed")
    }


@pytest.mark.parametrize("name", ["mta", "transformer-grouped"])
def test_a_model_with_halves_as_rotary_pairs_is_written_with_neighbours(name, tmp_path):
    tensors = paper_code.save(name, tmp_path / "theirs")
    checkpoint = lingua.read(tmp_path / "theirs")
    arrays, model = in_rope_layout(checkpoint.arrays, checkpoint.model, "half_split")
    turned = type(checkpoint)(**vars(checkpoint) | {"arrays": arrays, "model": model})
    close(our_logits(turned, TOKENS[None])[0], paper_code.logits(name, TOKENS))
    (tmp_path / "back").mkdir()
    lingua.write(turned, tmp_path / "back", None)
    assert_same_bits(read_file(tmp_path / "back"), tensors)


def test_bfloat16_comes_back_bit_for_bit(tmp_path):
    tensors = paper_code.save("mta", tmp_path / "theirs", torch.bfloat16)
    checkpoint = lingua.read(tmp_path / "theirs")
    assert checkpoint.origin.dtype == "bfloat16"
    (tmp_path / "back").mkdir()
    lingua.write(checkpoint, tmp_path / "back", None)
    assert_same_bits(read_file(tmp_path / "back"), tensors)


def test_kinds_of_attention_are_told_by_the_options(tmp_path):
    kinds = {}
    for name in paper_code.MODELS:
        settings = Fields(paper_code.settings_of(name), "params.json")
        kinds[name] = model_config(settings).model.attention
    assert kinds.pop("transformer") == kinds.pop("transformer-grouped") == "transformer"
    assert kinds.pop("talking_heads") == "talking_heads"
    assert set(kinds.values()) == {"mta"}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("is_archive", [True, False])
def test_parameters_and_files_of_the_older_format_are_read(is_archive, dtype, tmp_path):
    tensors = paper_code.save("mta", tmp_path, dtype)
    expected = lingua.read(tmp_path)
    parameters = {name: torch.nn.Parameter(tensor) for name, tensor in tensors.items()}
    torch.save(
        {"model": parameters},
        tmp_path / "consolidated.pth",
        _use_new_zipfile_serialization=is_archive,
    )
    found = lingua.read(tmp_path)
    assert found.origin == expected.origin
    assert found.arrays.keys() == expected.arrays.keys()
    for name, array in expected.arrays.items():
        np.testing.assert_array_equal(found.arrays[name], array)


class Touch:
    """A pickle that makes a file when it is loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return pathlib.Path.touch, (pathlib.Path(self.path),)


def save_as_before(content, path):
    torch.save(content, path, _use_new_zipfile_serialization=False)


@pytest.mark.parametrize(
    "save",
    [torch.save, save_as_before, lambda content, path: path.write_bytes(pickle.dumps(content))],
)
def test_a_file_that_holds_code_runs_nothing_and_gets_a_line(save, tmp_path):
    paper_code.save("transformer", tmp_path)
    evidence = tmp_path / "evidence"
    content = {"model": {"tok_embeddings.weight": Touch(evidence)}}
    # It would: the same content, loaded as a pickle.
    pickle.loads(pickle.dumps(content))
    assert evidence.exists()
    evidence.unlink()
    save(content, tmp_path / "consolidated.pth")
    with pytest.raises(UserError) as raised:
        lingua.read(tmp_path)
    assert "consolidated.pth: " in str(raised.value)
    assert "\n" not in str(raised.value)
    assert not evidence.exists()


def test_a_damaged_file_gets_a_line(tmp_path):
    paper_code.save("transformer", tmp_path)
    path = tmp_path / "consolidated.pth"
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(UserError, match=r"consolidated.pth: cannot be read as weights") as raised:
        lingua.read(tmp_path)
    assert "\n" not in str(raised.value)
    torch.save({"optim": 1}, path)
    with pytest.raises(UserError, match=r"consolidated.pth: holds no tensors by name"):
        lingua.read(tmp_path)


def test_wrong_missing_and_unknown_tensors_are_named(tmp_path):
    tensors = paper_code.save("mta", tmp_path)
    path = tmp_path / "consolidated.pth"

    def complaint(changed):
        torch.save({"model": changed}, path)
        with pytest.raises(UserError) as raised:
            lingua.read(tmp_path)
        return str(raised.value)

    kernel = "layers.1.attention.mta_kernel"
    shape = complaint(tensors | {kernel: tensors[kernel][:, :, :2]})
    assert f"tensor {kernel} has the shape [4, 1, 2, 5]: expected [4, 1, 3, 5]" in shape
    missing = complaint({name: t for name, t in tensors.items() if "wpsm" not in name})
    assert missing.endswith("3 tensors are missing: layers.*.attention.wpsm.weight (3)")
    gate = {f"layers.{n}.attention.other.bias": torch.zeros(1) for n in range(2)}
    unknown = complaint(tensors | gate)
    assert unknown.endswith("no place in the model: layers.*.attention.other.bias (2)")
    tied = complaint(tensors | {"output.tied_module.weight": torch.zeros(270, 24)})
    assert "tensor output.tied_module.weight is another one than tok_embeddings.weight" in tied


GATED = {"use_mta": True, "group_norm": True, "add_gating": True}


@pytest.mark.parametrize(
    ("model", "mta", "message"),
    [
        ({}, GATED | {"gate_1d": False}, "model.mta.gate_1d false: the gate here is one number"),
        (
            {},
            GATED | {"layer_norm_rescale": True},
            "model.mta.layer_norm_rescale true: the group norm here has a gate or the factor",
        ),
        (
            {},
            GATED | {"group_norm": False},
            "model.mta.add_gating true: the gate here follows a group norm",
        ),
        ({}, {"curse_norm": True}, "model.mta.curse_norm true: residual norms here have no"),
        ({}, {"pad_key": "up"}, 'model.mta.pad_key "up": must be both, left or right'),
        ({}, {"mta_layers": "1,x"}, 'model.mta.mta_layers "1,x": expected numbers of layers'),
        ({}, {"mta_layers": "9"}, "model.mta.kq_layers names layer 9: must be in 0..2"),
        ({}, {"gate_2d": True}, "model.mta.gate_2d true: an unknown option"),
        (
            {},
            {"head_kernel_size": 2, "post_sm_linear_head": True},
            "model.mta.head_kernel_size 2: must be null where post_sm_linear_head is true",
        ),
        ({"triton": True}, {}, "model.triton true: its kernels have other names"),
        ({"sliding_window": 8}, {}, "model.sliding_window 8: shorter than max_seqlen 64"),
        ({"norm_eps": 1e-6}, GATED, "model.norm_eps 1e-06: group norm there has 1e-05"),
        ({"use_rope": False}, {}, "model.use_rope false: an unknown option"),
        ({"vocab_size": None}, {}, "model.vocab_size is missing"),
        ({"n_heads": None}, {}, "model.n_heads is missing"),
    ],
)
def test_an_option_that_ours_has_not_is_refused_by_name(model, mta, message):
    defaults = {"use_mta": True} if mta else {}
    section = paper_code.SIZES | model | {"mta": defaults | mta}
    with pytest.raises(ConfigError, match=re.escape(message)):
        model_config(Fields({"model": section}, "params.json"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"attention": "diff"}, "model.attention diff: the paper's code has transformer, mta"),
        ({"attention": ["mta", "transformer"]}, "model.attention mta, transformer: the paper's"),
        ({"qkv_bias": True}, "model.qkv_bias true: the paper's code has none"),
        ({"qk_norm": True}, "model.qk_norm true: the paper's code has none"),
        (
            {"rope_scaling": RopeScaling(kind="linear", factor=2.0)},
            "model.rope_scaling.kind linear: the paper's code has none",
        ),
        ({"norm_epsilon": 1e-6}, "model.norm_epsilon 1e-06: must be 1e-05 there"),
        (
            {"mta": MTAConfig(pre_head_kernel_size=2)},
            "model.mta.pre_head_kernel_size 2: all heads mix before the softmax there",
        ),
        (
            {"mta": MTAConfig(key_padding="left")},
            "model.mta.key_padding left: with post_kq_kernel_size it is both there",
        ),
        (
            {
                "mta": MTAConfig(
                    key_padding="right", post_kq_kernel_size=None, post_head_kernel_size=2
                )
            },
            "model.mta.key_padding right: with post_head_kernel_size 2 it is both there, unless",
        ),
        ({"mta": MTAConfig(kq_layers=[])}, "model.mta.kq_layers []: name a layer there"),
        ({"embed_dim": 10, "head_dim": 4}, "model.num_heads 4: must divide embed_dim 10 there"),
    ],
)
def test_a_model_that_the_papers_code_has_not_is_refused_by_its_field(changes, message):
    model = ModelConfig(**{"num_heads": 4, "embed_dim": 16} | changes)
    with pytest.raises(ConfigError, match=re.escape(message)):
        settings_of(model, 64, is_linear_after=False, before={})


@pytest.mark.parametrize("mlp_dim", [None, 1, 37, 171, 255, 256, 257, 2816])
def test_any_width_of_the_feed_forward_block_comes_back(mlp_dim):
    model = ModelConfig(vocab_size=9, embed_dim=24, num_heads=4, mlp_dim=mlp_dim)
    section = settings_of(model, 64, is_linear_after=False, before={})
    again = model_config(Fields({"model": section}, "params.json")).model
    assert again.mlp_size == model.mlp_size
    assert again.mta == model.mta


KQ_BEFORE = {"post_kq_kernel_size": None, "pre_kq_kernel_size": (2, 3)}


@pytest.mark.parametrize("kernel_init", ["identity", "constant", "normal", "zero"])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"post_head_kernel_size": 2},
        {"pre_head_kernel_size": None},
        KQ_BEFORE | {"key_padding": "left"},
        KQ_BEFORE | {"key_padding": "right", "post_head_kernel_size": None},
        {"pre_kq_kernel_size": None, "post_kq_kernel_size": None, "key_padding": "left"},
    ],
)
@pytest.mark.parametrize("before", [{}, {"post_sm_linear_head": True}])
def test_the_authors_constructor_accepts_what_is_written(before, changes, kernel_init):
    model = ModelConfig(
        vocab_size=9, num_heads=4, embed_dim=24, mta=MTAConfig(kernel_init=kernel_init, **changes)
    )
    linear = is_linear_after(model, before)
    mta = settings_of(model, 64, is_linear_after=linear, before={})["mta"]
    assert mta["init_method"] in ("identity", "const")
    is_identity = mta["init_method"] == "identity"
    has_kernel = mta["query_kernel_size"] is not None
    assert mta["pad_key"] == "both" or not (is_identity and has_kernel)
    assert is_identity or mta["head_kernel_size"] is None
    if mta["after_sm_query_kernel_size"] is not None:
        assert (mta["init_method"], mta["pad_key"]) == ("identity", "both")
    assert mta["pre_sm_linear_head"] or not mta["post_sm_linear_head"]
    section = settings_of(model, 64, is_linear_after=linear, before={})
    again = model_config(Fields({"model": section}, "params.json")).model.mta
    for name in ("pre_kq", "post_kq", "pre_head", "post_head"):
        size = f"{name}_kernel_size"
        assert getattr(again, size) == getattr(model.mta, size)
    assert again.key_padding == model.mta.key_padding or not has_kernel


def test_an_old_or_missing_pytorch_is_told(tmp_path, monkeypatch):
    paper_code.save("transformer", tmp_path)
    monkeypatch.setattr(torch, "__version__", "2.5.1")
    with pytest.raises(UserError, match=r"needs PyTorch 2.6 or newer.*2.5.1 is installed"):
        lingua.read(tmp_path)
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(UserError, match=r"needs the library torch .*'mta-jax\[convert\]'"):
        lingua.read(tmp_path)
