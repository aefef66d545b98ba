import pytest

from mta_jax.data.tokenizers import load_tokenizer
from mta_jax.data.tokenizers.tiktoken_ranks import VOCABULARIES

from . import makers

KINDS = {
    "byte_level.json": makers.byte_level,
    "llama2_like.json": makers.llama2_like,
    "sentence_piece.model": makers.sentence_piece,
    "ranks.model": makers.small_ranks,
}


@pytest.fixture(scope="session", autouse=True)
def _small_vocabulary():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(VOCABULARIES, makers.RANKS, makers.SMALL)
        yield


@pytest.fixture(scope="session")
def files(tmp_path_factory):
    """Path of a file of each kind."""
    folder = tmp_path_factory.mktemp("tokenizers")
    for name, make in KINDS.items():
        make(folder / name)
    return {name: folder / name for name in KINDS}


@pytest.fixture(scope="session", params=["byte", *KINDS])
def tokenizer(request, files):
    """Every lossless kind of tokenizer."""
    return load_tokenizer(str(files.get(request.param, request.param)))
