import importlib.util
import json
import textwrap

import pytest

from mta_jax.benchmark import __main__ as benchmark
from mta_jax.benchmark import step
from mta_jax.benchmark.compiler_process import OutOfMemoryError
from mta_jax.benchmark.schedule import HotPath
from mta_jax.benchmark.step_compile import StepProgram, compile_step
from mta_jax.benchmark.step_kernels import kernel_times, label_of
from mta_jax.benchmark.tpu_compile import Compiled, PallasKernel
from mta_jax.benchmark.tpu_kernels import KERNELS, Shapes
from mta_jax.errors import UserError
from mta_jax.hardware.topologies import TOPOLOGIES
from mta_jax.models.flops import flops_per_token
from mta_jax.plan.instruction_costs import Cost

V6E = TOPOLOGIES["v6e"]
SHAPES = Shapes(
    num_heads=2,
    length=256,
    head_size=128,
    dtype="bfloat16",
    direction="forward+backward",
    device_kind=V6E.device_kind,
    segments=True,
)
# What splash runs for two heads of one tile.
FORWARD, BACKWARD = (HotPath(cycles, 0.0, 1, (cycles,), 0, True) for cycles in (1750, 3500))

MODEL = """
    run_dir: runs/tiny
    model:
      vocab_size: 512
      num_layers: 2
      embed_dim: 256
      num_heads: 2
      attention: KIND
      dtype: bfloat16
      remat: full
      scan_layers: true
    data:
      source: text
      batch_size: 8
      text:
        domains:
          code: {train: "python:code"}
    """


@pytest.fixture
def configs(tmp_path):
    """Tiny runs, by a name that stands for all kinds."""
    for kind in ("transformer", "talking_heads", "mta"):
        text = textwrap.dedent(MODEL).replace("KIND", kind)
        (tmp_path / f"tiny_{kind}.yaml").write_text(text)
    return str(tmp_path / "tiny_{kind}.yaml")


def cost(name, role="computation", **fields):
    nothing = {"opcode": "fusion", "op_name": "", "runs": 1, "flops": 0, "bytes": 0.0}
    return Cost(name=name, role=role, **{**nothing, "cycles": None, **fields})


COSTS = [
    cost("splash_mha_fwd_segmented_residuals.2", "kernel", runs=2),
    cost("splash_mha_fwd_segmented_residuals.7", "kernel", runs=2),
    cost("splash_mha_dkv_segmented_no_residuals.1", "kernel", runs=2),
    # 10 and 20 ms, the second by its bytes.
    cost("product", flops=round(918e10), cycles=35_000_000, op_name="jit(train_step)/jvp()/dot"),
    cost(
        "copy.1",
        opcode="copy",
        runs=4,
        bytes=V6E.bandwidth * 5e-3,
        cycles=1_750_000,
        op_name="jit(train_step)/transpose(jvp())/while/body/shard_map/transpose",
    ),
    cost("moved", "transfer", bytes=V6E.bandwidth * 1e-3),
    cost("sent", "network"),
]


@pytest.fixture
def compiles(monkeypatch):
    """Lets the command run without a compiler, on results by kind."""
    program = StepProgram(costs=COSTS, bytes_sent=round(V6E.link_bandwidth * 2e-3))
    results = {"transformer": program, "talking_heads": program, "mta": program}

    def fake_step(arguments, topology, *, timeout):
        kind = next(kind for kind in results if kind in arguments[1])
        if isinstance(results[kind], Exception):
            raise results[kind]
        return results[kind]

    monkeypatch.setattr(step, "check_libtpu", lambda: None)
    monkeypatch.setattr(step, "compile_step", fake_step)
    monkeypatch.setattr(step, "compile_in_subprocess", lambda *args, **kwargs: compiled_splash())
    versions = {"jax": "1.2", "libtpu": "3.4"}
    monkeypatch.setattr("importlib.metadata.version", versions.__getitem__)
    return results


def compiled_splash():
    tiles = KERNELS["splash"](SHAPES).tiles
    kernels = [
        PallasKernel(
            name="jvp_splash_mha_fwd_segmented_residuals_.1",
            tile=tiles["splash_mha_fwd"],
            hot_path=FORWARD,
        ),
        PallasKernel(
            name="transpose_jvp_splash_mha_dkv_segmented_no_residuals__.1",
            tile=tiles["splash_mha_dkv"],
            hot_path=BACKWARD,
        ),
    ]
    return Compiled(temp_bytes=0, xla_bytes=0, pallas_kernels=kernels)


def test_instructions_and_compiled_kernels_have_the_same_labels():
    names = ["mta_full_forward.12", "jvp_mta_full_forward_.1", "transpose_jvp_mta_full_forward__.3"]
    assert {label_of(name) for name in names} == {"mta_full_forward"}


def test_a_kernel_takes_its_cycles_for_every_head():
    labels = {label_of(c.name) for c in COSTS if c.role == "kernel"}
    times = kernel_times(labels, SHAPES, V6E, lambda kernel: compiled_splash())
    assert {time.role: time.seconds for time in times.values()} == pytest.approx(
        {"forward": 2 * 1e-6, "backward": 2 * 2e-6}
    )


def test_a_kernel_of_unknown_cycles_is_a_mistake():
    with pytest.raises(UserError, match="Pallas kernel other are not known"):
        kernel_times({"other"}, SHAPES, V6E, lambda kernel: compiled_splash())


def test_a_step_is_kernels_as_often_as_they_run_and_the_rest(compiles, configs, capsys, tmp_path):
    compiles["mta"] = StepProgram(costs=[*COSTS, COSTS[4]], bytes_sent=0)
    file = tmp_path / "figures.json"
    arguments = ["--configs", configs, "--topologies", "[v6e]", "--kinds", "[transformer, mta]"]
    # All kernels of both are splash's here, which have no kernel of their own for mixing.
    sizes = ["--rows", "3", "--length", "256", "--groups", "1"]
    mta = tmp_path / "tiny_mta.yaml"
    mta.write_text(mta.read_text().replace("mta", "mta\n  mta: {kq_layers: [1]}"))
    assert benchmark.main(["step", *arguments, *sizes, "--json", str(file)]) == 0
    content = json.loads(file.read_text())
    assert (content["jax"], content["libtpu"], content["config"]["rows"]) == ("1.2", "3.4", 3)
    transformer, mta = content["steps"]
    # Twice in each of two loops, for three sequences.
    kernels = {kernel["role"]: kernel for kernel in transformer["kernels"]}
    assert (kernels["forward"]["runs"], kernels["backward"]["runs"]) == (4, 2)
    assert kernels["forward"]["ms"] == pytest.approx(4 * 3 * 2e-3)
    assert kernels["backward"]["ms"] == pytest.approx(2 * 3 * 4e-3)
    assert transformer["roofline"]["rest_ms"] == pytest.approx(10 + 20)
    assert transformer["roofline"]["around_attention_ms"] == pytest.approx(20)
    assert transformer["roofline"]["step_ms"] == pytest.approx(30 + 0.048)
    assert transformer["compiler"]["rest_ms"] == pytest.approx(20 + 4)
    assert transformer["hbm_traffic_ms"] == pytest.approx(21)
    assert transformer["network_ms"] == pytest.approx(2)
    assert mta["roofline"]["times_transformer"] == pytest.approx(50.048 / 30.048)
    model = step.read_config(["--config", configs.replace("{kind}", "transformer")]).model
    flops = 3 * 256 * flops_per_token(model, 256).training
    assert transformer["roofline"]["model_flops_utilisation"] == pytest.approx(
        flops / (0.030048 * 918e12)
    )
    assert mta["groups"][0]["operation"] == "transpose(jvp())/shard_map/transpose"
    captured = capsys.readouterr()
    out = " ".join(captured.out.split())
    for expected in (
        "train step on v6e",
        "jax 1.2",
        "1.67",
        "Nothing was run",
        "copy of transpose",
    ):
        assert expected in out
    assert "compiling the train step of mta for v6e" in captured.err


def test_too_little_memory_is_a_finding_and_other_failures_are_failures(compiles, configs, capsys):
    arguments = ["step", "--configs", configs, "--topologies", "[v5e]", "--length", "256"]
    compiles["talking_heads"] = OutOfMemoryError("needs 18.60G of 15.75G hbm")
    assert benchmark.main([*arguments, "--kinds", "[transformer, talking_heads]"]) == 0
    assert "talking_heads on v5e: needs 18.60G of 15.75G hbm" in capsys.readouterr().out
    compiles["transformer"] = UserError("not compiled within 5 seconds")
    assert benchmark.main([*arguments, "--kinds", "[transformer]"]) == 1
    assert "transformer on v5e: not compiled" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--kinds", "[]"], "kinds []: name at least one, each once"),
        (["--kinds", "[diff]"], "kinds diff: expected a list of transformer | talking_heads | mta"),
        (["--topologies", "[v5e, v5e]"], "topologies ['v5e', 'v5e']: name at least one, each once"),
        (["--configs", "a.yaml"], "configs a.yaml: must have {kind} where the kind of attention"),
        (["--rows", "0"], "rows 0: must be at least 1"),
        (["--length", "100"], "length 100: must be a multiple of 128"),
        (["--groups", "-1"], "groups -1: must be at least 0"),
        (["--timeout", "0"], "timeout 0.0: must be above 0"),
        (["--head", "3"], "unknown setting 'head'"),
        (["--configs", "no/{kind}.yaml"], "config no/transformer.yaml"),
    ],
)
def test_a_mistake_is_one_line(capsys, monkeypatch, arguments, message):
    monkeypatch.setattr(step, "check_libtpu", lambda: None)
    with pytest.raises(SystemExit) as exit_info:
        benchmark.main(["step", *arguments])
    assert exit_info.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert message in error


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("attention: mta", "attention: transformer", "attention transformer: must be mta"),
        ("attention: mta", "attention: mta\n  mta: {pre_kq_kernel_size: [4, 5]}", "[6, 11]"),
        ("attention: mta", "attention: mta\n  mta: {post_head_kernel_size: 1}", "must be all"),
        ("num_heads: 2", "num_heads: 2\n  num_kv_heads: 1", "must be null or num_heads"),
    ],
)
def test_a_model_of_unknown_cycles_is_refused(
    configs, compiles, tmp_path, capsys, before, after, message
):
    file = tmp_path / "tiny_mta.yaml"
    file.write_text(file.read_text().replace(before, after))
    arguments = ["step", "--configs", configs, "--kinds", "[mta]", "--length", "256"]
    assert benchmark.main(arguments) == 2
    error = capsys.readouterr().err
    assert f"configs {file}: model." in error
    assert message in error


@pytest.mark.aot
@pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="needs libtpu: pip install 'mta-jax[tpu]'"
)
def test_the_products_of_a_compiled_step_are_those_of_the_model(configs, tmp_path):
    file = tmp_path / "figures.json"
    arguments = ["--configs", configs, "--topologies", "[v6e]", "--kinds", "[transformer]"]
    arguments += ["--rows", "2", "--length", "256", "--timeout", "600", "--json", str(file)]
    assert benchmark.main(["step", *arguments]) == 0
    (found,) = json.loads(file.read_text())["steps"]
    runs = {kernel["role"]: kernel["runs"] for kernel in found["kernels"]}
    # Each layer forward twice.
    assert runs == {"forward": 4, "backward": 2}
    config = step.read_config(["--config", configs.replace("{kind}", "transformer")])
    flops = flops_per_token(config.model, 256)
    # All products of layers are computed four times, but for the last, whose result no gradient
    # needs again; the logits three times.
    layers = 4 * (flops.projections + flops.feed_forward) - flops.feed_forward / 3
    expected = 2 * 256 * (layers + 3 * flops.output_layer)
    assert found["product_flops_outside_kernels"] == pytest.approx(expected, rel=0.01)
    assert 0 < found["roofline"]["rest_ms"] < found["compiler"]["rest_ms"]


@pytest.mark.aot
@pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="needs libtpu: pip install 'mta-jax[tpu]'"
)
def test_a_step_that_cannot_be_split_is_one_line(configs):
    arguments = ["--config", configs.replace("{kind}", "transformer"), "--mesh.fsdp", "3"]
    with pytest.raises(UserError, match="mesh data 1 x fsdp 3") as error:
        compile_step(arguments, "v6e", timeout=300.0)
    assert "\n" not in str(error.value)
