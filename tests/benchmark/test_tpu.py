import dataclasses
import importlib.util
import json
import subprocess

import pytest

from mta_jax.benchmark import compiler_process, tpu
from mta_jax.benchmark.compiler_process import OutOfMemoryError
from mta_jax.benchmark.schedule import HotPath
from mta_jax.benchmark.tpu import TpuBenchmarkConfig, main
from mta_jax.benchmark.tpu_compile import Compiled, PallasKernel, compile_in_subprocess
from mta_jax.benchmark.tpu_cycles import ratio, rows_of, xla_cycles
from mta_jax.benchmark.tpu_kernels import KERNELS, Tile
from mta_jax.errors import UserError
from mta_jax.hardware import topologies

V6E = topologies.TOPOLOGIES["v6e"]
SHAPES = TpuBenchmarkConfig(num_heads=2, length=1024).shapes("v6e")
CAUSAL_BLOCKS = 2 * 1024 * 1025 / 2 / 128**2

HAS_LIBTPU = importlib.util.find_spec("libtpu") is not None


def compiled(cycles, step_cycles=0.0, diagonal=0, certain=True, steps=5):
    """A program with a main kernel of 256 x 256 tiles, and one that prepares."""
    main_path = HotPath(cycles, step_cycles, 10, (cycles, diagonal), 0, certain)
    preparing = HotPath(60, 12.0, steps, (), 0, True)
    tile = Tile("forward", 1, 256, 256, runs=(6, 4), rows=0, steps=10)
    return Compiled(
        temp_bytes=3 * 2**20,
        xla_bytes=2**30,
        pallas_kernels=[
            PallasKernel(name="prepare.1", tile=None, hot_path=preparing),
            PallasKernel(name="main.1", tile=tile, hot_path=main_path),
        ],
    )


def test_cycles_are_per_block_of_logits():
    preparing, attention = rows_of(compiled(400, 20.0, diagonal=600), SHAPES, V6E)
    assert (attention.role, attention.cycles, attention.step_cycles) == ("forward", 100, 5)
    assert attention.regions == (100, 150)
    whole = 2 * (6 * 400 + 4 * 600 + 10 * 20) / CAUSAL_BLOCKS
    assert attention.whole == pytest.approx(whole)
    assert preparing.role is None
    assert preparing.whole == pytest.approx(5 * (60 + 12) / CAUSAL_BLOCKS)


def test_a_kernel_with_other_regions_than_its_source_has_no_whole():
    program = compiled(400)
    path = dataclasses.replace(program.pallas_kernels[1].hot_path, regions=(400,))
    kernel = dataclasses.replace(program.pallas_kernels[1], hot_path=path)
    (row,) = rows_of(dataclasses.replace(program, pallas_kernels=[kernel]), SHAPES, V6E)
    assert (row.cycles, row.whole) == (100, None)


def test_a_preparation_of_unknown_length_has_no_cycles_and_no_ratio():
    rows = rows_of(compiled(400, steps=None), SHAPES, V6E)
    assert rows[0].whole is None
    assert ratio([row.whole for row in rows], [rows[1].whole]) is None


def test_steps_of_every_core_count():
    two_cores = dataclasses.replace(V6E, cores=2)
    one, two = (rows_of(compiled(400), SHAPES, chip)[0].whole for chip in (V6E, two_cores))
    assert two == 2 * one


def test_bytes_outside_kernels_take_their_time_at_full_bandwidth():
    chip = dataclasses.replace(V6E, bandwidth=2.0**30, clock=1e9)
    assert xla_cycles(compiled(400), SHAPES, chip) == pytest.approx(1e9 / CAUSAL_BLOCKS)
    no_kernel = dataclasses.replace(compiled(400), pallas_kernels=[])
    assert xla_cycles(no_kernel, SHAPES, chip) is None


def test_a_ratio_is_of_sums():
    assert ratio([6.0, 3.0], [4.0]) == 2.25
    assert ratio([6.0], []) is None


def complaint(capsys, *arguments):
    """The one line that a mistake prints."""
    with pytest.raises(SystemExit) as exit_info:
        main(list(arguments))
    assert exit_info.value.code == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.count("\n") == 1
    return output.err.removeprefix("python -m mta_jax.benchmark tpu: error: ").strip()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--kernels", "[splash, flash]"], "kernels flash: must be among"),
        (["--kernels", "[]"], "kernels []: name at least one"),
        (["--topologies", "[v5e, v5e]"], "topologies ['v5e', 'v5e']: name at least one, each once"),
        (["--topologies", "[v9]"], "topologies v9: expected a list of v5e | v5p | v6e"),
        (["--length", "100"], "length 100: must be a multiple of 128"),
        (["--head_size", "0"], "head_size 0: must be at least 1"),
        (["--timeout", "0"], "timeout 0.0: must be above 0"),
        (["--heads", "3"], "unknown setting 'heads'"),
    ],
)
def test_a_mistake_is_one_line(capsys, arguments, message):
    assert complaint(capsys, *arguments).startswith(message)


@pytest.fixture
def compiles(monkeypatch):
    """Lets the command run without a compiler, on results by kernel."""
    results = {}

    def fake(kernel, topology, shapes, *, timeout):
        if isinstance(results[kernel], Exception):
            raise results[kernel]
        return results[kernel]

    monkeypatch.setattr(tpu, "check_libtpu", lambda: None)
    monkeypatch.setattr(tpu, "compile_in_subprocess", fake)
    versions = {"jax": "1.2", "libtpu": "3.4"}
    monkeypatch.setattr("importlib.metadata.version", versions.__getitem__)
    return results


def test_the_report_compares_with_splash_on_the_same_tpu(compiles, capsys, monkeypatch, tmp_path):
    monkeypatch.setitem(KERNELS, "ours", KERNELS["splash"])
    compiles |= {
        "splash": compiled(400, diagonal=400),
        "ours": compiled(1000, diagonal=1200, certain=False),
    }
    file = tmp_path / "figures.json"
    arguments = ["--kernels", "[splash, ours]", "--topologies", "[v6e]", "--json", str(file)]
    assert main(arguments) == 0
    out = " ".join(capsys.readouterr().out.split())
    for expected in (
        "jax 1.2",
        "libtpu 3.4",
        "length 4096",
        "bfloat16",
        "~250.0",
        "2.70",
        "3.00 MiB",
    ):
        assert expected in out
    assert "main.1 on v6e: its tiles and other parts take 250.0, 300.0 cycles" in out
    assert "DMA waits" in out
    content = json.loads(file.read_text())
    assert (content["jax"], content["libtpu"], content["num_heads"]) == ("1.2", "3.4", 16)
    ours = content["programs"][1]
    assert (ours["kernel"], ours["topology"]) == ("ours", "v6e")
    assert [row["vs_splash"] for row in ours["pallas_kernels"]] == [None, pytest.approx(2.7)]
    assert ours["xla_bytes_accessed"] == 2**30


def test_too_little_memory_is_a_finding_and_no_failure(compiles, capsys):
    compiles |= {"splash": compiled(400), "xla": OutOfMemoryError("needs 18.60G of 15.75G hbm")}
    assert main(["--topologies", "[v5e]", "--kernels", "[splash, xla]"]) == 0
    assert "xla on v5e: needs 18.60G of 15.75G hbm" in capsys.readouterr().out


def test_what_does_not_compile_fails_after_the_report(compiles, capsys):
    compiles |= {"splash": UserError("head size 3 is odd"), "xla": compiled(400)}
    assert main(["--topologies", "[v5e]", "--kernels", "[splash, xla]"]) == 1
    out = capsys.readouterr().out
    assert "splash on v5e: head size 3 is odd" in out
    assert "100.0" in out


def test_a_json_file_in_no_folder_is_refused_before_anything_is_compiled(compiles, tmp_path):
    with pytest.raises(UserError, match="there is no such folder"):
        main(["--json", str(tmp_path / "no" / "file.json")])


def test_a_missing_compiler_is_one_line_that_says_what_to_install(monkeypatch):
    monkeypatch.setattr(topologies.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'mta-jax\[tpu\]'"):
        main([])
    with pytest.raises(UserError, match="pip install"):
        topologies.abstract_mesh("v5e")


def test_a_compiler_that_takes_too_long_or_dies_is_reported(monkeypatch):
    def too_long(*args, timeout, **kwargs):
        raise subprocess.TimeoutExpired("python", timeout)

    monkeypatch.setattr(compiler_process.subprocess, "run", too_long)
    with pytest.raises(UserError, match="not compiled within 5 seconds"):
        compile_in_subprocess("splash", "v5e", SHAPES, timeout=5.0)

    def dies(*args, **kwargs):
        return subprocess.CompletedProcess("python", -6, stderr="a\nFatal: so it ends\n")

    monkeypatch.setattr(compiler_process.subprocess, "run", dies)
    with pytest.raises(UserError, match="ended with -6: Fatal: so it ends"):
        compile_in_subprocess("splash", "v5e", SHAPES, timeout=5.0)


@pytest.mark.aot
@pytest.mark.skipif(not HAS_LIBTPU, reason="needs libtpu: pip install 'mta-jax[tpu]'")
@pytest.mark.parametrize(
    ("topology", "forward", "backward"), [("v5e", 75.6, 163.5), ("v6e", 51.4, 91.7)]
)
def test_splash_takes_the_cycles_it_is_known_to_take(topology, forward, backward, tmp_path):
    """The figures are those of jax 0.12.0 and libtpu 0.0.52."""
    config = TpuBenchmarkConfig(num_heads=2, length=1024, direction="forward+backward")
    program = compile_in_subprocess("splash", topology, config.shapes(topology), timeout=300.0)
    rows = rows_of(program, config.shapes(topology), topologies.TOPOLOGIES[topology])
    assert [row.role for row in rows] == ["forward", "backward"]
    assert [row.cycles for row in rows] == pytest.approx([forward, backward], rel=0.1)
    assert all(row.certain and 0 < row.step_cycles < 0.5 * row.cycles for row in rows)
    assert program.temp_bytes < 2**27
    assert program.xla_bytes > 0


@pytest.mark.aot
@pytest.mark.skipif(not HAS_LIBTPU, reason="needs libtpu: pip install 'mta-jax[tpu]'")
@pytest.mark.parametrize("kernel", ["splash", "pallas_tpu_head_mixing", "pallas_tpu_full"])
def test_regions_of_kernels_are_those_of_the_source_with_documents_told_apart(kernel):
    config = TpuBenchmarkConfig(num_heads=2, length=512, direction="forward+backward")
    shapes = dataclasses.replace(config.shapes("v6e"), segments=True)
    rows = rows_of(compile_in_subprocess(kernel, "v6e", shapes, timeout=600.0), shapes, V6E)
    assert {row.role for row in rows} == {"forward", "backward"}
    assert all(row.whole is not None for row in rows)


@pytest.mark.aot
@pytest.mark.skipif(not HAS_LIBTPU, reason="needs libtpu: pip install 'mta-jax[tpu]'")
def test_what_a_kernel_refuses_is_one_line():
    single = dataclasses.replace(SHAPES, dtype="float32")
    with pytest.raises(UserError, match="float32") as error:
        compile_in_subprocess("splash", "v5e", single, timeout=300.0)
    assert "\n" not in str(error.value)
