"""Weights of other models, made into those of this one."""
