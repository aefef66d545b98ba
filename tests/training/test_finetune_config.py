import dataclasses

import pytest

from mta_jax.command_line import parse
from mta_jax.errors import ConfigError
from mta_jax.training.config import TrainConfig
from mta_jax.training.finetune_config import FinetuneConfig, LoraConfig
from mta_jax.training.state import make_program
from tests.training.tiny import toy_config


def parsed(*arguments):
    return parse(TrainConfig, arguments, prog="x", description="")[0].finetune


def test_what_a_user_types_is_understood():
    assert parsed() == FinetuneConfig()
    assert parsed("--finetune.train", "mixing").parts == ["mixing"]
    assert parsed("--finetune.train", "[mixing, norms]").parts == ["mixing", "norms"]
    assert parsed("--init_from", "a", "--finetune.retrofit").retrofit
    lora = parsed("--finetune.train", "none", "--finetune.lora.rank", "8").lora
    assert lora == LoraConfig(rank=8)
    names = ("--finetune.lora.projections", "[query_proj, up_proj]")
    assert parsed(*names).lora.projections == ["query_proj", "up_proj"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--finetune.train", "kernels"], "finetune.train"),
        (["--finetune.train", "[]"], "finetune.train []: name at least one part, each once"),
        (["--finetune.train", "[mlp, mlp]"], "name at least one part, each once"),
        (["--finetune.train", "[all, mlp]"], "finetune.train all, mlp: all and none stand alone"),
        (["--finetune.train", "none"], "finetune.train none: trains nothing; name a part, or set"),
        (["--finetune.lora.rank", "0"], "finetune.lora.rank 0: must be at least 1, or null"),
        (["--finetune.lora.alpha", "0"], "finetune.lora.alpha 0.0: must be above 0"),
        (["--finetune.lora.projections", "[]"], "finetune.lora.projections []: name at least one"),
        (["--finetune.lora.projections", "[wq]"], "finetune.lora.projections"),
        (
            ["--finetune.lora.rank", "8"],
            "finetune.lora.rank 8: finetune.train all trains query_proj itself; leave one",
        ),
        (
            ["--finetune.train", "[mixing, mlp]", "--finetune.lora.rank", "8"],
            "finetune.lora.rank 8: finetune.train mixing, mlp trains gate_proj itself",
        ),
        (["--finetune.retrofit"], "finetune.retrofit true: init_from must name the model"),
    ],
)
def test_a_mistake_is_one_line_that_names_the_setting(arguments, message, capsys):
    with pytest.raises(SystemExit) as caught:
        parsed(*arguments)
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_part_that_the_model_lacks_is_named():
    config = toy_config(finetune=FinetuneConfig(train=["norms", "mixing"]))
    model = dataclasses.replace(config.model, attention="transformer")
    with pytest.raises(ConfigError, match=r"finetune.train mixing: the model has no such param"):
        make_program(dataclasses.replace(config, model=model))


def test_a_rank_above_the_width_of_a_projection_is_named():
    finetune = FinetuneConfig(train="none", lora=LoraConfig(rank=17))
    with pytest.raises(ConfigError, match=r"finetune.lora.rank 17: must be in 1..16, the width"):
        make_program(toy_config(finetune=finetune))
