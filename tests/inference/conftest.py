"""A network that finds coloured dots, and files to feed it: what it answers is known to a fraction of a pixel."""

from collections.abc import Callable, Iterable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pyhar.inference.predictor import Predictor
from pyhar.inference.streaming import StreamingPredictor
from pyhar.models import ActionInput, FrameFeatures, ModelMeta, SPNet, SPNetConfig, SPNetOutput, save_model

TINY = SPNetConfig(
    num_joints=3,
    dim=3,
    layout="dots",
    image_size=64,
    clip_frames=4,
    num_pyramids=2,
    action_pyramids=(1, 2),
    num_levels=3,
    growth=8,
    stem_features=8,
    pose_features=16,
    appearance_features=16,
    num_actions=(3, 2),
    grid="centers",
)
META = ModelMeta(
    "dots", ["hip", "right hand", "left hand"], [["wave", "clap", "bow"], ["sit", "stand"]], depth_range_mm=1000.0
)


class DotNetwork(nn.Module):
    """Stands in for SPNet: joints are the centres of the red, the green and the blue dot, z = 0.75.

    Confidence tells whether there is a dot. The probability of a clip's first action is its mean grey, upper left.
    """

    num_pose_blocks = num_action_blocks = 1

    def __init__(self) -> None:
        super().__init__()
        self.config = TINY
        self.calls: list[tuple[int, ...]] = []
        self.clips: list[ActionInput] = []

    def cut(self, pose_block: int | None = -1, action_block: int | None = -1) -> "DotNetwork":
        return self

    def frame_features(self, frames: Tensor, *, actions: bool = True) -> FrameFeatures:
        self.calls.append(tuple(frames.shape))
        return self._look(frames, actions)

    def _look(self, frames: Tensor, actions: bool) -> FrameFeatures:
        light = (frames + 1) / 2
        brightest = light - light.amin(-3, keepdim=True)  # grey has no colour
        mass = (brightest - 0.02).clamp_min(0)
        size = frames.shape[-1]
        centres = (torch.arange(size) + 0.5) / size
        total = mass.sum((-2, -1)).clamp_min(1e-6)
        x, y = (mass.sum(-2) * centres).sum(-1) / total, (mass.sum(-1) * centres).sum(-1) / total
        found = (total > 1e-3).float()
        pose = torch.stack([x, y, torch.full_like(x, 0.75), found], -1)
        grey = light[..., :4, :4].mean((-2, -1)).unsqueeze(-1)
        return FrameFeatures([pose], [ActionInput(pose[..., :3], found, grey)] if actions else [], [])

    def recognise(self, clips: list[ActionInput]) -> list[list[Tensor]]:
        self.clips.append(clips[0])
        p = clips[0].appearance.mean((1, 2, 3))
        rest = (1 - p) / 2
        heads = torch.stack([p, rest, rest], -1), torch.stack([p, 1 - p], -1)
        return [[head.clamp_min(1e-12).log() for head in heads]]

    def forward(self, frames: Tensor) -> SPNetOutput:
        self.calls.append(tuple(frames.shape))
        if frames.ndim == 4:
            return SPNetOutput(self._look(frames, False).poses)
        (pose,), (seen,), _ = self._look(frames.flatten(0, 1), True)
        clip = frames.shape[:2]
        clips = [ActionInput(*(part.unflatten(0, clip) for part in seen))]
        return SPNetOutput([pose.unflatten(0, clip)], self.recognise(clips))


def dots(points: Iterable[tuple[float, float]], width: int = 320, height: int = 240, sigma: float = 8.0) -> np.ndarray:
    """A black picture with a red, a green and a blue soft dot at these pixels."""
    y, x = np.mgrid[:height, :width]
    channels = [255 * np.exp(-((x - px) ** 2 + (y - py) ** 2) / (2 * sigma**2)) for px, py in points]
    return np.stack(channels, -1).round().astype(np.uint8)


@pytest.fixture(name="dots")
def dots_fixture() -> Callable[..., np.ndarray]:
    return dots


@pytest.fixture
def dot_predictor() -> Callable[..., Predictor]:
    return lambda **options: Predictor(DotNetwork(), META, device="cpu", **options)  # type: ignore[arg-type]


@pytest.fixture
def dot_stream() -> Callable[..., StreamingPredictor]:
    return lambda **options: StreamingPredictor(DotNetwork(), META, device="cpu", **options)  # type: ignore[arg-type]


@pytest.fixture
def dot_network(monkeypatch: pytest.MonkeyPatch) -> DotNetwork:
    """Whatever model file is asked for, the dot network comes."""
    network = DotNetwork()
    monkeypatch.setattr("pyhar.inference.predictor.load_model", lambda path, device: (network, META))
    return network


@pytest.fixture(scope="session")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real network with random weights."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    save_model(path, SPNet(TINY), META)
    return path


@pytest.fixture
def make_video(tmp_path: Path) -> Callable[..., Path]:
    """Write a video of noise, or of the given RGB frames, with OpenCV itself."""

    def make(name: str = "clip.avi", frames: int | list[np.ndarray] = 10, fps: float = 25.0) -> Path:
        if isinstance(frames, int):
            frames = list(np.random.default_rng(0).integers(0, 255, (frames, 48, 64, 3), dtype=np.uint8))
        path = tmp_path / name
        codec = cv2.VideoWriter.fourcc(*("mp4v" if path.suffix == ".mp4" else "MJPG"))
        writer = cv2.VideoWriter(str(path), codec, fps, (frames[0].shape[1], frames[0].shape[0]))
        for frame in frames:
            writer.write(frame[..., ::-1].copy())
        writer.release()
        return path

    return make
