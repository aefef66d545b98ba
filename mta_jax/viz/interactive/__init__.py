"""Pictures to move about in: pages of HTML that need no other file."""

from mta_jax.viz.interactive.attention_page import attention_page
from mta_jax.viz.interactive.page import Page

__all__ = ["Page", "attention_page"]
