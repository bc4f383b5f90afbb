"""A trained network in its inference form: `deploy(model)` gives the same answers from fewer and larger operations."""

from pyhar.deploy.network import DeployedSPNet, choose_dtype, deploy

__all__ = ["DeployedSPNet", "choose_dtype", "deploy"]
