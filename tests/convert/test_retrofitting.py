import jax.numpy as jnp
import numpy as np
import pytest

from mta_jax.convert import native
from mta_jax.convert.__main__ import main
from mta_jax.interop import hugging_face, lingua
from tests.interop import hugging_face_models as models
from tests.interop import paper_code
from tests.interop.tools import close, our_logits

pytestmark = models.quiet

TOKENS = np.random.default_rng(0).integers(0, 270, (2, 20))
SMALL = ["--mta.pre_kq_kernel_size", "[2, 3]", "--mta.kq_layers", "[1]"]
RETROFIT = ["--retrofit", "mta", *SMALL]


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    folder = tmp_path_factory.mktemp("convert") / "llama"
    return models.save(models.build("llama-tied"), folder)


@pytest.fixture(scope="module")
def ours(llama):
    """The same with multi-token attention, as a folder of weights."""
    folder = llama.parent / "ours"
    arguments = ["--input", llama, "--output", folder, "--tokenizer", "byte", *RETROFIT]
    assert main([str(argument) for argument in arguments]) == 0
    return folder


def run(capsys, *arguments):
    code = main([str(argument) for argument in arguments])
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def test_a_converted_model_computes_what_it_did(llama, ours):
    before, after = hugging_face.read(llama), native.read(ours)
    assert after.model.attention == "mta"
    assert after.model.mta.group_norm is None
    assert after.model.mta.kq_layers == [1]
    close(our_logits(after, jnp.asarray(TOKENS)), our_logits(before, jnp.asarray(TOKENS)))
    for name, array in before.arrays.items():
        assert after.arrays[name].tobytes() == array.tobytes()
    assert "layers.1.attention.post_kq.kernel" in after.arrays


def test_new_parameters_are_named_and_so_is_what_they_change(llama, tmp_path, capsys):
    arguments = ["--input", llama, "--output", tmp_path / "ours", "--tokenizer", "byte"]
    code, out, _ = run(capsys, *arguments, *RETROFIT, "--dry_run")
    assert code == 0
    assert "pre_kq, post_kq in layer 1; pre_head, post_head in layers 0, 1\n" in out
    assert "they change" not in out
    _, out, _ = run(capsys, *arguments, *RETROFIT, "--mta.group_norm", "gate", "--dry_run")
    assert "before it is trained, because of mta.group_norm gate\n" in out
    assert not (tmp_path / "ours").exists()


def test_weights_of_ours_can_be_given_it(llama, tmp_path, capsys):
    plain, mixed = tmp_path / "plain", tmp_path / "mixed"
    arguments = ["--input", llama, "--output", plain, "--tokenizer", "byte"]
    assert run(capsys, *arguments)[0] == 0
    assert run(capsys, "--input", plain, "--output", mixed, *RETROFIT)[0] == 0
    close(
        our_logits(native.read(mixed), jnp.asarray(TOKENS)),
        our_logits(native.read(plain), jnp.asarray(TOKENS)),
    )


def test_the_papers_code_reads_a_retrofitted_model(tmp_path, capsys):
    paper_code.save("transformer", tmp_path / "theirs")
    before = lingua.read(tmp_path / "theirs")
    tokens = TOKENS % before.model.vocab_size
    arguments = ["--input", tmp_path / "theirs", "--output", tmp_path / "mixed", *RETROFIT]
    code, _, error = run(capsys, *arguments, "--mta.kq_layers", "null", "--to", "lingua")
    assert code == 0, error
    after = lingua.read(tmp_path / "mixed")
    assert after.model.attention == "mta"
    close(our_logits(after, jnp.asarray(tokens)), our_logits(before, jnp.asarray(tokens)))


def test_what_cannot_be_retrofitted_is_said_in_a_line(ours, llama, tmp_path, capsys):
    arguments = ["--output", tmp_path / "out", "--tokenizer", "byte"]
    code, _, error = run(capsys, "--input", ours, *arguments, *RETROFIT)
    assert code == 2
    assert error.startswith("mta_jax.convert: error: retrofit mta: model.attention mta: only a")
    code, _, error = run(
        capsys, "--input", llama, *arguments, *RETROFIT, "--mta.pre_head_kernel_size", "3"
    )
    assert code == 2
    assert "retrofit mta: mta.pre_head_kernel_size 3: must divide num_heads 4\n" in error
    with pytest.raises(SystemExit):
        run(capsys, "--input", llama, *arguments, *SMALL)
    assert "mta: has no effect without --retrofit mta\n" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
