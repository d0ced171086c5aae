"""Augmentation against slow, obvious loops over single pixels that take the same draws."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dnas.data.augment import Augmentation, augment, normalise
from dnas.data.splits import DataInfo
from dnas.errors import InputError
from dnas.rng import torch_stream


def info_for(channels: int) -> DataInfo:
    mean, std = (0.5, 0.4, 0.3)[:channels], (0.25, 0.2, 0.1)[:channels]
    return DataInfo("test", ("a", "b"), channels, 8, mean, std, True)


def pool(count: int, channels: int, height: int, width: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(1, 256, (count, channels, height, width), generator=generator).to(torch.uint8)


def slowly(images, indices, recipe, info, generator) -> np.ndarray:
    """One pixel at a time; no rotation."""
    draws = torch.rand(6, len(indices), generator=generator).tolist()
    shifts = torch.rand(3, len(indices), generator=generator).tolist() if recipe.color else None
    channels, height, width = images.shape[1:]
    result = np.zeros((len(indices), channels, height, width))
    for b, index in enumerate(indices.tolist()):
        down = math.floor(draws[0][b] * (2 * recipe.pad + 1))
        right = math.floor(draws[1][b] * (2 * recipe.pad + 1))
        mirror = recipe.flip and draws[2][b] >= 0.5
        cut_y = math.floor(draws[3][b] * height) - recipe.cutout // 2
        cut_x = math.floor(draws[4][b] * width) - recipe.cutout // 2
        normal = np.zeros((channels, height, width))
        for c in range(channels):
            padded = np.zeros((height + 2 * recipe.pad, width + 2 * recipe.pad))
            padded[recipe.pad : recipe.pad + height, recipe.pad : recipe.pad + width] = images[index, c]
            crop = padded[down : down + height, right : right + width]
            for y in range(height):
                for x in range(width):
                    value = crop[y, width - 1 - x] if mirror else crop[y, x]
                    normal[c, y, x] = (value / 255 - info.mean[c]) / info.std[c]
        contrast, saturation, brightness = [(2 * row[b] - 1) * recipe.color for row in shifts] if shifts else (0, 0, 0)
        for y in range(height):
            for x in range(width):
                cut = cut_y <= y < cut_y + recipe.cutout and cut_x <= x < cut_x + recipe.cutout
                for c in range(channels):
                    value = normal.mean() + (1 + contrast) * (normal[c, y, x] - normal.mean()) + brightness
                    gray = normal.mean() + (1 + contrast) * (normal[:, y, x].mean() - normal.mean()) + brightness
                    result[b, c, y, x] = 0 if cut else gray + (1 + saturation) * (value - gray)
    return result


@settings(deadline=None, max_examples=60)
@given(
    channels=st.sampled_from([1, 3]),
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    pad=st.integers(0, 5),
    flip=st.booleans(),
    cutout=st.integers(0, 12),
    color=st.sampled_from([0.0, 0.3, 0.9]),
    seed=st.integers(0, 10**6),
)
def test_it_is_what_the_slow_loop_does(channels, height, width, pad, flip, cutout, color, seed):
    images, info = pool(5, channels, height, width), info_for(channels)
    indices = torch.tensor([3, 0, 3, 4])
    recipe = Augmentation(pad, flip, cutout, color=color)
    fast = augment(images[indices], recipe, info, torch_stream(seed, "augment"))
    slow = slowly(images, indices, recipe, info, torch_stream(seed, "augment"))
    assert fast.dtype == torch.float32
    np.testing.assert_allclose(fast.numpy(), slow, atol=2e-5)


def test_every_offset_flip_and_centre_comes_up():
    size, pad, count = 4, 1, 2000
    ramp = torch.arange(1, 17, dtype=torch.uint8).reshape(1, 1, size, size)
    info = DataInfo("test", ("a", "b"), 1, size, (0.0,), (1 / 255,), True)
    batch = augment(
        ramp.expand(count, -1, -1, -1),
        Augmentation(pad, True, 0),
        info,
        torch_stream(0, "augment"),
    ).round()
    kinds, counts = torch.unique(batch.flatten(1), dim=0, return_counts=True)
    assert len(kinds) == 3 * 3 * 2
    assert counts.min() > count / 18 * 0.6 and counts.max() < count / 18 * 1.5
    ones = torch.full((1, 1, size, size), 255, dtype=torch.uint8)
    cut = augment(
        ones.expand(count, -1, -1, -1),
        Augmentation(0, False, 1),
        info,
        torch_stream(0, "augment"),
    )
    assert ((cut == 0).flatten(1).sum(1) == 1).all()
    per_pixel = (cut == 0).sum((0, 1))
    assert per_pixel.min() > count / 16 * 0.6 and per_pixel.max() < count / 16 * 1.5


def test_cutout_zeroes_at_most_its_square_after_normalising():
    images, info = torch.full((1, 3, 32, 32), 255, dtype=torch.uint8), info_for(3)
    indices = torch.zeros(500, dtype=torch.int64)
    batch = augment(images[indices], Augmentation(0, False, 16), info, torch_stream(1, "augment"))
    blank = batch == 0
    assert torch.equal(blank[:, 0], blank[:, 1]) and torch.equal(blank[:, 0], blank[:, 2])
    areas = blank[:, 0].flatten(1).sum(1)
    assert areas.max() == 256 and areas.min() >= 64  # a centre in a corner leaves a quarter
    others = batch[~blank]
    assert set(np.round(others.unique().numpy(), 4)) == {2.0, 3.0, 7.0}  # white, normalised


def turned(image: np.ndarray, degrees: float) -> tuple[np.ndarray, np.ndarray]:
    """Counter-clockwise about the centre, nearest, black outside; and which pixels are no close call."""
    height, width = image.shape
    angle = math.radians(degrees)
    result, sure = np.zeros_like(image), np.ones(image.shape, bool)
    for row in range(height):
        for column in range(width):
            right, up = column - (width - 1) / 2, (height - 1) / 2 - row
            # What lands here came from the place turned back clockwise.
            from_right = right * math.cos(angle) + up * math.sin(angle)
            from_up = up * math.cos(angle) - right * math.sin(angle)
            x, y = from_right + (width - 1) / 2, (height - 1) / 2 - from_up
            sure[row, column] = abs(x % 1 - 0.5) > 1e-3 and abs(y % 1 - 0.5) > 1e-3
            if 0 <= round(x) < width and 0 <= round(y) < height:
                result[row, column] = image[round(y), round(x)]
    return result, sure


@pytest.mark.parametrize(("height", "width"), [(9, 9), (8, 8), (7, 12)])
def test_rotation_is_what_turning_each_pixel_gives(height, width):
    info = DataInfo("test", ("a", "b"), 1, 8, (0.0,), (1 / 255,), True)
    images = pool(20, 1, height, width)
    batch = augment(images, Augmentation(0, False, 0, 60.0), info, torch_stream(3, "augment"))
    angles = (torch.rand(6, 20, generator=torch_stream(3, "augment"))[5] * 2 - 1) * 60
    assert angles.min() < -20 and angles.max() > 20
    for before, after, angle in zip(images, batch, angles, strict=True):
        expected, sure = turned(before[0].numpy().astype(float), float(angle))
        assert sure.mean() > 0.9
        np.testing.assert_allclose(after[0].numpy()[sure], expected[sure], atol=1e-3)


def test_a_quarter_turn_is_that_of_numpy():
    assert np.array_equal(turned(np.arange(25.0).reshape(5, 5), 90)[0], np.rot90(np.arange(25.0).reshape(5, 5)))


def test_rotation_by_nothing_changes_nothing():
    images, info = pool(6, 3, 10, 10), info_for(3)
    plain = augment(images[:6], Augmentation(2, True, 4), info, torch_stream(0, "augment"))
    turned_little = augment(images[:6], Augmentation(2, True, 4, 1e-6), info, torch_stream(0, "augment"))
    assert torch.equal(plain, turned_little)  # and the angle's draws shift none of the others


def test_nothing_to_do_is_normalising():
    images, info = pool(4, 3, 8, 8), info_for(3)
    indices = torch.tensor([2, 2, 1])
    batch = augment(images[indices], Augmentation(0, False, 0), info, torch_stream(0, "augment"))
    assert torch.equal(batch, normalise(images[indices], info))


@pytest.mark.parametrize(
    ("recipe", "rows"),
    [
        (Augmentation(0, False, 0), 6), (Augmentation(4, True, 16), 6), (Augmentation(0, True, 0, 20.0), 6),
        (Augmentation(2, True, 0, 0.0, 0.3), 9),
    ],
)  # fmt: skip
def test_a_pure_function_that_always_takes_as_many_draws(recipe, rows):
    images, info, indices = pool(7, 3, 8, 8), info_for(3), torch.arange(7)
    kept, state = images.clone(), torch.get_rng_state()
    generator = torch_stream(5, "augment")
    first = augment(images[indices], recipe, info, generator)
    after = torch.rand(1, generator=generator)
    again = augment(images[indices], recipe, info, torch_stream(5, "augment"))
    assert torch.equal(first, again)
    assert torch.equal(images, kept) and torch.equal(torch.get_rng_state(), state)
    plain = torch_stream(5, "augment")
    torch.rand(rows, 7, generator=plain)
    assert torch.equal(after, torch.rand(1, generator=plain))


def test_the_default_dtype_of_torch_has_no_say():
    images, info, indices = pool(7, 3, 8, 8), info_for(3), torch.arange(7)
    recipe = Augmentation(2, True, 3, 10.0, 0.2)
    expected = augment(images[indices], recipe, info, torch_stream(5, "augment"))
    torch.set_default_dtype(torch.float64)
    try:
        batch = augment(images[indices], recipe, info, torch_stream(5, "augment"))
    finally:
        torch.set_default_dtype(torch.float32)
    assert batch.dtype == torch.float32 and torch.equal(batch, expected)


def test_a_part_of_a_batch_is_augmented_as_in_the_batch():
    images, info = pool(7, 3, 8, 8), info_for(3)
    recipe = Augmentation(2, True, 3, 10.0, 0.2)
    whole = augment(images, recipe, info, torch_stream(5, "augment"))
    part = augment(images[2:5], recipe, info, torch_stream(5, "augment"), among=(2, 7))
    torch.testing.assert_close(part, whole[2:5], rtol=0, atol=1e-6)


def test_normalise_is_the_formula():
    images, info = pool(3, 3, 5, 5), info_for(3)
    kept = images.clone()
    mean, std = np.array(info.mean).reshape(3, 1, 1), np.array(info.std).reshape(3, 1, 1)
    expected = (images.numpy() / 255 - mean) / std
    np.testing.assert_allclose(normalise(images, info).numpy(), expected, atol=1e-5)
    exact = normalise(images, info, torch.float64)
    assert exact.dtype == torch.float64
    np.testing.assert_allclose(exact.numpy(), expected, atol=1e-12)
    half = normalise(images, info, torch.bfloat16)
    assert half.dtype == torch.bfloat16 and torch.equal(half, normalise(images, info).to(torch.bfloat16))
    assert torch.equal(images, kept)


def test_a_pool_that_is_laid_out_otherwise_gives_the_same():
    images, info = pool(4, 3, 8, 8), info_for(3)
    strided = images.to(memory_format=torch.channels_last)
    recipe = Augmentation(2, True, 4)
    one, other = (augment(x, recipe, info, torch_stream(0, "augment")) for x in (images, strided))
    assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [((-1, True, 0), "pad"), ((0, True, -1), "cutout"), ((0, True, 0, -1.0), "rotation"),
     ((0, True, 0, 181.0), "rotation"), ((0, True, 0, float("nan")), "rotation"), ((0, True, 0, 0.0, 1.0), "color"),
     ((0, True, 0, 0.0, -0.1), "color")],
)  # fmt: skip
def test_numbers_out_of_range_are_refused(arguments, word):
    with pytest.raises(InputError, match=word):
        Augmentation(*arguments)
