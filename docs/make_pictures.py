"""Draw the README's pictures from an evaluated run: `python docs/make_pictures.py runs/small` writes docs/pictures/."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from pyhar.data import registry
from pyhar.data.synthetic import SyntheticClips
from pyhar.data.synthetic.demo import contact_sheet
from pyhar.data.synthetic.scene import HEIGHT, WIDTH
from pyhar.evaluation.gallery import gallery
from pyhar.evaluation.results import Evaluation
from pyhar.files import atomic
from pyhar.inference.draw import draw_prediction
from pyhar.inference.predictor import Predictor
from pyhar.media import write_picture
from pyhar.models import load_model

FOLDER = Path(__file__).parent / "pictures"


def main(run: Path) -> None:
    """Draw rendered people, poses in space, recognised clips, decoupled maps, and a frame of a prediction."""
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
    for name in ("space", "clips", "maps"):
        with atomic(FOLDER / f"{name}.png") as temporary:
            figures[name].savefig(temporary, format="png", dpi=80)

    # As by the README's commands: the second video with its box, by clips of every fifth frame.
    video = SyntheticClips("test").video(2)
    frames = video.shoot(np.arange(video.num_frames)).pictures(np.eye(3), WIDTH, HEIGHT)
    predictor = Predictor(run, subsample=5)
    middle = list(predictor.predict_frames(frames, box=(180, 30, 375, 425)))[len(frames) // 2]
    write_picture(FOLDER / "predict.jpg", draw_prediction(frames[middle.index], middle, predictor.layout))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python docs/make_pictures.py RUN")
    main(Path(sys.argv[1]))
