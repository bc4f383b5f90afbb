"""Operators that read coordinates, depth, confidence and appearance out of heat maps.

This docstring is the contract of every operator and of every backend; the modules below are its definition in plain
PyTorch.

Symbols: heat-map logits H (B, J, Y, X), depth logits D of the same shape, features F (B, C, Y, X); B may be 0, the
other sizes are at least 1; Y counts rows, X columns. `beta` (inverse temperature) is a finite number, or a tensor
(), (1,) or (J,) that may require grad.

- `spatial_softmax`: h = exp(beta*H - max) / sum, over each plane
- `soft_argmax`: (x, y) = (sum h*gx, sum h*gy), gx and gy from the `grid` convention (Eq. 8)
- `decode_pose`: those, the depth z = sum h*sigmoid(D) (Eq. 7 and 9) and the confidence, the peak of h (Sec. 3.2.3)
- `pool_appearance`: V[j,c] = sum h[j]*F[c] (Sec. 3.3.2)
- `decode_pose_and_appearance`: both of the last two
- `expectation`, `pool_appearance_from_probs`: the same for maps that are probabilities already

Grids: the coordinate of the pixel of index i on an axis of n pixels, and whose code has the same.

- "corners": i / (n-1), first and last pixel centre at 0 and 1; the authors' release
- "unit": i / n; Eq. 8, MMPose's integral regression, and integral human pose, which subtracts 0.5 from it
- "centers": (i + 0.5) / n, picture edges at 0 and 1
- "pixels": i; kornia and dsntnn when not normalised, learnable triangulation
- "ndc_corners": 2*i / (n-1) - 1; kornia, the spatial softmax of robot-learning code
- "ndc_centers": (2*i + 1) / n - 1, picture edges at -1 and 1; dsntnn

Where n is 1, "corners" is 0 and "ndc_corners" is -1. x counts columns and comes first.

Of another kind are the network's convolutions: `depthwise_conv` for training, and its units in inference form, of which
`pyhar.ops.units` is the definition.

Types: float16, bfloat16, float32 or float64; the tensors of one call may differ in type. Everything is computed in
float32, in float64 if H, D or F is float64, under `torch.autocast` too. Coordinates, depth and confidence are returned
in that computing type; probability maps in the type of the logits, appearance in the type of the features, gradients in
the type of their tensor.

A logit of -inf is a mask: its pixel has probability 0 whatever `beta` is, and no gradient. A plane that is wholly -inf,
or holds a NaN, gives NaN for that plane alone. The pixels that tie for a confidence share its gradient equally.

Forward-mode derivatives (`torch.func.jvp` and its kin), `torch.jit.trace`, `torch.onnx.export`, and transforms of
`torch.func` inside `torch.compile` are served by plain PyTorch. A program of `torch.export` holds the operators of the
backend that serves; inside `use_backend("eager")` it holds PyTorch's alone.

Every operator takes `backend=`; see `pyhar.ops.dispatch` for how a backend is chosen. Wrong arguments raise TypeError
or ValueError (`pyhar.errors.UserError` for unknown names and backends) that name the argument, before anything is
computed.
"""

from pyhar.kernels import cpu, cuda, nvrtc, triton
from pyhar.ops.appearance import decode_pose_and_appearance, pool_appearance, pool_appearance_from_probs
from pyhar.ops.compiled import add_backend
from pyhar.ops.compiled_units import add_units
from pyhar.ops.decode import DecodedPose, decode_pose, expectation, soft_argmax
from pyhar.ops.depthwise import depthwise_conv
from pyhar.ops.dispatch import available_backends, use_backend
from pyhar.ops.int8 import quantise
from pyhar.ops.softmax import spatial_softmax
from pyhar.ops.units import (
    bottleneck_unit,
    convolution_unit,
    extremes_unit,
    pooling_unit,
    separable_unit,
    stem_unit,
    upsampling_unit,
    upscaling_unit,
)

__all__ = [
    "DecodedPose",
    "available_backends",
    "bottleneck_unit",
    "convolution_unit",
    "decode_pose",
    "decode_pose_and_appearance",
    "depthwise_conv",
    "expectation",
    "extremes_unit",
    "pool_appearance",
    "pool_appearance_from_probs",
    "pooling_unit",
    "quantise",
    "separable_unit",
    "soft_argmax",
    "spatial_softmax",
    "stem_unit",
    "upsampling_unit",
    "upscaling_unit",
    "use_backend",
]

for _backend, _kernels in (("cuda", cuda), ("nvrtc", nvrtc), ("triton", triton), ("cpu", cpu)):
    add_backend(_backend, _kernels)
for _backend in ("triton", "cpu"):
    add_units(_backend)
