"""Draw the README's pictures from an evaluated run: `python docs/make_pictures.py runs/small` writes docs/pictures/."""

from __future__ import annotations

import sys
from pathlib import Path

from pyhar.data import registry
from pyhar.data.synthetic.demo import contact_sheet
from pyhar.evaluation.gallery import gallery
from pyhar.evaluation.plots import speed, style
from pyhar.evaluation.results import Evaluation
from pyhar.files import atomic
from pyhar.inference.video import write_picture
from pyhar.models import load_model

FOLDER = Path(__file__).parent / "pictures"


def main(run: Path) -> None:
    """Draw rendered people, poses in space, recognised clips, decoupled maps, and accuracy against speed."""
    model, meta = load_model(run)
    evaluation = Evaluation.from_json((run / "evaluation.json").read_text(encoding="utf-8"))
    options = {"image_size": model.config.image_size, "augment": False}
    stills = registry.build("synthetic", "test", "pose", **options)
    clips = registry.build("synthetic", "test", "clips", clip_frames=model.config.clip_frames, **options)
    size = 96
    # The last four actions, which are told apart by what is held, and two rows of stills.
    write_picture(FOLDER / "people.jpg", contact_sheet(image_size=size)[-6 * size :])

    figures = {}
    for picture in gallery(model, stills, clips, evaluation, meta.depth_range_mm):
        figures.setdefault(picture.section, picture.figure)
    with style():
        figures["speed"] = speed(evaluation.cuts, evaluation)
    for name in ("space", "clips", "maps", "speed"):
        with atomic(FOLDER / f"{name}.png") as temporary:
            figures[name].savefig(temporary, format="png", dpi=80)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python docs/make_pictures.py RUN")
    main(Path(sys.argv[1]))
