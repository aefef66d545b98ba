import dataclasses
import json

import pytest

from mta_jax.data import DomainConfig
from mta_jax.errors import ConfigError
from mta_jax.training.changed_data import change_of_data
from mta_jax.training.config import CheckpointConfig
from mta_jax.training.loop import train
from tests.training.tiny import text_config

ONE = {"files": 3, "bytes": 2000, "documents": 10, "digest": "abcdefghij"}
LESS = {"files": 2, "bytes": 1000, "documents": None, "digest": "bcdefghijk"}


def test_equal_data_has_not_changed():
    assert change_of_data({"wiki": ONE}, {"wiki": dict(ONE)}) is None


@pytest.mark.parametrize(
    ("now", "message"),
    [
        (
            {"wiki": LESS},
            "wiki was 10 documents, 3 files of 2,000 .* and is 2 files of 1,000",
        ),
        ({}, "wiki was there then"),
        ({"wiki": ONE, "code": ONE}, "code was not there then"),
    ],
)
def test_what_has_changed_is_named(now, message):
    from re import search

    assert search(message, change_of_data({"wiki": ONE}, now) or "")


def test_another_tokenizer_is_named():
    then, now = ({"tokenizer": {"digest": digest}} for digest in "ab")
    assert "the tokenizer is another one" in (change_of_data(then, now) or "")


def test_a_folder_that_shrank_is_refused_and_the_run_goes_on_when_it_is_back(tmp_path):
    folder = tmp_path / "text"
    folder.mkdir()
    for name in "abcdef":
        (folder / f"{name}.jsonl").write_text(json.dumps({"text": name * 300}) + "\n")
    config = text_config(checkpoint=CheckpointConfig(every=2), num_steps=4)
    text = dataclasses.replace(
        config.data.text, domains={"mine": DomainConfig(train=str(folder))}, heldout_fraction=0.2
    )
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, text=text))
    before = train(config, tmp_path / "run", name="lm")
    (folder / "c.jsonl").rename(tmp_path / "c.jsonl")
    with pytest.raises(ConfigError, match=r"mine was 6 documents, 6 files .* now; restore what"):
        train(config, tmp_path / "run", name="lm")
    (tmp_path / "c.jsonl").rename(folder / "c.jsonl")
    assert train(config, tmp_path / "run", name="lm").rows == before.rows
