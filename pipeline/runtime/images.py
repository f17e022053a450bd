"""From an encoded image to what a file takes: the same steps in training and on a device.

This room ships to devices: it imports numpy and pillow, and nothing else of this package.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

MOST_PIXELS = 64_000_000  # of an encoded image: a few bytes can claim to be any size


class ImageError(Exception):
    """An image that cannot be decoded: what is wrong, and with which."""


def decode(
    source: Path | IO[bytes],
    height: int,
    width: int,
    channels: int,
    *,
    formats: tuple[str, ...] | None = None,
    most_pixels: int = MOST_PIXELS,
) -> Any:
    """Decode one image to uint8 ``[height, width, channels]``.

    The orientation that a camera notes in EXIF is not applied: the pixels are taken as they
    are stored, in training (``data/image_folder.py`` calls this function) as on the device.

    Args:
        source: a JPEG, PNG or any other file that Pillow reads.
        height: in pixels.
        width: in pixels.
        channels: 3 for RGB, 1 for grey.
        formats: by Pillow's names; no decoder of another one is tried.
        most_pixels: that the encoded image may have, told by its header.

    Raises:
        ImageError: it is no image, a broken one, or larger than ``most_pixels``.
    """
    try:
        with Image.open(source, formats=formats) as opened:
            _refuse_huge(opened, source, most_pixels)
            image: Image.Image = opened.convert("RGB" if channels == 3 else "L")
    except ImageError:
        raise
    except UnidentifiedImageError as error:  # its own words name an address in memory
        known = " or ".join(formats) if formats else "image of a known kind"
        raise ImageError(f"{_name(source)} cannot be decoded: it is no {known}.") from error
    except Exception as error:  # a broken file makes its decoder fail in any way
        raise ImageError(f"{_name(source)} cannot be decoded: {error}.") from error
    return fitted(image, height, width)


def fitted(image: Image.Image, height: int, width: int) -> Any:
    """Return an image as uint8 ``[height, width, channels]``.

    It is resized, its proportions kept, until it covers the wanted size, and its centre is
    cut out, with Pillow's bilinear filter.

    Args:
        image: in colour or grey.
        height: in pixels.
        width: in pixels.
    """
    if image.size != (width, height):
        scale = max(height / image.height, width / image.width)
        wide = max(width, round(image.width * scale))
        high = max(height, round(image.height * scale))
        image = image.resize((wide, high), Image.Resampling.BILINEAR)
        left, top = (wide - width) // 2, (high - height) // 2
        image = image.crop((left, top, left + width, top + height))
    array = np.asarray(image, dtype=np.uint8)
    return array if array.ndim == 3 else array[:, :, None]


def prepare(pixels: npt.NDArray[np.uint8], facts: Mapping[str, Any]) -> Any:
    """Return pixels as the file takes them, float32 ``[n, c, h, w]``.

    Args:
        pixels: ``[h, w, c]`` of one image or ``[n, h, w, c]`` of several.
        facts: of the file, as ``read_metadata`` returns them: ``preprocessing``, ``mean``
            and ``std``. A file that normalises by itself gets raw pixels.

    Raises:
        ImageError: the facts say nothing of it.
    """
    images = pixels if pixels.ndim == 4 else pixels[None]
    shown = np.ascontiguousarray(images.transpose(0, 3, 1, 2)).astype(np.float32)
    if facts.get("preprocessing") == "raw uint8":
        return shown
    if "mean" not in facts or "std" not in facts:
        raise ImageError(
            "the file does not say how its images are normalised (no mean and std in its "
            "metadata). Export it with pare, or normalise them yourself."
        )
    shape = (1, -1, 1, 1)
    mean = np.asarray(facts["mean"], np.float32).reshape(shape)
    std = np.asarray(facts["std"], np.float32).reshape(shape)
    return (shown / np.float32(255) - mean) / std


def _refuse_huge(image: Image.Image, source: Path | IO[bytes], most: int) -> None:
    if image.width * image.height > most:
        raise ImageError(
            f"{_name(source)} claims {image.width} x {image.height} pixels; at most "
            f"{most:,} are decoded. Make it smaller."
        )


def _name(source: Path | IO[bytes]) -> str:
    return str(source) if isinstance(source, Path) else "the image"
