"""What ComfyUI and A1111 make of one module's tensors in a kohya-named file, told again from their sources.

ComfyUI: comfy/weight_adapter/{lora,loha,lokr,base}.py. A1111 1.10: extensions-builtin/Lora/network{,_lora,_hada,_lokr,
_full}.py and lyco_helpers.py. Both give the weight that the layer then has.
"""

from collections.abc import Mapping

import torch
from torch import Tensor


def _core(core: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return torch.einsum("ijkl,jr,ip->prkl", core, b, a)


def _kron(one: Tensor, other: Tensor, shape: torch.Size) -> Tensor:
    if other.ndim == 4:
        one = one[:, :, None, None]
    return torch.kron(one, other.contiguous()).reshape(shape)


def _product(t: Mapping[str, Tensor], shape: torch.Size) -> tuple[Tensor, int | None]:
    """The difference without its scale, and the number that alpha is divided by: the same in both programs."""
    if "diff" in t:
        return t["diff"], None
    if "lora_up.weight" in t:
        up, down = t["lora_up.weight"].flatten(1), t["lora_down.weight"]
        if "lora_mid.weight" in t:
            whole = torch.einsum("nmkl,in,mj->ijkl", t["lora_mid.weight"], up, down.flatten(1))
        else:
            whole = up @ down.flatten(1)
        return whole.reshape(shape), down.shape[0]
    if "hada_w1_a" in t:
        pairs = [
            _core(t[f"hada_t{n}"], t[f"hada_w{n}_a"], t[f"hada_w{n}_b"]) if "hada_t1" in t
            else t[f"hada_w{n}_a"] @ t[f"hada_w{n}_b"]
            for n in "12"
        ]  # fmt: skip
        return (pairs[0] * pairs[1]).reshape(shape), t["hada_w1_b"].shape[0]
    dim, factors = None, []
    for n in "12":
        if f"lokr_w{n}" in t:
            factors.append(t[f"lokr_w{n}"])
            continue
        a, b = t[f"lokr_w{n}_a"], t[f"lokr_w{n}_b"]
        dim = b.shape[0]
        factors.append(_core(t["lokr_t2"], a, b) if n == "2" and "lokr_t2" in t else a @ b)
    return _kron(factors[0], factors[1], shape), dim


def _norms(weight: Tensor, axis: int) -> Tensor:
    """Lengths along the rows (axis 0) or columns (axis 1), in a shape that broadcasts."""
    flat = weight.transpose(0, axis).flatten(1).norm(dim=1)
    return flat.reshape(-1, *[1] * (weight.ndim - 1)).transpose(0, axis)


def comfyui(weight: Tensor, tensors: Mapping[str, Tensor]) -> Tensor:
    """The weight at strength 1."""
    product, dim = _product(tensors, weight.shape)
    alpha = tensors["alpha"].item() / dim if "alpha" in tensors and dim else 1.0
    changed = weight + alpha * product
    scale = tensors.get("dora_scale")
    if scale is None:
        return changed
    norms = _norms(weight, 0) if scale.shape[0] == weight.shape[0] else _norms(changed, 1)
    return changed * (scale / (norms + torch.finfo(weight.dtype).eps))


def a1111(weight: Tensor, tensors: Mapping[str, Tensor]) -> Tensor:
    """The weight at strength 1."""
    product, dim = _product(tensors, weight.shape)
    scale = tensors["alpha"].item() / dim if "alpha" in tensors and dim else 1.0
    changed = weight + scale * product
    if "dora_scale" in tensors:
        changed = changed * (tensors["dora_scale"] / _norms(changed, 1))
    return changed


def a1111_family(metadata: Mapping[str, str]) -> str:
    """network.py, `NetworkOnDisk.detect_version`: the family of which A1111 shows a file's card."""
    if str(metadata.get("ss_base_model_version", "")).startswith("sdxl_"):
        return "sdxl"
    if str(metadata.get("ss_v2", "")) == "True":
        return "sd2"
    return "sd1" if metadata else "unknown"
