"""`python -m mta_jax.plan`: what a run needs of a TPU slice, before it is paid for.

================  =============================================================
`compilation`     the real train step through the real compiler, for a slice
                  that is described, not there
`program_text`    what the compiled program sends between devices
`roofline`        bounds of the step's time, with their assumptions
`search`          other meshes, micro-batches and rematerialisation
`report`          tables and figures
================  =============================================================
"""
