"""Joint layouts: the names, order, mirror pairs and bones of a skeleton.

"pa16" and "pa17" are the common layouts that all data sets are mapped to: pelvis, thorax, neck, head top, then pairs
with the right joint first; "pa17" adds the middle of the spine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pyhar.errors import UserError, unknown_name


@dataclass(frozen=True)
class JointLayout:
    """A skeleton. `bones` are (parent, child) index pairs; `flip` gives each joint its counterpart in a mirrored
    picture."""

    name: str
    joints: tuple[str, ...]
    bones: tuple[tuple[int, int], ...]
    root: int = 0

    def __post_init__(self) -> None:
        if len(set(self.joints)) != len(self.joints):
            raise UserError(f"joint layout {self.name!r}: joint names repeat")
        for joint in (self.root, *(j for bone in self.bones for j in bone)):
            if not 0 <= joint < len(self.joints):
                raise UserError(f"joint layout {self.name!r}: joint index {joint} is outside 0..{len(self.joints) - 1}")

    @property
    def flip(self) -> tuple[int, ...]:
        """For each joint the index of its left/right counterpart; joints named without "right "/"left " map to
        themselves."""
        index = {joint: i for i, joint in enumerate(self.joints)}
        swap = {"right": "left", "left": "right"}

        def counterpart(joint: str) -> int:
            side, _, rest = joint.partition(" ")
            return index.get(f"{swap[side]} {rest}", index[joint]) if side in swap else index[joint]

        return tuple(counterpart(joint) for joint in self.joints)

    def index(self, joint: str) -> int:
        """The place of `joint`; raises UserError with the nearest name if there is none."""
        if joint not in self.joints:
            raise unknown_name(f"joint of layout {self.name!r}", joint, self.joints)
        return self.joints.index(joint)


_PAIRS = ("shoulder", "elbow", "wrist", "hip", "knee", "ankle")
_PA16_JOINTS = (
    "pelvis",
    "thorax",
    "neck",
    "head top",
    *(f"{side} {joint}" for joint in _PAIRS for side in ("right", "left")),
)
_LIMBS = ((1, 4), (4, 6), (6, 8), (1, 5), (5, 7), (7, 9), (0, 10), (10, 12), (12, 14), (0, 11), (11, 13), (13, 15))

PA16 = JointLayout("pa16", _PA16_JOINTS, ((0, 1), (1, 2), (2, 3), *_LIMBS))
PA17 = JointLayout("pa17", (*_PA16_JOINTS, "spine"), ((0, 16), (16, 1), (1, 2), (2, 3), *_LIMBS))

LAYOUTS: dict[str, JointLayout] = {layout.name: layout for layout in (PA16, PA17)}


def get_layout(name: str) -> JointLayout:
    """The layout called `name`; raises UserError that suggests the nearest name."""
    if name not in LAYOUTS:
        raise unknown_name("joint layout", name, LAYOUTS)
    return LAYOUTS[name]


def custom_layout(
    name: str, joints: Sequence[str], bones: Sequence[tuple[int, int]] = (), root: int = 0
) -> JointLayout:
    """A user's own layout; mirror pairs follow from names that begin with "right " and "left "."""
    return JointLayout(name, tuple(joints), tuple(bones), root)
