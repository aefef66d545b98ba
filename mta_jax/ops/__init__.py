"""Pure functions on arrays: the mathematics, without parameters or state."""
