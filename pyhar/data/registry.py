"""The one place where data sets are chosen by name, and what the rest of the package asks of them.

A data set yields samples (see `pyhar.data.sample`): stills of kind "pose", clips of kind "clips". To add one on disk,
write a module that reads it into an index (`pyhar.data.index`) and enter it in `ON_DISK`; for any other, write a
builder and enter it in `DATASETS`.
"""

from __future__ import annotations

import importlib
import inspect
import os
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, get_type_hints, overload

from pyhar.data.layouts import JointLayout
from pyhar.data.sample import Sample
from pyhar.errors import UserError, unknown_name

if TYPE_CHECKING:
    from pyhar.data.index import Index

Kind = Literal["pose", "clips"]


class PoseData(Protocol):
    """Samples by number. `data[i]` is sample i as evaluation sees it or with draw 0 of augmentation, `data[i, draw]`
    another draw.
    """

    layout: JointLayout
    action_names: tuple[str, ...]
    """Names of the classes of `sample["action"]`; empty if samples have none."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int | tuple[int, int]) -> Sample: ...


class ClipData(PoseData, Protocol):
    """Clips by number, one per video; any other clip of a video by its frames."""

    subsample: int
    """Every how many frames of a video an evaluation clip takes one."""

    def num_frames(self, video: int) -> int:
        """Frames of a video."""
        ...

    def clip(self, video: int, frame_indices: Sequence[int], flip: bool = False) -> Sample:
        """The clip of these frames, as evaluation sees it; flip: mirrored, joints swapped."""
        ...


def _synthetic(split: str, kind: Kind, **options: Any) -> PoseData | ClipData:
    from pyhar.data.synthetic import SyntheticClips, SyntheticPoses

    return SyntheticPoses(split, **options) if kind == "pose" else SyntheticClips(split, **options)


@dataclass(frozen=True)
class OnDisk:
    """A data set that its owners give out, read from the user's disk."""

    module: str
    """Offers `read(root, **options) -> Index`; imported when it is needed."""
    subsample: int = 6
    """Step of evaluation clips, where the index notes none: what the paper's authors take."""
    judged_on: str = "test"
    """The split that published results are of."""
    judges_actions: bool = True
    """Whether recognition of its actions is what networks are judged by."""

    @property
    def options(self) -> dict[str, Any]:
        """The types of the options of `read` by name."""
        hints = get_type_hints(importlib.import_module(self.module).read)
        return {name: hint for name, hint in hints.items() if name not in ("root", "return")}

    @property
    def options_by_default(self) -> dict[str, Any]:
        """The defaults of the options of `read` by name."""
        parameters = inspect.signature(importlib.import_module(self.module).read).parameters
        return {name: parameters[name].default for name in self.options}

    def read(self, root: Path, **options: Any) -> Index:
        """Parse the owners' files. Raises UserError for what is missing or damaged, and for unknown options."""
        for option in options:
            if option not in self.options:
                raise unknown_name(f"option of {self.module.rpartition('.')[2]}", option, self.options)
        read: Callable[..., Index] = importlib.import_module(self.module).read
        return read(root, **options)


ON_DISK: dict[str, OnDisk] = {
    "mpii": OnDisk("pyhar.data.mpii", judged_on="val", judges_actions=False),
    "penn": OnDisk("pyhar.data.penn_action", subsample=6),
    "human36m": OnDisk("pyhar.data.human36m", judges_actions=False),
    "ntu": OnDisk("pyhar.data.ntu", subsample=8),
    "folder": OnDisk("pyhar.data.folder"),
}
"""By name. `pyhar.data.prepare` makes an index of each, once; `build` then reads that."""


def judged_on(name: str) -> str:
    """The split that results on a data set are of: MPII's test joints are kept by its owners, so there it is "val"."""
    return ON_DISK[name].judged_on if name in ON_DISK else "test"


def judges_actions(name: str) -> bool:
    """Whether a data set is one to judge action recognition by."""
    return name not in ON_DISK or ON_DISK[name].judges_actions


def root_of(name: str, root: str | os.PathLike[str] | None = None) -> Path:
    """The folder of a data set on disk: `root`, or what the environment variable PYHAR_DATA_<NAME> says, or the folder
    called `name` in PYHAR_DATA. Raises UserError if none is given or it is not there."""
    variable = f"PYHAR_DATA_{name.upper()}"
    if root is not None:
        found = Path(root)
    elif os.environ.get(variable):
        found = Path(os.environ[variable])
    elif os.environ.get("PYHAR_DATA"):
        found = Path(os.environ["PYHAR_DATA"]) / name
    else:
        raise UserError(f"where is the data set {name}? Set {variable} to its folder, or PYHAR_DATA to the one above")
    if not found.is_dir():
        raise UserError(f"the folder of the data set {name} is not there: {found}; {variable} can name it")
    return found


def index_of(name: str, root: Path, index: str | os.PathLike[str] | None = None) -> Path:
    """Where the index of a data set is kept: `index`, or the folder called `name` in the one that the environment
    variable PYHAR_INDEX names, or in .pyhar-index below the data set's own."""
    if index is not None:
        return Path(index)
    if os.environ.get("PYHAR_INDEX"):
        return Path(os.environ["PYHAR_INDEX"]) / name
    return root / ".pyhar-index" / name


def _on_disk(name: str) -> Callable[..., Any]:
    def builder(
        split: str,
        kind: Kind,
        root: str | os.PathLike[str] | None = None,
        index: str | os.PathLike[str] | None = None,
        **options: Any,
    ) -> PoseData | ClipData:
        from pyhar.data.index import FILE, Index
        from pyhar.data.indexed import IndexedClips, IndexedPoses

        folder = root_of(name, root)
        place = index_of(name, folder, index)
        if not (place / FILE).is_file():
            command = shlex.join(["python", "-m", "pyhar.data.prepare", name, str(folder)])
            raise UserError(
                f"the data set {name} in {folder} has no index in {place}: run `{command}`, or let PYHAR_INDEX "
                f"name the folder in which {name}/ is an index that was written elsewhere"
            )
        loaded = Index.load(place)
        if loaded.data_set != name:
            raise UserError(f"{place} is the index of {loaded.data_set}, not of {name}")
        if kind == "pose":
            return IndexedPoses(loaded, folder, split, **options)
        if "subsample" not in loaded.notes:
            options.setdefault("subsample", ON_DISK[name].subsample)
        options.setdefault("labelled", True)
        return IndexedClips(loaded, folder, split, **options)

    return builder


DATASETS: dict[str, Callable[..., Any]] = {"synthetic": _synthetic, **{name: _on_disk(name) for name in ON_DISK}}
"""Builders by name: called with split, kind and the options of `build`."""


@overload
def build(name: str, split: str, kind: Literal["pose"], layout: str | None = None, **options: Any) -> PoseData: ...
@overload
def build(name: str, split: str, kind: Literal["clips"], layout: str | None = None, **options: Any) -> ClipData: ...
def build(name: str, split: str, kind: Kind, layout: str | None = None, **options: Any) -> PoseData | ClipData:
    """The data set called `name`: stills (kind "pose") or clips (kind "clips") of one split, "train", "val" or "test".

    layout: the joints that samples should have, for data sets on disk, which mark those they lack as unknown; other
    data sets have their own. Options all data sets know: image_size (pixels), augment (bool, or a name from
    `pyhar.data.augment.AUGMENTATIONS`), seed, size (use this many samples; None: all), and for clips clip_frames. Data
    sets on disk also know root and index, their folders (`root_of`, `index_of`), and the options of
    `pyhar.data.indexed`. The rest are a data set's own. Raises UserError for an unknown name, kind or split, and for a
    data set on disk that is not there or not prepared.
    """
    if name not in DATASETS:
        raise unknown_name("data set", name, DATASETS)
    if kind not in ("pose", "clips"):
        raise UserError(f"kind of data must be 'pose' or 'clips', not {kind!r}")
    if layout is not None and name in ON_DISK:
        options["layout"] = layout
    return DATASETS[name](split, kind, **options)
