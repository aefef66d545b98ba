"""What is converted, and to what."""

import dataclasses
from typing import Literal

from mta_jax.interop.checkpoint import Format
from mta_jax.models import MTAConfig

_UNCHANGED = MTAConfig(group_norm=None)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConvertConfig:
    """A folder of one format in, a folder of another out."""

    input: str
    """Folder: config.json and safetensors of Hugging Face's Llama, Qwen2, Qwen3 or Mistral;
    params.json and consolidated.pth of the paper's code (lingua); or a run, one of its
    checkpoints, or a folder of weights of ours."""

    output: str
    """Folder to write, a new or an empty one."""

    to: Format = "native"
    """native: a folder of weights, for init_from and for evaluations. hugging_face or lingua:
    as that library reads it."""

    input_format: Format | None = None
    """Format of the input; null: told by the files in it."""

    retrofit: Literal["mta"] | None = None
    """mta: put multi-token attention into a model of ordinary attention; null: nothing."""

    mta: MTAConfig = _UNCHANGED
    """What retrofit puts in. Without group norm, the default here, kernels that start as
    identities leave the model as it is."""

    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    """Dtype of the tensors of hugging_face and lingua; null: the one they came with. Ours are
    always float32."""

    tokenizer: str | None = None
    """byte, or a file, in place of the tokenizer that the input comes with; null: that one."""

    bos_token: str | None = None
    """Token that begins a document, in place of what the input's files say; null: that one."""

    eos_token: str | None = None
    """Token that ends a document, in place of what the input's files say; null: that one."""

    def __post_init__(self) -> None:
        for name in ("input", "output"):
            if not getattr(self, name):
                raise ValueError(f"{name} '': name a folder")
        if self.retrofit is None and self.mta != _UNCHANGED:
            raise ValueError("mta: has no effect without --retrofit mta")
        if self.to == "native" and self.dtype is not None:
            raise ValueError(
                f"dtype {self.dtype}: weights of ours are float32, and model.dtype says what is "
                "computed in; leave it out, or set to"
            )
