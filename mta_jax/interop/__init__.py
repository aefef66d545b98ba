"""Weights of other models and libraries, made into those of this one, and back."""
