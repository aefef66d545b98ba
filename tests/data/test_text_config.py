import re

import pytest

from mta_jax.data import DataConfig, DomainConfig, TextConfig


def domain(**fields):
    return DomainConfig(**{"train": "a.txt"} | fields)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"domains": {}}, "domains {}: name at least one domain"),
        ({"domains": {"a/b": domain()}}, "domains.a/b: a domain's name must have no '/' or"),
        (
            {"domains": {"gates": domain()}},
            "domains.gates: a domain's name must have no '/' or '('",
        ),
        ({"domains": {"a": domain(train=[])}}, "domains.a.train []: name at least one location"),
        ({"domains": {"a": domain(train="")}}, "domains.a.train '': name at least one location"),
        ({"domains": {"a": domain(heldout=[])}}, "domains.a.heldout []: name at least one"),
        ({"domains": {"a": domain(weight=-1.0)}}, "domains.a.weight -1.0: must be at least 0"),
        ({"domains": {"a": domain(weight=float("nan"))}}, "domains.a.weight nan: must be at"),
        ({"domains": {"a": domain(weight=float("inf"))}}, "domains.a.weight inf: must be at"),
        ({"domains": {"a": domain(weight=0.0)}}, "domains: all weights are 0"),
        (
            {"domains": {"a": domain(weight=1.0), "b": domain()}},
            "domains.b.weight null: other domains have weights",
        ),
        ({"sequence_length": 1}, "sequence_length 1: must be at least 2"),
        ({"heldout_fraction": -0.1}, "heldout_fraction -0.1: must be in [0, 0.5]"),
        ({"heldout_fraction": 0.6}, "heldout_fraction 0.6: must be in [0, 0.5]"),
        ({"heldout_rows": 0}, "heldout_rows 0: must be at least 1, or null"),
        ({"shuffle_rows": 0}, "shuffle_rows 0: must be at least 1"),
        ({"shuffle_documents": 0}, "shuffle_documents 0: must be at least 1"),
        ({"max_skipped": 1.5}, "max_skipped 1.5: must be in [0, 1]"),
    ],
)
def test_wrong_field_is_named_with_its_value(fields, message):
    with pytest.raises(ValueError, match=re.escape(f"data.text.{message}")):
        TextConfig(**fields)


def test_a_batch_can_be_given_in_tokens():
    text = TextConfig(sequence_length=2048)
    config = DataConfig(source="text", text=text, batch_tokens=262_144)
    assert config.rows == 128
    assert DataConfig(source="text", text=text, batch_size=3).rows == 3
    with pytest.raises(ValueError, match=r"batch_tokens 1000: must be a multiple of .* 2048"):
        DataConfig(source="text", text=text, batch_tokens=1000)
    with pytest.raises(ValueError, match=r"batch_size 3 and data.batch_tokens 2048: one of them"):
        DataConfig(source="text", text=text, batch_size=3, batch_tokens=2048)
