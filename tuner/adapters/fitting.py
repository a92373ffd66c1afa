"""Whether one module's tensors are a whole change of a weight of some shape; if not, what is wrong, as a clause.

Their shapes tell it, which a file's header has.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

Shape = tuple[int, ...]
_WORDS = {"down": "down (A) matrix", "up": "up (B) matrix"}
_PLAIN = {"down", "up", "alpha"}
_BESIDE = ("alpha", "dora_scale", "magnitude")
_HALVES = ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b")


def fault(module: str, shapes: Mapping[str, Shape], shape: Shape) -> str | None:
    """What is wrong with a module's tensors, None where all is well.

    Args:
        module: as the file spells it.
        shapes: those of its tensors, by role.
        shape: that of the base's weight.
    """
    lacking = missing(shapes)
    if lacking:
        return f"`{module}` has no {_WORDS.get(lacking, f'`{lacking}`')}"
    if math.prod(shapes.get("alpha", ())) != 1:
        return f"`{module}` has an alpha that is not one number"
    matrices = {role: own for role, own in shapes.items() if role not in _BESIDE}
    if not _fits(matrices, shape):
        told = (" and " if len(matrices) < 3 else ", ").join(map(str, matrices.values()))
        return f"`{module}` has matrices of shapes {told}, which do not fit this base's {shape}"
    scale = shapes.get("magnitude", shapes.get("dora_scale"))
    columns = "dora_scale" in shapes and on_columns(shapes["dora_scale"], shape)
    if scale is not None and math.prod(scale) != shape[1 if columns else 0]:
        return f"`{module}` has {math.prod(scale)} magnitudes for a weight of {shape}"
    return None


def on_columns(scale: Shape, shape: Shape) -> bool:
    """Whether a `dora_scale` of this shape has the lengths of a weight's columns, (1, in), not of its rows, (out, 1).

    ComfyUI, too, goes by its first size alone.
    """
    return len(scale) > 1 and scale[0] != shape[0]


def missing(group: Mapping[str, object]) -> str | None:
    """The role that a module lacks to be whole; None where it lacks none."""
    if group.keys() <= _PLAIN:
        return next((role for role in ("down", "up") if role not in group), None)
    if "diff" in group:
        return None
    if any(role.startswith("hada") for role in group):
        wanted = [*_HALVES, *(("hada_t1", "hada_t2") if group.keys() & {"hada_t1", "hada_t2"} else ())]
    elif any(role.startswith("lokr") for role in group):
        wanted = [role for n in "12" if f"lokr_w{n}" not in group for role in (f"lokr_w{n}_a", f"lokr_w{n}_b")]
    else:
        wanted = ["down", "up"]
    return next((role for role in wanted if role not in group), None)


def _fits(shapes: Mapping[str, Shape], weight: Shape) -> bool:
    if "diff" in shapes:
        return math.prod(shapes["diff"]) == math.prod(weight) and shapes["diff"][:1] == weight[:1]
    if "hada_w1_a" in shapes:
        return _hadamard(shapes, weight)
    if "down" in shapes:
        return _low_rank(shapes, weight)
    return _kronecker(shapes, weight)


def _low_rank(shapes: Mapping[str, Shape], weight: Shape) -> bool:
    down, up, mid = shapes["down"], shapes["up"], shapes.get("mid")
    ones = (1,) * (len(weight) - 2)
    if not down or not down[0]:
        return False
    if mid is not None:
        outer = mid[:1] if len(mid) == len(weight) else ()
        return (
            down == (down[0], weight[1], *ones)
            and mid == (*outer, down[0], *weight[2:])
            and (up == (weight[0], *outer, *ones))
        )
    return down == (down[0], *weight[1:]) and up == (weight[0], down[0], *ones)


def _product(a: Shape, b: Shape, core: Shape | None) -> tuple[int, int] | None:
    """Rows and columns of a product of two factors, (n, r) and (r, m), or with a core; None where they do not fit."""
    if len(a) < 2 or len(b) < 2 or not b[0]:
        return None
    if core is None:
        return (a[0], math.prod(b[1:])) if math.prod(a[1:]) == b[0] else None
    fits = len(core) == 4 and len(a) == len(b) == 2 and core[:2] == (a[0], b[0])
    return (a[1], b[1] * core[2] * core[3]) if fits else None


def _hadamard(shapes: Mapping[str, Shape], weight: Shape) -> bool:
    whole = (weight[0], math.prod(weight[1:]))
    return all(
        _product(shapes[f"hada_w{n}_a"], shapes[f"hada_w{n}_b"], shapes.get(f"hada_t{n}")) == whole for n in "12"
    )


def _factor(shapes: Mapping[str, Shape], n: str) -> tuple[int, int] | None:
    """Rows and columns of LoKr's first or second factor, whole or a product; None where its parts do not fit."""
    whole = shapes.get(f"lokr_w{n}")
    if whole is not None:
        return (whole[0], math.prod(whole[1:])) if len(whole) >= 2 else None
    core = shapes.get("lokr_t2") if n == "2" else None
    return _product(shapes[f"lokr_w{n}_a"], shapes[f"lokr_w{n}_b"], core)


def _kronecker(shapes: Mapping[str, Shape], weight: Shape) -> bool:
    sizes = [_factor(shapes, n) for n in "12"]
    if None in sizes:
        return False
    (a, b), (c, d) = (size or (0, 0) for size in sizes)
    return (a * c, b * d) == (weight[0], math.prod(weight[1:]))


def weight_shape(shapes: Mapping[str, Shape]) -> tuple[Shape, bool]:
    """The shape of the weight that a whole module's tensors are for, told by theirs, and whether it is sure.

    LoHa and LoKr hold convolutions flat: (out, in * height * width), and then so is the shape.
    """
    if "diff" in shapes:
        return shapes["diff"], True
    if "down" in shapes:
        kernel = shapes.get("mid", shapes["down"])[2:]
        return (*shapes["up"][:1], *shapes["down"][1:2], *kernel), True
    if "hada_w1_a" in shapes:
        core = shapes.get("hada_t1")
        whole = _product(shapes["hada_w1_a"], shapes["hada_w1_b"], core) or ()
        return (whole, False) if core is None or not whole else (_unflat(whole, core[2:]), True)
    return _kronecker_shape(shapes)


def _kronecker_shape(shapes: Mapping[str, Shape]) -> tuple[Shape, bool]:
    kernel = shapes.get("lokr_t2", shapes.get("lokr_w2", ()))[2:]
    (a, b), (c, d) = (_factor(shapes, n) or (0, 0) for n in "12")
    return (_unflat((a * c, b * d), kernel), True) if kernel else ((a * c, b * d), False)


def _unflat(whole: Shape, kernel: Shape) -> Shape:
    """(out, in * height * width) -> (out, in, height, width)."""
    return whole[0], whole[1] // max(1, math.prod(kernel)), *kernel
