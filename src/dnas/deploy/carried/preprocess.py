"""Preprocess images for the network next to this file, as described in preprocess.json. Requires numpy and Pillow.

The results are bit-for-bit identical to the inputs in training and test.
"""

import json
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

FACTS = json.loads(Path(__file__).with_name("preprocess.json").read_text("utf-8"))
CLASSES, SIZE, CHANNELS = FACTS["classes"], FACTS["image_size"], FACTS["channels"]
MEAN, STD = (np.array(FACTS[name], np.float32)[:, None, None] for name in ("mean", "std"))


def prepare(*pictures):
    """Return images (paths or Pillow images) as float32 [N, channels, size, size], normalized."""
    return np.stack([(square(picture).astype(np.float32) / 255 - MEAN) / STD for picture in pictures])


def square(picture):
    """Return an image as uint8 [channels, size, size]: upright, on white, grayscale or RGB, resized by the rule."""
    image = picture if isinstance(picture, Image.Image) else Image.open(picture)
    if image.mode == "F" or image.mode.startswith("I"):
        raise ValueError("the image has more than 8 bits per channel; convert it first")
    image = ImageOps.exif_transpose(image)
    if "transparency" in image.info or image.mode in ("RGBA", "RGBa", "LA", "La", "PA"):
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    image = image.convert("L" if CHANNELS == 1 else "RGB")
    pixels = np.asarray({"crop": cropped, "pad": padded, "squeeze": squeezed}[FACTS["resize"]](image))
    return pixels.reshape(SIZE, SIZE, CHANNELS).transpose(2, 0, 1)


def cropped(image):
    """Resize the shorter side to the size, and center-crop."""
    (width, height), side = image.size, min(image.size)
    if side == SIZE:
        left, top = (width - side) // 2, (height - side) // 2
        return image.crop((left, top, left + side, top + side))
    box = ((width - side) / 2, (height - side) / 2, (width + side) / 2, (height + side) / 2)
    return image.resize((SIZE, SIZE), Image.Resampling.BILINEAR, box=box)


def squeezed(image):
    """Resize both sides to the size."""
    return image if image.size == (SIZE, SIZE) else image.resize((SIZE, SIZE), Image.Resampling.BILINEAR)


def padded(image):
    """Resize the longer side to the size, and pad with the mean color."""
    longer = max(image.size)
    if longer != SIZE:
        image = image.resize([max(1, round(side * SIZE / longer)) for side in image.size], Image.Resampling.BILINEAR)
    pixels = np.asarray(image).reshape(image.height, image.width, CHANNELS)
    count = image.height * image.width
    out = np.empty((SIZE, SIZE, CHANNELS), np.uint8)
    out[:] = (2 * pixels.sum((0, 1), np.int64) + count) // (2 * count)
    top, left = (SIZE - image.height) // 2, (SIZE - image.width) // 2
    out[top : top + image.height, left : left + image.width] = pixels
    return out
