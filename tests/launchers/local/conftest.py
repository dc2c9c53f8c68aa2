"""The small application that the tests of the local launcher run."""

from small_hydra_app import app

__all__ = ["app"]
