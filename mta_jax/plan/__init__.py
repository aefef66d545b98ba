"""`python -m mta_jax.plan`: what a run needs of a TPU slice, before it is paid for.

===================  =============================================================
`compilation`        the real train step through the real compiler, for a slice
                     that is described, not there
`program_text`       what the compiled program runs, and sends between devices
`instructions`       its instructions, with operands and layouts
`product_flops`      FLOPs of its matrix products, which are convolutions there
`instruction_costs`  FLOPs and bytes of each instruction, and its runs
`roofline`           bounds of the step's time, with their assumptions
`search`             other meshes, micro-batches and rematerialisation
`report`             tables and figures
===================  =============================================================
"""
