import json
import re

import numpy as np
import pytest
import safetensors.numpy

from mta_jax.errors import ConfigError, UserError
from mta_jax.interop import hugging_face
from mta_jax.interop.fields import Fields
from mta_jax.interop.hugging_face.files import write_safetensors
from mta_jax.interop.hugging_face.settings import model_config, settings_of
from mta_jax.interop.hugging_face.tokenizer import tokenizer_files
from mta_jax.interop.rotary import in_rope_layout
from mta_jax.models import ModelConfig, MTAConfig
from mta_jax.ops.rope import RopeScaling
from tests.interop import hugging_face_models as models
from tests.interop.tools import close, our_logits

pytestmark = models.quiet
TOKENS = np.random.default_rng(0).integers(0, 270, size=(2, 48))


@pytest.fixture(scope="module", params=models.MODELS)
def saved(request, tmp_path_factory):
    """A model, and its folder."""
    model = models.build(request.param)
    return model, models.save(model, tmp_path_factory.mktemp("models") / request.param)


def tensors_in(folder):
    found = {}
    for path in sorted(folder.glob("*.safetensors")):
        found |= safetensors.numpy.load_file(path)
    return found


def assert_same_bits(found, expected):
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype, name
        assert found[name].tobytes() == tensor.tobytes(), name


def test_logits_are_those_of_transformers(saved):
    model, folder = saved
    close(our_logits(hugging_face.read(folder), TOKENS), models.logits(model, TOKENS))


def test_written_again_every_tensor_is_the_same_and_the_library_reads_it(saved, tmp_path):
    model, folder = saved
    hugging_face.write(hugging_face.read(folder), tmp_path, None)
    assert_same_bits(tensors_in(tmp_path), tensors_in(folder))
    again = type(model).from_pretrained(tmp_path, attn_implementation="eager")
    assert again.config.tie_word_embeddings == model.config.tie_word_embeddings
    np.testing.assert_array_equal(models.logits(again, TOKENS), models.logits(model, TOKENS))


def test_a_model_with_neighbours_as_rotary_pairs_is_written_with_the_librarys(saved, tmp_path):
    model, folder = saved
    checkpoint = hugging_face.read(folder)
    arrays, config = in_rope_layout(checkpoint.arrays, checkpoint.model, "interleaved")
    turned = type(checkpoint)(**vars(checkpoint) | {"arrays": arrays, "model": config})
    close(our_logits(turned, TOKENS), models.logits(model, TOKENS))
    hugging_face.write(turned, tmp_path, None)
    assert_same_bits(tensors_in(tmp_path), tensors_in(folder))


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    """A folder in bfloat16 with norms in float32, in several files."""
    folder = models.save(models.build("llama").bfloat16(), tmp_path_factory.mktemp("llama") / "a")
    tensors = tensors_in(folder)
    for name in tensors:
        if "norm" in name:
            tensors[name] = tensors[name].astype(np.float32) * np.float32(1.1)
    (folder / "model.safetensors").unlink()
    write_safetensors(folder, tensors, max_bytes=4000)
    return folder


@pytest.fixture
def copy(llama, tmp_path):
    folder = tmp_path / "copy"
    folder.mkdir()
    for path in llama.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


def test_several_files_are_one_model_and_each_tensor_keeps_its_dtype(llama, tmp_path):
    assert len(list(llama.glob("*.safetensors"))) > 3
    checkpoint = hugging_face.read(llama)
    assert checkpoint.origin.dtype == "bfloat16"
    hugging_face.write(checkpoint, tmp_path, None)
    assert_same_bits(tensors_in(tmp_path), tensors_in(llama))
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == "bfloat16"


def test_another_dtype_is_written_where_it_is_named(llama, tmp_path):
    hugging_face.write(hugging_face.read(llama), tmp_path, "float16")
    expected = {name: tensor.astype(np.float16) for name, tensor in tensors_in(llama).items()}
    assert_same_bits(tensors_in(tmp_path), expected)


def test_what_float16_cannot_hold_is_named(llama, tmp_path):
    checkpoint = hugging_face.read(llama)
    arrays = dict(checkpoint.arrays) | {"final_norm.scale": np.full(24, 1e6, np.float32)}
    large = type(checkpoint)(**vars(checkpoint) | {"arrays": arrays})
    with pytest.raises(UserError, match=r"tensor model.norm.weight: has values beyond float16"):
        hugging_face.write(large, tmp_path, "float16")


def change(folder, name, make):
    """Writes a tensor anew, in its file."""
    for path in folder.glob("*.safetensors"):
        tensors = safetensors.numpy.load_file(path)
        if name in tensors:
            tensor = make(tensors.pop(name))
            tensors |= {} if tensor is None else {name: tensor}
            safetensors.numpy.save_file(tensors, path)


LAYER_1 = "model.layers.1.mlp.up_proj.weight"


def not_a_number(tensor):
    tensor = tensor.copy()
    tensor[3, 4] = np.nan
    return tensor


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda t: t[:-1].copy(),
            rf"tensor {LAYER_1} has the shape \[39, 24\]: expected \[40, 24\]",
        ),
        (lambda t: t.astype(np.int8), rf"tensor {LAYER_1} has the dtype I8: expected float32"),
        (not_a_number, rf"tensor {LAYER_1} holds infinities or NaN"),
        (lambda t: None, rf"tensor {LAYER_1} is not there, which model.safetensors.index.json"),
    ],
)
def test_a_wrong_tensor_is_named(copy, make, message):
    change(copy, LAYER_1, make)
    with pytest.raises(UserError, match=message):
        hugging_face.read(copy)


def test_a_file_that_is_cut_names_the_tensor_that_is(copy):
    path = max(copy.glob("*.safetensors"), key=lambda path: path.stat().st_size)
    last = list(safetensors.numpy.load_file(path))
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(UserError, match=r"tensor [\w.]+ is cut off") as raised:
        hugging_face.read(copy)
    assert any(f"tensor {name} is cut off" in str(raised.value) for name in last)
    path.write_bytes(b"\x10")
    with pytest.raises(UserError, match=rf"{path.name}: is damaged"):
        hugging_face.read(copy)
    path.unlink()
    with pytest.raises(UserError, match=rf"{path.name}: no such file"):
        hugging_face.read(copy)


def test_an_index_names_files_of_its_folder_only(copy):
    index = json.loads((copy / "model.safetensors.index.json").read_text())
    index["weight_map"][LAYER_1] = "../model-00001-of-00002.safetensors"
    (copy / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match=f"tensor {LAYER_1}: '../model-.*is no name of a file"):
        hugging_face.read(copy)


def test_missing_and_unknown_tensors_are_all_listed(copy):
    tensors = tensors_in(copy)
    for path in copy.glob("model*"):
        path.unlink()
    for layer in range(2):
        del tensors[f"model.layers.{layer}.mlp.up_proj.weight"]
        tensors[f"model.layers.{layer}.self_attn.o_proj.bias"] = np.zeros(24, np.float32)
    tensors["score.weight"] = np.zeros(24, np.float32)
    write_safetensors(copy, tensors)
    with pytest.raises(UserError) as raised:
        hugging_face.read(copy, with_arrays=False)
    assert str(raised.value).endswith(
        "2 tensors are missing: model.layers.*.mlp.up_proj.weight (2); 3 tensors have no place in "
        "the model: model.layers.*.self_attn.o_proj.bias (2), score.weight"
    )


def test_end_tokens_that_ours_does_not_know_are_told(copy):
    path = copy / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"eos_token_id": [1, 43]}))
    (note,) = hugging_face.read(copy).notes
    assert note.startswith("eos_token_id [1, 43]: a text ends with the tokenizer's end token only")


def test_buffers_of_early_files_are_noted_and_a_tied_head_must_be_the_embedding(tmp_path):
    folder = models.save(models.build("llama-tied"), tmp_path / "tied")
    tensors = tensors_in(folder)
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
    buffer = "model.layers.0.self_attn.rotary_emb.inv_freq"
    write_safetensors(folder, tensors | {buffer: np.ones(3, np.float32)})
    assert hugging_face.read(folder).notes == (f"{buffer}: computed anew, not read",)

    write_safetensors(folder, tensors | {"lm_head.weight": tensors["lm_head.weight"] + 1})
    with pytest.raises(UserError, match=r"tensor lm_head.weight is another one than"):
        hugging_face.read(folder)


LLAMA = {
    "model_type": "llama",
    "vocab_size": 32,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "max_position_embeddings": 64,
}
WINDOW = "shorter than max_position_embeddings 64, and attention here sees all"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "mixtral"}, 'model_type "mixtral": must be one of llama, qwen2, qwen3'),
        ({"model_type": "gemma2"}, 'model_type "gemma2": must be one of'),
        ({"hidden_act": "gelu"}, 'hidden_act "gelu": must be silu'),
        ({"attention_bias": True}, "attention_bias true: the model here has no such biases"),
        ({"mlp_bias": True}, "mlp_bias true: the model here has no such biases"),
        (
            {"quantization_config": {"quant_method": "gptq"}},
            'quantization_config {"quant_method": "gptq"}: a quantised checkpoint',
        ),
        ({"num_local_experts": 8}, "num_local_experts 8: a mixture of experts"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor 0.5: must be 1"),
        ({"model_type": "mistral", "sliding_window": 32}, f"sliding_window 32: {WINDOW}"),
        (
            {"model_type": "mistral", "max_position_embeddings": 8192},
            "sliding_window missing, which is 4096 there: shorter than max_position_embeddings",
        ),
        (
            {"model_type": "mistral", "sliding_window": 32, "layer_types": ["full_attention"]},
            f"sliding_window 32: {WINDOW}",
        ),
        (
            {"model_type": "qwen2", "use_sliding_window": True, "max_position_embeddings": 8192},
            "sliding_window missing, which is 4096 there",
        ),
        (
            {"model_type": "qwen2", "sliding_window": 32, "use_sliding_window": True},
            f"sliding_window 32: {WINDOW}",
        ),
        (
            {"layer_types": ["sliding_attention"], "sliding_window": 32},
            f"sliding_window 32: {WINDOW}",
        ),
        (
            {"layer_types": ["linear_attention"]},
            'layer_types ["linear_attention"]: must be full_attention',
        ),
        (
            {"rope_scaling": {"type": "dynamic", "factor": 2.0}},
            'rope_scaling.type "dynamic": must be default, linear or llama3',
        ),
        (
            {"rope_parameters": {"rope_type": "yarn", "factor": 2.0}},
            'rope_parameters.rope_type "yarn": must be default, linear or llama3',
        ),
        ({"rope_scaling": {"type": "linear"}}, "rope_scaling.factor is missing"),
        ({"hidden_size": None}, "hidden_size is missing"),
        ({"hidden_size": "16"}, 'hidden_size "16": expected a value of type int'),
        ({"num_attention_heads": 3}, "model.embed_dim 16 with num_heads 3: must be divisible"),
    ],
)
def test_a_model_that_ours_cannot_be_is_refused_by_its_field(changes, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        model_config(Fields(LLAMA | changes, "config.json"))


def test_a_window_as_long_as_the_text_or_one_that_is_not_used_changes_nothing():
    for changes in (
        {"model_type": "mistral", "sliding_window": 64},
        {"model_type": "mistral"},
        {"model_type": "qwen2", "sliding_window": 32, "use_sliding_window": False},
    ):
        assert model_config(Fields(LLAMA | changes, "config.json"))[1] == 64
    long = LLAMA | {"model_type": "mistral", "max_position_embeddings": 8192}
    assert model_config(Fields(long | {"sliding_window": None}, "config.json"))[1] == 8192


def test_a_missing_window_is_that_of_the_library():
    for kind in ("Mistral", "Qwen2", "Qwen3"):
        config = getattr(models.transformers, f"{kind}Config")
        extra = {} if kind == "Mistral" else {"use_sliding_window": True}
        window = config(**extra).sliding_window
        assert window == 4096
        assert config(**extra, sliding_window=None).sliding_window is None
        fields = {"model_type": kind.lower(), "max_position_embeddings": window} | extra
        assert model_config(Fields(LLAMA | fields, "config.json"))[1] == window


def test_the_older_spelling_of_rotary_settings_means_the_same():
    scaling = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0}
    scaling |= {"high_freq_factor": 4.0, "original_max_position_embeddings": 32}
    older = Fields(LLAMA | {"rope_theta": 500.0, "rope_scaling": scaling}, "")
    newer = Fields(LLAMA | {"rope_parameters": scaling | {"rope_theta": 500.0}}, "")
    assert model_config(older) == model_config(newer)
    assert model_config(newer)[0].rope_scaling.original_length == 32


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"attention": "mta"}, "model.attention mta: Hugging Face's models of the Llama family"),
        ({"attention": ["transformer", "diff"]}, "model.attention diff: Hugging Face's models"),
        ({"qkv_bias": True, "qk_norm": True}, "model.qkv_bias true with qk_norm true"),
    ],
)
def test_a_model_that_the_library_has_not_is_refused_by_its_field(changes, message):
    model = ModelConfig(**{"attention": "transformer"} | changes)
    with pytest.raises(ConfigError, match=re.escape(message)):
        settings_of(model, 64, {})


def test_settings_come_back_from_what_is_written():
    for changes in (
        {},
        {"qkv_bias": True, "tie_embeddings": False, "num_kv_heads": 1},
        {"qk_norm": True, "head_dim": 6, "norm_epsilon": 1e-6},
        {"rope_scaling": RopeScaling(kind="linear", factor=4.0)},
    ):
        fields = {"attention": "transformer", "rope_layout": "half_split", "vocab_size": 9}
        model = ModelConfig(**fields | {"num_kv_heads": 2, "head_dim": 32, "mlp_dim": 7} | changes)
        again, length = model_config(Fields(settings_of(model, 77, {}), ""))
        assert (again, length) == (model, 77)


def test_fields_that_we_do_not_know_of_stay():
    before = LLAMA | {"model_type": "mistral", "initializer_range": 0.5, "sliding_window": 64}
    model, length = model_config(Fields(before, ""))
    after = settings_of(model, length, before)
    assert (after["initializer_range"], after["sliding_window"]) == (0.5, 64)
    assert after["architectures"] == ["MistralForCausalLM"]


def test_a_window_that_longer_texts_outgrew_is_taken_away():
    for changes in (
        {"model_type": "mistral", "sliding_window": 64},
        {"model_type": "qwen2", "sliding_window": 64, "use_sliding_window": True},
        {"model_type": "qwen3", "sliding_window": 64, "layer_types": ["sliding_attention"]},
    ):
        before = LLAMA | changes
        model, length = model_config(Fields(before, ""))
        assert settings_of(model, length, before)["sliding_window"] == 64
        after = settings_of(model, 128, before)
        assert model_config(Fields(after, ""))[1] == 128
        assert after["model_type"] == changes["model_type"]


def test_kernels_have_no_name_in_the_library(tmp_path):
    folder = models.save(models.build("llama-tied"), tmp_path / "llama")
    checkpoint = hugging_face.read(folder)
    mta = ModelConfig(**vars(checkpoint.model) | {"attention": "mta", "mta": MTAConfig()})
    with pytest.raises(ConfigError, match=r"model.attention mta"):
        hugging_face.write(type(checkpoint)(**vars(checkpoint) | {"model": mta}), tmp_path, None)


def test_begin_and_end_of_a_document_are_what_the_files_say(tmp_path):
    added = [
        {"id": number, "content": name, "special": True}
        for number, name in enumerate(("<a>", "<b>", "<c>"))
    ]
    (tmp_path / "tokenizer.json").write_text(json.dumps({"added_tokens": added}))

    def ends(**config):
        found = tokenizer_files(tmp_path, Fields(config, "config.json"))
        return found.bos_token, found.eos_token

    assert ends() == (None, None)
    assert ends(bos_token_id=2, eos_token_id=[1, 0]) == ("<c>", "<b>")
    # As Qwen's, which have no begin of their own.
    assert ends(eos_token_id=1) == ("<b>", "<b>")
    tokens = {"bos_token": None, "eos_token": {"content": "<a>"}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(tokens))
    assert ends(bos_token_id=2, eos_token_id=1) == ("<c>", "<a>")


def test_a_sentencepiece_model_says_itself_how_documents_begin(tmp_path):
    assert tokenizer_files(tmp_path, Fields({}, "")) is None
    (tmp_path / "tokenizer.model").touch()
    (tmp_path / "tokenizer_config.json").write_text("{}")
    found = tokenizer_files(tmp_path, Fields({"bos_token_id": 1}, ""))
    assert (found.bos_token, found.eos_token) == (None, None)
    assert found.others == (tmp_path / "tokenizer_config.json",)
