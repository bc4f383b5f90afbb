"""`python -m pyhar.data.prepare DATASET ROOT`: read a data set's own files once, say what is missing, write its index.

What cannot be used is left out of the index, counted and named; training and evaluation then read the index alone.
"""

from __future__ import annotations

import argparse
import sys
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pyhar.cli import run
from pyhar.data.index import MEDIA_KINDS, SPLITS, Index
from pyhar.data.media_files import Faults, check_media, extract_frames
from pyhar.data.option_values import read_options
from pyhar.data.registry import ON_DISK, index_of
from pyhar.errors import UserError, unknown_name
from pyhar.files import check_folder

_SHOWN = 5
_OTHER_PLACE = "choose another for the index with --index DIR, or set PYHAR_INDEX to a folder for all indices"
_NO_PLACE = "neither a box nor two joints in pixels"
_TOO_SHORT = "the video is shorter than its annotation"


@dataclass(frozen=True)
class Count:
    """How many of something the owners or the paper say there are."""

    what: str
    """"sequences", "media" (files or folders of frames), "actions" or "subjects"."""
    expected: int
    split: str = ""
    """In this split; empty: in all."""


PUBLISHED: dict[str, tuple[Count, ...]] = {
    "mpii": (Count("sequences", 22246, "train"), Count("sequences", 2958, "val")),
    "penn": (Count("media", 2326), Count("actions", 15)),
    # 15 actions, twice, by 4 cameras, of 5 and 2 subjects; less one that is dropped, Directions of subject 11.
    "human36m": (Count("media", 600, "train"), Count("media", 236, "test"), Count("actions", 15)),
    # 56,880 less the 302 on the owners' list of samples without skeletons.
    "ntu": (Count("media", 56578), Count("actions", 60), Count("subjects", 40)),
}
"""What a complete copy holds, by data set."""


def prepare(
    name: str,
    root: Path,
    *,
    index: Path | None = None,
    check: bool = False,
    save: bool = True,
    extract: bool = False,
    workers: int = 2,
    progress: bool = True,
    options: dict[str, Any] | None = None,
) -> tuple[Index, Path]:
    """Read the data set `name` in the folder `root` and save its index; returns the index and its folder.

    index: where to save it, else as `pyhar.data.registry.index_of` says. check: look into every picture and video;
    otherwise only whether each is there. save: if not, nothing is written, and nothing can be extracted. extract: write
    the frames of videos as JPEG files beside the index, once, and let the index name those. workers: files looked at or
    extracted at a time. progress: show on stderr what goes on. options: the data set's own.

    Raises UserError if the owners' files are missing, nothing usable is left, or the index cannot be written there.
    """
    if name not in ON_DISK:
        raise unknown_name("data set on disk", name, ON_DISK)
    if not root.is_dir():
        raise UserError(f"the folder of the data set {name} is not there: {root}")
    if workers < 1:
        raise UserError(f"workers must be at least 1, not {workers}")
    if extract and not save:
        raise UserError("a check only reports, and extracts no frames: leave out --check or --extract")
    folder = index_of(name, root, index)
    if save:
        check_folder(folder, _OTHER_PLACE)
    if progress:
        print(f"reading the annotations of {name} in {root}; large data sets take minutes", file=sys.stderr, flush=True)
    found = _with_crops(ON_DISK[name].read(root, **(options or {})))
    faults = check_media(found, root, whole=check, workers=workers, progress=progress)
    found = _without(found, faults)
    if extract:
        found, faults = extract_frames(found, root, folder / "frames", workers=workers, progress=progress)
        found = _without(found, faults)
    if not save:
        return found, folder
    found.save(folder)
    return Index.load(folder), folder


def differences(index: Index) -> list[str]:
    """Where an index does not hold what a complete copy does, and what else its loader remarked, one sentence each;
    published counts say nothing of a data set that is split otherwise."""
    said = list(index.notes.get("remarks", []))
    if "split_remark" in index.notes:
        return [index.notes["split_remark"], *said]
    for count in PUBLISHED.get(index.data_set, ()):
        chosen = np.flatnonzero(index.split == SPLITS.index(count.split)) if count.split else np.arange(len(index))
        if count.what == "media" and (index.media_kind[chosen] == MEDIA_KINDS.index("picture")).any():
            continue  # Recordings as single pictures, of which anybody may keep as many as they like.
        if count.what == "sequences":
            held = len(chosen)
        elif count.what == "media":
            held = len({index.media[int(i)] for i in chosen})
        else:
            column = np.asarray(index.action if count.what == "actions" else index.subject)[chosen]
            held = len(set(column.tolist()) - {-1})
        if held != count.expected:
            where = f" of the {count.split} split" if count.split else ""
            said.append(f"{held} {count.what}{where}, where a complete copy has {count.expected}")
    return said


def summary(index: Index, folder: Path | None) -> str:
    """What an index holds and what it lacks, for people to read; folder: where it was written, if it was."""
    place = "only checked, no index written" if folder is None else f"index in {folder}"
    lines = [f"{index.data_set}: {len(index)} sequences, {int(index.first_row[-1])} frames, {place}"]
    for number, split in enumerate(SPLITS):
        chosen = np.flatnonzero(index.split == number)
        if len(chosen):
            frames = int(np.diff(index.first_row)[chosen].sum())
            kinds = np.bincount(index.media_kind[chosen], minlength=len(MEDIA_KINDS))
            of = ", ".join(f"{count} {kind}" for kind, count in zip(MEDIA_KINDS, kinds, strict=True) if count)
            lines.append(f"  {split}: {len(chosen)} sequences ({of}), {frames} frames")
    lines += [f"  note: {difference}" for difference in differences(index)]
    lines += [f"  note: {remark}: {_some(names)}" for remark, names in _remarks(index.notes) if names]
    lines += [f"  left out, {reason}: {_some(names)}" for reason, names in index.notes.get("skipped", {}).items()]
    return "\n".join(lines)


def _remarks(notes: dict[str, Any]) -> Iterator[tuple[str, list[str]]]:
    """What loaders found odd about sequences that they took, and the sequences."""
    yield from notes.get("cut", {}).items()
    yield from ((key.replace("_", " "), notes[key]) for key in notes if key.startswith("fewer_"))
    apart = notes.get("disagree", {})
    worst = max(apart.values(), default=0.0)
    cause = "as with wrong cameras or without their distortion"
    yield f"joints in space are up to {worst:.0f} pixels from those in the picture, {cause}", list(apart)


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{len(names)} ({', '.join(map(str, names[:_SHOWN]))}{more})"


def main(argv: list[str] | None = None, prog: str = "python -m pyhar.data.prepare") -> int:
    """Read the command line, prepare the data set, print the summary; returns 0."""
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Read a data set's own files once, say what is missing, and write its index.",
        epilog=_options_text(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("dataset", help=f"one of {', '.join(ON_DISK)}")
    parser.add_argument("root", type=Path, help="the folder that its owners' files were unpacked into")
    parser.add_argument(
        "--index",
        type=Path,
        metavar="DIR",
        help="where to write it (default: PYHAR_INDEX/DATASET, else ROOT/.pyhar-index/DATASET)",
    )
    looks = parser.add_mutually_exclusive_group()
    looks.add_argument(
        "--whole",
        action="store_true",
        help="look into every picture and video, not only for its name, and leave out what is damaged",
    )
    looks.add_argument("--check", action="store_true", help="look as --whole does, but only report: write nothing")
    parser.add_argument(
        "--extract", action="store_true", help="write the videos' frames as JPEG files beside the index"
    )
    parser.add_argument("--workers", type=int, default=2, metavar="N", help="files at a time (default: %(default)s)")
    parser.add_argument("--no-progress", action="store_true", help="show no progress bar")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="an option of the data set, see below; may be repeated",
    )
    given = parser.parse_args(argv)
    index, folder = prepare(
        given.dataset,
        given.root,
        index=given.index,
        check=given.check or given.whole,
        save=not given.check,
        extract=given.extract,
        workers=given.workers,
        progress=not given.no_progress,
        options=read_options(given.set, ON_DISK[given.dataset].options if given.dataset in ON_DISK else {}),
    )
    print(summary(index, None if given.check else folder))
    return 0


def _options_text() -> str:
    """The options of every data set with their defaults, for `--help`."""
    lines = ["options of the data sets for --set, with their defaults:"]
    for name, data_set in ON_DISK.items():
        words = " ".join(f"{option}={_written(default)}" for option, default in data_set.options_by_default.items())
        lines += textwrap.wrap(words, 100, initial_indent=f"  {name:<10}", subsequent_indent=12 * " ")
    lines += ["", "What they mean: python -m pydoc MODULE, which is one of"]
    lines += textwrap.wrap(
        ", ".join(data_set.module for data_set in ON_DISK.values()), 100, initial_indent="  ", subsequent_indent="  "
    )
    return "\n".join(lines)


def _written(value: Any) -> str:
    """A default as a command line says it; nothing for None and an empty list."""
    if isinstance(value, bool):
        return str(value).lower()
    return "" if value is None or value == () else str(value)


def _with_crops(index: Index) -> Index:
    """The index without the sequences that say nowhere where the person is."""
    known = np.isfinite(index.joints_px).all(axis=-1).sum(axis=-1)
    known[np.isfinite(index.box).all(axis=-1)] = 2
    placed = np.add.reduceat(known, index.first_row[:-1]) >= 2
    if placed.all():
        return index
    if not placed.any():
        raise UserError(f"{index.data_set}: {_NO_PLACE} in any of its {len(index)} sequences: nothing can be cropped")
    left = index.select(np.flatnonzero(placed))
    lost = [index.names[int(place)] for place in np.flatnonzero(~placed)]
    left.notes["skipped"] = {**index.notes.get("skipped", {}), _NO_PLACE: lost}
    return left


def _without(index: Index, faults: Faults) -> Index:
    """The index without the sequences of unusable media, and with no more frames of the others than those hold; its
    notes then name what is gone."""
    if not faults.unusable and not faults.frames:
        return index
    skipped = {reason: list(names) for reason, names in index.notes.get("skipped", {}).items()}
    kept, frames = [], []
    for place in range(len(index)):
        medium, name, count = index.media[place], index.names[place], index.num_frames(place)
        first, step = int(index.first_frame[place]), int(index.frame_step[place])
        held = min(-(-(faults.frames[medium] - first) // step), count) if medium in faults.frames else count
        reason = faults.unusable.get(medium, "" if held > 0 else _TOO_SHORT)
        if reason:
            skipped.setdefault(reason, []).append(name)
            continue
        if held < count:
            skipped.setdefault(f"{_TOO_SHORT}: its last frames", []).append(name)
        kept.append(place)
        frames.append(held)
    if not kept:
        first_fault = ": ".join(next(iter(faults.unusable.items()), ("", _TOO_SHORT)))
        raise UserError(f"{index.data_set}: not one of its {len(index)} sequences has usable files; {first_fault}")
    left = index.select(kept, frames)
    left.notes["skipped"] = skipped
    return left


if __name__ == "__main__":
    sys.exit(run(main))
