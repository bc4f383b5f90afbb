"""`python -m pyhar.data.synthetic`: look at the embedded data, write a video of it, measure how fast it is made."""

from __future__ import annotations

import argparse
import sys

from pyhar.cli import run
from pyhar.errors import UserError


def main(argv: list[str] | None = None) -> int:
    """Do what the options ask for, in their order; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m pyhar.data.synthetic", description="Look at the embedded data.")
    parser.add_argument("--sheet", metavar="PICTURE", help="write a sheet of clips and stills")
    parser.add_argument(
        "--video", metavar="VIDEO", help="write a whole video (.mp4, .avi), its truth in a .json beside it"
    )
    parser.add_argument("--measure", action="store_true", help="print frames per second with 1 and 2 processes")
    parser.add_argument("--split", default="test", help="train, val or test (default: %(default)s)")
    parser.add_argument("--index", type=int, default=0, help="which video (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument("--image-size", type=int, default=128, help="pixels of a crop (default: %(default)s)")
    options = parser.parse_args(argv)
    if not (options.sheet or options.video or options.measure):
        parser.print_help()
        return 2

    from pyhar.data.synthetic.demo import contact_sheet, measure, write_video
    from pyhar.media import write_picture

    if options.sheet:
        write_picture(options.sheet, contact_sheet(options.split, options.image_size, seed=options.seed))
        print(options.sheet)
    if options.video:
        try:
            truth = write_video(options.video, options.index, options.split, options.seed)
        except IndexError as error:
            raise UserError(str(error)) from error
        print(options.video)
        print(truth)
    if options.measure:
        for processes in (1, 2):
            speeds = measure(options.image_size, processes)
            print(
                f"{processes} process{'es' * (processes > 1)}: "
                + ", ".join(f"{v:.0f} frames/s of {k}" for k, v in speeds.items())
            )
    return 0


if __name__ == "__main__":
    sys.exit(run(main))
