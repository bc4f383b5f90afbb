"""The compiled side of the operators, imported as `pyhar.kernels`: kernels and their launchers, nothing of autograd.

`pyhar.ops` imports from here; nothing here imports from `pyhar.ops` or above it.

A backend is a module with the functions below. They write into tensors that the caller has allocated, return None, and
never see a wrong argument: `pyhar.ops` has checked shapes and types, and `why_not` has been asked. `...` stands for the
arguments they share: `logits, features, depth_logits, beta, scale, grid, window, stats`.

    why_unusable() -> str | None                       why this machine cannot run the backend; cheap, keeps its answer
    why_not(logits, features, depth_logits, beta)      why it cannot serve tensors like these (device, types), or None
    softmax_forward(logits, beta, scale, stats, probs)
    softmax_backward(logits, beta, scale, stats, probs, g_probs, d_logits, d_beta)
    decode_forward(..., xy, z, confidence, appearance)
    decode_backward(..., xy, z, g_xy, g_z, g_confidence, g_appearance,
                    d_logits, d_features, d_depth_logits, d_beta)

Inputs, any strides, storage float16, bfloat16, float32 or float64, each tensor its own:

- logits H (B, J, Y, X); features F (B, C, Y, X) or None; depth_logits D (B, J, Y, X) or None; beta (B, J) or None
- scale: a number, beta where the tensor is None, else it is 1
- grid: (unit_x, first_x, unit_y, first_y); the coordinate of column i is i / unit_x + first_x, of row i likewise
- window: False for the confidence "max", True for "window"

The computing type T is float64 where H, F or D is, else float32. In T, contiguous:

- stats (B, J, 2), or None: then H holds probabilities already and there is no softmax. stats[..., 0] is m, the unmasked
  logit at which beta*H is largest (the largest for beta >= 0, the smallest for beta < 0); stats[..., 1] is r, one over
  the sum of e = exp(beta*(H - m)). The probability is h = e*r.
- xy (B, J, 2), z (B, J), confidence (B, J), each or None where not wanted; z is None exactly where D is

appearance (B, J, C), contiguous, in the type of F, or None exactly where F is; probs like H, any strides.

Backward: upstream gradients have the shape and type of their output, contiguous except g_probs (any strides); each is
None where nothing flows. The forward's stats, probs, and, where g_xy and g_z are not None, xy and z come back as they
were: a backend may take from them what it would else compute anew (below). Gradients d_* are like their inputs (shape
and type, any strides) or None where not needed; d_beta is (B, J) in T, one value per plane. What is not None is written
whole, so that memory may come uninitialised.

Numbers (t = H - m, in T):

- a pixel with t = -inf is masked: e = 0 whatever beta is, and it adds nothing to d_beta. A plane wholly masked gives
  NaN (r = 1/0, 0*inf), a plane with a NaN gives NaN; other planes are as if it were not there
- s = g_x*gx + g_y*gy + g_z*sigmoid(D) + sum_c g_appearance[c]*F[c] + g_confidence's share, dL/dh of a pixel
- sum h*s = g_x*x + g_y*y + g_z*z + sum_c g_appearance[c]*appearance[c] + g_confidence*confidence; with probs of a half
  type, though, h is better taken from the logits
- with softmax: q = h*(s - sum h*s), d_logits = beta*q, d_beta = sum t*q; without: d_logits = s
- d_depth_logits = g_z*h*d*(1-d), d = sigmoid(D); d_features[c] = sum_j g_appearance[j,c]*h[j]
- confidence "max": largest h; its gradient is shared equally by the pixels whose e (h without softmax) equals the
  largest. "window": largest (h[y,x] + h[y+1,x]) + (h[y,x+1] + h[y+1,x+1]) over the windows inside the plane, of one row
  or column where the plane has no more; windows whose sums equal the largest share the gradient equally, and each
  passes its share to every pixel of it
- sums are taken in T, in an order that does not depend on the number of threads or on the run: same input, same bits.
  No atomics. Indices are 64 bits wide where a tensor can need it; B may be 0.

Convolution units, which a backend may have or not. They are `pyhar.ops.units` with `skips` a tuple and `out` the maps
to write, dense channels_last, at least one value; what they hand from step to step they allocate.

    units_why_not(x, weights, skips)               why it cannot serve these, or None; weights in order, None left out
    separable_unit(x, scale, shift, depthwise, pointwise, shortcut, skips, out)
    bottleneck_unit(x, scale, shift, reduce, bias, expand, shortcut, skips, out)
    convolution_unit(x, scale, shift, weight, skips, out)
    pooling_unit(x, kernel, stride, out)
    extremes_unit(x, kernel, stride, out)          optional
    upsampling_unit(x, out)                        optional
    upscaling_unit(x, scale, shift, depthwise, pointwise, beside, skips, out)
                                                   optional; without it, a separable unit of repeated maps serves
    stem_unit(frames, weight, stride, out)         optional; out is of the type of the weight
    int8_units_why_not(x, weights, scales, skips)  optional; with it, separable, upscaling, bottleneck and convolution
                                                   units take `scales` of int8 weights after `out`, see pyhar.ops.int8

Maps, weights and skips are of one type; scale, shift and bias are float32; scale and shift are both there or both None.
A picture's result depends on that picture alone, NaN included, and relu keeps NaN. Weights may have any strides; in
Triton those of k x k convolutions are copied first, unless they are channels_last (depthwise: channels innermost).
"""
