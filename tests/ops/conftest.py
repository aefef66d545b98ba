import jaxtyping
import pytest


@pytest.fixture
def unchecked_shapes(monkeypatch):
    """Lets wrong arguments through to the checks that users meet.

    Where the package is imported with shape checking, as here, that would refuse them
    first.
    """
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
