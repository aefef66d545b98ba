import json

import pytest

from mta_jax.benchmark import data_pipeline
from mta_jax.benchmark.__main__ import main
from mta_jax.benchmark.data_pipeline import DataBenchmarkConfig
from mta_jax.data.sources import Document


@pytest.fixture(autouse=True)
def _short_library(monkeypatch):
    documents = [Document(f"{i}", f"text {i} of some words " * (i % 9 + 1)) for i in range(60)]
    monkeypatch.setattr(data_pipeline.standard_library, "code", lambda: documents)


def test_every_source_and_packing_is_measured(tmp_path, capsys):
    file = tmp_path / "figures.json"
    flags = {"sequence_length": 32, "batch_size": 4, "vocab_size": 300, "seconds": 0.1}
    arguments = [part for name, value in flags.items() for part in (f"--{name}", str(value))]
    assert main(["data", *arguments, "--json", str(file)]) == 0
    rows = json.loads(file.read_text())["measurements"]
    assert [(row["source"], row["packing"]) for row in rows] == [
        (source, packing)
        for source in ("prepared", "bytes", "bpe")
        for packing in ("concat", "best_fit")
    ]
    for row in rows:
        assert row["tokens_per_second"] > 0
        assert row["tokens_per_core_second"] > 0
        # Concatenated rows are full.
        assert (row["padding"] == 0) == (row["packing"] == "concat")
    assert "tokens/s per core" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"sequence_length": 0}, "sequence_length 0: must be at least 1"),
        ({"seconds": 0.0}, "seconds 0.0: must be above 0"),
        ({"sources": []}, "sources \\[\\]: name at least one"),
    ],
)
def test_a_setting_without_meaning_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        DataBenchmarkConfig(**fields)
