import dataclasses

import pytest

from mta_jax.training.loop import train
from tests.training.tiny import text_config, toy_config


@pytest.fixture(scope="session")
def runs(tmp_path_factory):
    """A run of each kind on block search, the first with an ugly name, and one on text."""
    folder = tmp_path_factory.mktemp("runs")
    for kind, name in (("mta", "<b>"), ("transformer", "plain")):
        config = toy_config()
        model = dataclasses.replace(config.model, attention=kind)
        train(dataclasses.replace(config, model=model), folder / name, name=kind)
    train(text_config(), folder / "text", name="text")
    return folder
