import pytest

from mta_jax.data.haystack import load_haystack
from mta_jax.data.tokenizers import load_tokenizer, train_bpe

SENTENCES = [
    f"Sentence {number} of this text says {'very ' * (number % 7)}little, as others do."
    for number in range(400)
]


@pytest.fixture(scope="session")
def haystack_file(tmp_path_factory):
    """A text in whose sentences nothing happens, and some of which are too short."""
    file = tmp_path_factory.mktemp("haystack") / "text.txt"
    file.write_text(" ".join([*SENTENCES, "Short.", "No."]))
    return str(file)


@pytest.fixture(scope="session")
def haystack(haystack_file):
    return load_haystack([haystack_file], setting="haystack")


@pytest.fixture(scope="session")
def bpe(tmp_path_factory):
    """A tokenizer whose tokens have several letters."""
    path = tmp_path_factory.mktemp("bpe") / "tokenizer.json"
    train_bpe(SENTENCES, 400, path)
    return load_tokenizer(str(path))


@pytest.fixture
def folder(tmp_path):
    """With the test stories of QA1, of which there are three."""
    (tmp_path / "qa1_single-supporting-fact_test.txt").write_text(
        "1 Mary moved to the office.\n"
        "2 Where is Mary? \toffice\t1\n"
        "3 John went to the garden.\n"
        "4 Where is John?\tgarden\t3\n"
        "1 Mary went to the kitchen.\n"
        "2 Where is Mary? \tkitchen\t1\n"
    )
    return tmp_path
