"""What attention costs: measured on the device there is, estimated for a TPU without one."""
