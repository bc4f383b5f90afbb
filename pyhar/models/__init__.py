"""The network: `SPNet(config)`, its configuration and presets, and its files."""

from pyhar.models.config import PRESETS, Cut, SPNetConfig, get_preset
from pyhar.models.io import ModelMeta, load_model, save_model
from pyhar.models.spnet import BlockMaps, SPNet, SPNetOutput

__all__ = [
    "PRESETS",
    "BlockMaps",
    "Cut",
    "ModelMeta",
    "SPNet",
    "SPNetConfig",
    "SPNetOutput",
    "get_preset",
    "load_model",
    "save_model",
]
