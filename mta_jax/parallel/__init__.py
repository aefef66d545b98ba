"""Many devices, many processes: the mesh, what is split over which of its axes, attention on it.

=============  ==================================================================
`mesh`         devices as a mesh (data, fsdp, tensor, context)
`rules`        the table: which axis of which array is split over which of these
`attention`    attention on the mesh, exact where heads or rows need each other
`feed`         batches of rows onto the mesh
`processes`    start of many processes, and what they have to agree on
`preemption`   notice that this machine is about to be taken away
=============  ==================================================================
"""
