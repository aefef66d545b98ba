"""What training changes: parameters, optimiser state and the step."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from mta_jax.data import Tokenizer, tokenizer_for
from mta_jax.errors import ConfigError
from mta_jax.models import ModelConfig, Transformer
from mta_jax.models.rngs import rngs_of
from mta_jax.training.config import TrainConfig
from mta_jax.training.optimizer import make_optimizer
from mta_jax.training.partition import build, partition, together
from mta_jax.training.safety import initial_safety

# The keys 0, 1, 2, ... of the seed are those of the parameters; these are far from them.
DROPOUT_STREAM, SAMPLE_STREAM = 2**31, 2**31 + 1

State = dict[str, Any]
"""``params``, ``opt_state``, ``step``, ``safety`` (see `training.safety`); where the config asks
for it, ``ema``, the moving average of the parameters; and where some parameters are not trained,
``frozen``: these, which are then no part of ``params``. A pytree of plain dictionaries."""


@dataclasses.dataclass(frozen=True)
class Program:
    """The unchanging half of a run: structure without arrays.

    Attributes:
      graphdef: structure of the model; merged with parameters it is the model.
      optimizer: the gradient transformation.
      config: the run's config, with the size of the vocabulary filled in.
    """

    graphdef: nnx.GraphDef
    optimizer: optax.GradientTransformation
    config: TrainConfig

    def model(self, params: Any) -> Transformer:
        """The model with these parameters, all it has."""
        return nnx.merge(self.graphdef, params)

    @property
    def abstract_state(self) -> State:
        """Shapes and dtypes of the state."""
        return jax.eval_shape(self.initial_state)

    def initial_params(self) -> Any:
        """All parameters before the first step. Pure."""
        key = jax.random.key(self.config.seed)
        model = build(self.config, rngs=rngs_of(key))
        return nnx.to_pure_dict(nnx.state(model, nnx.Param))

    def initial_state(self) -> State:
        """The state before the first step. Pure, so it can be traced or shaped."""
        return self.state_of(self.initial_params())

    def state_of(self, params: Any) -> State:
        """The state before the first step, with given parameters, all of them."""
        params, frozen = partition(params, self.config.finetune)
        state = {
            "params": params,
            "opt_state": self.optimizer.init(params),
            "step": jnp.zeros((), jnp.int32),
            "safety": initial_safety(),
        }
        if self.config.optimizer.ema_decay is not None:
            state["ema"] = jax.tree.map(jnp.copy, params)
        if frozen:
            state["frozen"] = frozen
        return state


def evaluated(state: State) -> Any:
    """All parameters to evaluate: of those trained the moving average, where there is one."""
    return together(state.get("ema", state["params"]), state.get("frozen", {}))


def resolve_model(config: TrainConfig) -> ModelConfig:
    """The model config with the tokenizer's vocabulary where none is given.

    Raises:
      ConfigError: where the tokenizer is needed and cannot be opened.
    """
    if config.model.vocab_size is not None:
        return config.model
    return dataclasses.replace(config.model, vocab_size=tokenizer_for(config.data).vocab_size)


def check_vocabulary(program: Program, tokenizer: Tokenizer) -> None:
    """Makes sure that the model has all tokens of a tokenizer.

    Raises:
      ConfigError: where it has fewer.
    """
    given = program.config.model.vocab_size
    if given is None or given < tokenizer.vocab_size:
        raise ConfigError(
            f"model.vocab_size {given}: the tokenizer has {tokenizer.vocab_size:,} tokens"
        )


def make_program(config: TrainConfig) -> Program:
    """Builds the structure of a run without allocating any parameter.

    Raises:
      ConfigError: where the model lacks what the config wants of it.
    """
    config = dataclasses.replace(config, model=resolve_model(config))
    model = nnx.eval_shape(lambda: build(config, rngs=rngs_of(jax.random.key(0))))
    graphdef, params = nnx.split(model)
    # A part that the model lacks is known here.
    partition(nnx.to_pure_dict(params), config.finetune)
    return Program(graphdef, make_optimizer(config.optimizer, config.num_steps), config)
