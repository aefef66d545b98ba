"""What several implementations ask of a call.

Each function raises NotImplementedError, naming the argument, where a call does not fit.
"""

import jax.numpy as jnp

from mta_jax.ops.manual_axes import varying_axes
from mta_jax.ops.multi_token_attention.arguments import Arguments


def require_no(args: Arguments, *names: str) -> None:
    """Refuses the arguments of these names where they are given."""
    for name in names:
        if getattr(args, name) is not None:
            raise NotImplementedError(f"{name} is not supported; 'xla_chunked' supports it")


def require_no_mixing(args: Arguments) -> None:
    """Refuses all four mixing steps."""
    require_no(args, "pre_kq_kernel", "pre_head_kernel", "post_kq_kernel", "post_head_kernel")


def require_output_only(args: Arguments) -> None:
    """Refuses calls for attention weights, and dropout on them."""
    if args.return_weights:
        raise NotImplementedError("attention weights are never formed; 'xla' forms them")
    require_no(args, "dropout_key")


def require_causal_attention(args: Arguments) -> None:
    """Refuses all but a causal mask, of whole sequences or packed ones."""
    require_no(args, "mask")
    if not args.is_causal:
        raise NotImplementedError("is_causal=False is not supported; 'xla_chunked' supports it")


def require_causal_self_attention(args: Arguments) -> None:
    """Refuses all but a causal mask over one sequence, whole or packed."""
    require_causal_attention(args)
    if args.query.shape[1] != args.key.shape[1]:
        raise NotImplementedError(
            f"{args.query.shape[1]} queries and {args.key.shape[1]} keys: only equal lengths; "
            "'xla_chunked' has no such limit"
        )
    if not isinstance(args.query_offset, int) or args.query_offset:
        raise NotImplementedError(
            f"query_offset {args.query_offset}: only 0; 'xla_chunked' takes any"
        )
    if args.key_segment_ids is not None and args.key_segment_ids is not args.segment_ids:
        raise NotImplementedError(
            "key_segment_ids: keys have the documents of their queries; 'xla_chunked' has no "
            "such limit"
        )


def require_no_varying_axes(args: Arguments) -> None:
    """Refuses arrays of which `shard_map` keeps track; Pallas kernels do not."""
    if axes := varying_axes(args.query):
        raise NotImplementedError(
            f"shard_map over {', '.join(sorted(axes))} with check_vma=True: this kernel needs "
            "check_vma=False; 'xla_chunked' works with both"
        )


def require_output_of_input_dtype(args: Arguments) -> None:
    """Refuses an output that is wider than the inputs, to which it would be rounded first."""
    inputs = jnp.result_type(args.query, args.key, args.value)
    if jnp.promote_types(inputs, args.output_dtype) != inputs:
        raise NotImplementedError(
            f"out_dtype {jnp.dtype(args.output_dtype)}: this kernel writes {inputs}; 'xla_chunked' "
            "writes any"
        )
