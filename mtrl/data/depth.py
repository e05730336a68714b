"""Depth images in RLBench's packing, images at smaller sizes, and point clouds from depth."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mtrl.core.errors import expected
from mtrl.core.types import FloatArray
from mtrl.data.demos import CameraModel, Image

_LARGEST = 2**24 - 1


def pack_depth(depth: FloatArray, near: float, far: float) -> NDArray[np.uint8]:
    """Depth (H, W) in metres as colours (H, W, 3) of a PNG: 24 bits from near to far, the highest 8 in red."""
    share = (np.asarray(depth, np.float64) - near) / (far - near)
    value = np.rint(share.clip(0, 1) * _LARGEST).astype(np.uint32)
    return np.stack([value >> 16, value >> 8 & 255, value & 255], -1).astype(np.uint8)


def unpack_depth(colours: NDArray[np.uint8], near: float, far: float) -> FloatArray:
    """Colours (H, W, 3) as depth (H, W) in metres: near + (65536 R + 256 G + B) / (2²⁴ − 1) · (far − near)."""
    value = colours.astype(np.float64) @ np.array([65536.0, 256.0, 1.0])
    return (near + value / _LARGEST * (far - near)).astype(np.float32)


def shrink(image: Image, camera: CameraModel, size: int, name: str = "Picture") -> tuple[Image, CameraModel]:
    """The image and its camera at `size` × `size` pixels. Colours are averaged; depth and mask are subsampled.

    name: the image's name in errors.

    Raises:
        UserError: the image is not square, or its side is not a multiple of `size`.
    """
    height, width = image.rgb.shape[:2]
    if height != width or height % size:
        wanted = f"square and a multiple of {size} pixels (`benchmark.image_size`)"
        raise expected(name, wanted, f"{height} x {width}")
    factor = height // size
    if factor == 1:
        return image, camera
    rgb = image.rgb.reshape(size, factor, size, factor, 3).mean((1, 3))
    picked = slice(factor // 2, None, factor)
    depth = None if image.depth is None else image.depth[picked, picked]
    mask = None if image.mask is None else image.mask[picked, picked]
    scaled = np.array(camera.intrinsics, np.float64)
    scaled[:2, 2] -= factor // 2  # pixel u of the small image is pixel u · factor + factor // 2 of the large one
    scaled[:2] /= factor
    return Image(np.rint(rgb).astype(np.uint8), depth, mask), replace(camera, intrinsics=scaled)


def point_cloud(depth: Tensor, intrinsics: Tensor, extrinsics: Tensor) -> Tensor:
    """The world points of all pixels (u, v): R [(u − c_x) z / f_x, (v − c_y) z / f_y, z] + C.

    depth z (.., H, W), intrinsics (.., 3, 3), extrinsics [R C] (.., 4, 4) camera to world -> (.., 3, H, W), in metres.
    """
    height, width = depth.shape[-2:]
    u = torch.arange(width, device=depth.device, dtype=depth.dtype)
    v = torch.arange(height, device=depth.device, dtype=depth.dtype).unsqueeze(-1)
    fx, fy, cx, cy = (intrinsics[..., i, j, None, None] for i, j in ((0, 0), (1, 1), (0, 2), (1, 2)))
    local = torch.stack([(u - cx) / fx * depth, (v - cy) / fy * depth, depth], -3).flatten(-2)
    world = extrinsics[..., :3, :3] @ local + extrinsics[..., :3, 3:]
    return world.unflatten(-1, (height, width))
