import json

import pytest

from mta_jax.benchmark.__main__ import main
from mta_jax.benchmark.decode import DecodeBenchmarkConfig

TINY = [
    *("--model.num_layers", "1", "--model.embed_dim", "32", "--model.num_heads", "2"),
    *("--model.mlp_dim", "32", "--model.vocab_size", "64", "--model.mta.kq_layers", "null"),
    *("--contexts", "[16, 32]", "--num_tokens", "2", "--repeats", "1"),
]


def test_every_kind_and_context_is_a_row_beside_the_transformers(tmp_path, capsys):
    file = tmp_path / "figures.json"
    assert main(["decode", *TINY, "--kinds", "[transformer, mta]", "--json", str(file)]) == 0
    rows = json.loads(file.read_text())["measurements"]
    found = [(row["kind"], row["context"]) for row in rows]
    assert sorted(found) == [("mta", 16), ("mta", 32), ("transformer", 16), ("transformer", 32)]
    sizes = {(row["kind"], row["context"]): row["cache_bytes"] for row in rows}
    # Keys and values of 32 features, float32; MTA keeps ten queries besides.
    assert sizes["transformer", 32] == 2 * 32 * 32 * 4
    assert sizes["mta", 32] == sizes["transformer", 32] + 10 * 32 * 4
    assert all(row["token_ms"] > 0 for row in rows)
    assert "to transformer" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"repeats": 0}, "repeats 0: must be at least 1"),
        ({"kinds": []}, r"kinds \[\]: name at least one"),
        ({"contexts": [8]}, "contexts 8: must be above num_tokens 8"),
    ],
)
def test_a_setting_without_meaning_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        DecodeBenchmarkConfig(**fields)
