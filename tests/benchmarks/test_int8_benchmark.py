"""The comparison of int8 with float32: every instruction set that has it, by what the deployed networks answer."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import int8
from pyhar.kernels import native
from pyhar.models import ModelMeta, SPNet, SPNetConfig, save_model

TINY = SPNetConfig(
    num_joints=17,
    layout="pa17",
    dim=3,
    image_size=32,
    clip_frames=2,
    num_pyramids=1,
    num_levels=2,
    growth=8,
    stem_features=8,
    action_pyramids=(1,),
    num_actions=(14,),
    pose_features=16,
    appearance_features=16,
)


@pytest.mark.skipif(not int8.sets_with_int8(), reason="this CPU multiplies no int8")
def test_each_set_is_compared_with_float32(tmp_path: Path) -> None:
    module = native.load()
    assert module is not None
    before, model, out = module.cpu_isa(), tmp_path / "model.safetensors", tmp_path / "int8.json"
    save_model(model, SPNet(TINY), ModelMeta.default(TINY))
    assert int8.main([str(model), "--stills", "4", "--clips", "2", "--out", str(out)]) == 0
    assert module.cpu_isa() == before == module.cpu_isas()[0]
    found = json.loads(out.read_text())
    rows = found["rows"]
    assert set(rows) == {"float32", "bfloat16", *(f"int8 on {name}" for name in int8.sets_with_int8())}
    assert (found["stills"], found["clips"]) == (4, 2)
    for name, row in rows.items():
        if name != "float32":
            assert 0 < row["joint_change_px"] < 3
            assert row["pckh_change"] == pytest.approx(abs(row["pckh"] - rows["float32"]["pckh"]), abs=1e-3)
