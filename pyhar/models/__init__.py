"""The network: `SPNet(config)`, its configuration and presets, and its files."""

from pyhar.models.action import ActionInput
from pyhar.models.config import PRESETS, Cut, SPNetConfig, get_preset
from pyhar.models.io import ModelMeta, load_model, save_model
from pyhar.models.prediction import BlockMaps
from pyhar.models.spnet import SPNet
from pyhar.models.two_parts import FrameFeatures, SPNetOutput

__all__ = [
    "PRESETS",
    "ActionInput",
    "BlockMaps",
    "Cut",
    "FrameFeatures",
    "ModelMeta",
    "SPNet",
    "SPNetConfig",
    "SPNetOutput",
    "get_preset",
    "load_model",
    "save_model",
]
