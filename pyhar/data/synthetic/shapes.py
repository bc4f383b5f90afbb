"""What is drawn: clothed bodies and the objects they hold, as round cones and boxes.

A round cone is the hull of two balls; flattened along one axis it also serves for torsos, hands, soles and discs.
`ShapeList` collects them one by one; `Shapes` is the same as arrays, which the renderer takes.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Look:
    """Colours of a surface, each (3,) in [0, 1]. A pattern of two covers the first share of a shape's length."""

    colour: Array
    second: Array | None = None
    """The other colour of the pattern; None: no pattern."""
    along: float = 0.0
    """Wave number of the pattern along the shape, radians per millimetre."""
    across: float = 0.0
    rest: Array | None = None
    """Colour beyond `share` of the length, such as skin below a sleeve; None: the pattern goes on."""
    share: float = 2.0

    def rows(self) -> list[Array | list[float]]:
        """The look as four times three numbers: colour, second, rest; along, across, share."""
        second = self.colour if self.second is None else self.second
        rest = self.colour if self.rest is None else self.rest
        return [self.colour, second, rest, [self.along, self.across, self.share]]


def plain(colour: Array) -> Look:
    """One colour all over."""
    return Look(np.asarray(colour, dtype=np.float64))


@dataclass(frozen=True)
class Shapes:
    """P round cones and Q boxes in each of F frames; world millimetres."""

    start: Array
    """(F, P, 3): centre of the first ball; `end` of the second."""
    end: Array
    radii: Array
    """(P, 2)."""
    thin: Array
    """(F, P, 3): unit vector along which the cone is flattened."""
    thinness: Array
    """(P,): the factor by which it is flattened, 1 for none."""
    side: Array
    """(F, P, 3): unit vector across the shape, for patterns."""
    cone_looks: Array
    """(P, 12): numbers of `Look.rows`."""
    centre: Array
    """(F, Q, 3): of boxes."""
    axes: Array
    """(F, Q, 3, 3): rows are a box's unit axes."""
    half: Array
    """(Q, 3): half lengths along them."""
    box_looks: Array
    """(Q, 12)."""


@dataclass
class ShapeList:
    """Collects shapes for F frames. Points are (F, 3) or (3,), world millimetres; `frame` are rotations (F, 3, 3)."""

    num_frames: int
    _cones: list[tuple[Array, Array, float, float, Array, float, Array, Look]] = field(default_factory=list)
    _boxes: list[tuple[Array, Array, Array, Look]] = field(default_factory=list)

    def cone(
        self,
        start: Array,
        end: Array,
        r0: float,
        r1: float,
        frame: Array,
        look: Look,
        *,
        thin: int = 2,
        thinness: float = 1.0,
    ) -> None:
        """A round cone; flattened along axis `thin` of `frame`, patterned across along another of its axes."""
        side = 0 if thin != 0 else 2
        self._cones.append((start, end, r0, r1, frame[..., thin], thinness, frame[..., side], look))

    def box(self, centre: Array, frame: Array, half: tuple[float, float, float], look: Look) -> None:
        """A box with half lengths along the axes of `frame`."""
        self._boxes.append((centre, np.swapaxes(frame, -1, -2), np.array(half), look))

    def arrays(self) -> Shapes:
        """All shapes as arrays."""
        f = self.num_frames

        def stack(values: list[Array], *shape: int) -> Array:
            out = np.zeros((f, len(values), *shape))
            for i, value in enumerate(values):
                out[:, i] = value
            return out

        starts, ends, r0, r1, thin, thinness, side, looks = (list(column) for column in zip(*self._cones, strict=True))
        centres, axes, half, box_looks = (
            (list(column) for column in zip(*self._boxes, strict=True)) if self._boxes else ([],) * 4
        )
        return Shapes(
            stack(starts, 3),
            stack(ends, 3),
            np.stack([r0, r1], axis=1).astype(np.float64),
            stack(thin, 3),
            np.array(thinness, dtype=np.float64),
            stack(side, 3),
            np.array([look.rows() for look in looks]).reshape(-1, 12),
            stack(centres, 3),
            stack(axes, 3, 3),
            np.array(half, dtype=np.float64).reshape(-1, 3),
            np.array([look.rows() for look in box_looks]).reshape(-1, 12),
        )
