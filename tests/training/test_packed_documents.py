"""Documents that share a row have the loss that they have alone, whatever the attention."""

import grain
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mta_jax.data import ByteTokenizer
from mta_jax.data.packing import framed, pack, unpack
from mta_jax.models import ModelConfig, MTAConfig
from mta_jax.training.config import TrainConfig
from mta_jax.training.state import make_program
from mta_jax.training.step import make_eval_step

LENGTH = 24
TOKENIZER = ByteTokenizer()
RNG = np.random.default_rng(0)
DOCUMENTS = [framed(RNG.integers(0, 256, size=size), TOKENIZER) for size in (5, 1, 9, 14, 3, 11, 2)]


def program_of(kind):
    # Kernels that reach far, and are not the identity.
    mta = MTAConfig(pre_kq_kernel_size=(3, 5), post_kq_kernel_size=(2, 5), kernel_init="normal")
    model = ModelConfig(
        vocab_size=258, num_layers=2, embed_dim=16, num_heads=4, mlp_dim=32, attention=kind, mta=mta
    )
    return make_program(TrainConfig(model=model))


@pytest.mark.parametrize("packing", ["concat", "best_fit"])
@pytest.mark.parametrize("kind", ["transformer", "mta", "talking_heads", "diff"])
def test_packed_documents_have_the_loss_of_the_documents_alone(kind, packing):
    program = program_of(kind)
    params = program.initial_state()["params"]
    eval_step = make_eval_step(program)
    documents = grain.MapDataset.source(DOCUMENTS).to_iter_dataset()
    rows = list(unpack(pack(documents, LENGTH, packing, seed=0), separate_documents=True))
    shared = 0
    for row in rows:
        packed = eval_step(params, {name: array[None] for name, array in row.items()})
        segments = row["inputs_segment_ids"]
        shared += segments.max() > 1
        for segment in range(1, segments.max() + 1):
            own = np.flatnonzero(segments == segment)
            alone = {
                "inputs": np.zeros((1, LENGTH), np.int32),
                "targets": np.zeros((1, LENGTH), np.int32),
            }
            for name, array in alone.items():
                array[0, : len(own)] = row[name][own]
            expected = eval_step(params, alone)["nll"][0, : len(own)]
            np.testing.assert_allclose(packed["nll"][0, own], expected, rtol=2e-5, atol=2e-5)
    assert shared


@pytest.mark.parametrize("kind", ["transformer", "mta", "talking_heads", "diff"])
def test_without_borders_documents_do_change_each_other(kind):
    program = program_of(kind)
    params = program.initial_state()["params"]
    documents = grain.MapDataset.source(DOCUMENTS).to_iter_dataset()
    nll = []
    for separate in (True, False):
        row = next(
            iter(unpack(pack(documents, LENGTH, "concat", seed=0), separate_documents=separate))
        )
        batch = {name: array[None] for name, array in row.items()}
        nll.append(jax.device_get(make_eval_step(program)(params, batch)["nll"]))
    assert np.max(np.abs(nll[0] - nll[1])) > 1e-3


def test_documents_of_a_row_get_no_gradient_from_each_other():
    program = program_of("mta")
    params = program.initial_state()["params"]
    documents = grain.MapDataset.source(DOCUMENTS).to_iter_dataset()
    row = next(iter(unpack(pack(documents, LENGTH, "concat", seed=0), separate_documents=True)))
    segments = row["inputs_segment_ids"]
    model = program.model(params)

    def second_document(embedded):
        layer_input = embedded
        for block in model.layers:
            layer_input = block(
                layer_input,
                positions=jnp.asarray(row["inputs_positions"])[None],
                segment_ids=jnp.asarray(segments)[None],
                deterministic=True,
            )
        return (layer_input[0, segments == 2] ** 2).sum()

    embedded = model.embedding(jnp.asarray(row["inputs"])[None])
    gradient = np.asarray(jax.grad(second_document)(embedded))[0]
    assert (gradient[segments != 2] == 0).all()
    assert (gradient[segments == 2] != 0).any()
