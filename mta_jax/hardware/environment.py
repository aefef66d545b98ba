"""What compilers for accelerators ask of a process that has none of them."""

ENVIRONMENT = {
    # The device of the process itself; libtpu is used as a compiler only.
    "JAX_PLATFORMS": "cpu",
    # Otherwise libtpu waits for the metadata server of a TPU machine.
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    # Otherwise it refuses a second process, which would be right if it used a TPU.
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    # Otherwise it leaves log files behind.
    "TPU_LOG_DIR": "disabled",
    # CUDA's plugin looks for none, either.
    "CUDA_VISIBLE_DEVICES": "-1",
}
"""What a process that compiles ahead of time needs, set before it imports jax."""
