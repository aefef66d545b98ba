import json

import jax.numpy as jnp
import numpy as np
import pytest

from mta_jax.benchmark import __main__ as benchmark
from mta_jax.benchmark import attention, torch_attention
from mta_jax.errors import UserError
from mta_jax.ops.multi_token_attention import multi_token_attention

TINY = ["--lengths", "[16, 8]", "--num_heads", "2", "--head_size", "4", "--repeats", "1"]


def test_every_kind_and_implementation_is_measured(tmp_path, capsys):
    path = tmp_path / "figures.json"
    kinds = ["--kinds", "[plain, mta]", "--kq_kernel_size", "[2, 3]", "--json", str(path)]
    assert benchmark.main(["attention", *TINY, *kinds]) == 0
    content = json.loads(path.read_text())
    assert {"device", "python", "jax"} <= set(content["machine"])
    assert content["config"]["kq_kernel_size"] == [2, 3]
    rows = content["measurements"]
    assert [(row["length"], row["kind"], row["implementation"]) for row in rows] == [
        (length, kind, implementation)
        for length in (16, 8)
        for kind in ("plain", "mta")
        for implementation in ("automatic", "xla")
    ]
    assert all(row["gradient_ms"] > 0 and row["gradient_bytes"] > 0 for row in rows)
    output = capsys.readouterr().out
    assert "2 heads of 4" in output
    assert "to plain" in output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "which benchmark?; there are attention, data, decode, faults, step, tpu"),
        (["atention"], "'atention': no such benchmark; did you mean attention?; there are "),
    ],
)
def test_a_benchmark_must_be_named(capsys, arguments, message):
    assert benchmark.main(arguments) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--kinds", "[]"], "kinds []: name at least one"),
        (["--lengths", "[0]"], "lengths [0]: must be at least 1"),
        (["--kq_kernel_size", "[2, 4]"], "kq_kernel_size [2, 4]: both at least 1, the second odd"),
        (["--repeats", "0"], "repeats 0: must be at least 1"),
        (["--dry_run"], "unknown setting 'dry_run'"),
    ],
)
def test_a_mistake_is_one_line(capsys, arguments, message):
    with pytest.raises(SystemExit) as exit_info:
        benchmark.main(["attention", *arguments])
    assert exit_info.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_missing_torch_is_one_line_that_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setattr(torch_attention.importlib.util, "find_spec", lambda name: None)
    assert benchmark.main(["attention", "--torch", "true"]) == 1
    assert "pip install 'mta-jax[bench]'" in capsys.readouterr().err


def test_a_file_that_cannot_be_written_is_named(tmp_path):
    with pytest.raises(UserError, match=r"json .*no/figures\.json: cannot be written"):
        attention.main([*TINY, "--kinds", "[plain]", "--json", str(tmp_path / "no/figures.json")])


@pytest.mark.parametrize("kind", ["plain", "talking_heads", "key_query", "mta"])
def test_torch_computes_the_same(kind):
    # Half a gigabyte that only this comparison needs: the extra `bench`.
    torch = pytest.importorskip("torch")
    config = attention.AttentionBenchmarkConfig(num_heads=2, head_size=4, kq_kernel_size=(2, 3))
    arrays = attention._arrays(config, kind, 12)
    theirs = torch_attention.attend(**{name: torch.tensor(x) for name, x in arrays.items()})
    arrays = {name: jnp.asarray(x) for name, x in arrays.items()}
    ours = multi_token_attention(**arrays, implementation="xla")
    np.testing.assert_allclose(theirs.detach().numpy(), ours, atol=1e-5)
