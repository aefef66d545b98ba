import socket

import pytest

from mta_jax.evaluate.config import EvaluateConfig
from mta_jax.evaluate.text_model import models_of
from mta_jax.training.loop import train
from tests.training.tiny import text_config


@pytest.fixture(autouse=True)
def no_network(monkeypatch, tmp_path):
    """Whatever asks for the network fails, and so does the test."""

    def refuse(*_, **__):
        raise OSError("the network is not to be used")

    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    # Of what is imported already, and of what is not.
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):
        monkeypatch.setenv(name, "1")


@pytest.fixture(scope="package")
def run(tmp_path_factory):
    """A finished run; its model reads 64 tokens."""
    folder = tmp_path_factory.mktemp("lm_eval") / "run-0"
    train(text_config(), folder, name="lm")
    return folder


@pytest.fixture(scope="package")
def model(run):
    (model,) = models_of(EvaluateConfig(checkpoint=str(run), batch_size=3))
    return model
