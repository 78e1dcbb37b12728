"""Surroundings of a synthetic face: background, occluders and camera.

Images are float32 [S, S, 3], BGR from 0 to 1. All randomness comes from the generator `rng`.
"""

import cv2
import numpy as np


def _colour(rng: np.random.Generator) -> np.ndarray:
    saturation = rng.choice([0.04, 0.15], p=[0.65, 0.35])
    return np.clip(rng.uniform(0.03, 0.95) + rng.normal(0, saturation, 3), 0, 1).astype(np.float32)


def _noise(rng: np.random.Generator, size: int, cells: int, channels: int = 3) -> np.ndarray:
    coarse = rng.random((cells, cells, channels)).astype(np.float32)
    noise = cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC)
    return noise.reshape(size, size, channels)


def _gradient(rng: np.random.Generator, size: int) -> np.ndarray:
    angle = rng.uniform(0, 2 * np.pi)
    rows, columns = np.mgrid[:size, :size].astype(np.float32) / size - 0.5
    t = np.clip(0.5 + columns * np.cos(angle) + rows * np.sin(angle), 0, 1)[..., None]
    return (1 - t) * _colour(rng) + t * _colour(rng)


def _stripes(rng: np.random.Generator, size: int) -> np.ndarray:
    angle, period = rng.uniform(0, np.pi), rng.uniform(6, 40)
    rows, columns = np.mgrid[:size, :size].astype(np.float32)
    wave = np.sin((columns * np.cos(angle) + rows * np.sin(angle)) * 2 * np.pi / period)
    t = np.clip(wave * rng.uniform(1, 5) + 0.5, 0, 1)[..., None].astype(np.float32)
    return (1 - t) * _colour(rng) + t * _colour(rng)


def _shapes(rng: np.random.Generator, image: np.ndarray, count: int) -> np.ndarray:
    size = len(image)
    image = np.ascontiguousarray(image)
    for _ in range(count):
        x, y, w, h = (int(v) for v in rng.uniform(0, size, 4))
        colour = _colour(rng).tolist()
        if rng.random() < 0.5:
            cv2.rectangle(image, (x - w // 4, y - h // 4), (x + w // 4, y + h // 4), colour, -1)
        else:
            turn = float(rng.uniform(0, 180))
            axes = (1 + w // 5, 1 + h // 5)
            cv2.ellipse(image, (x, y), axes, turn, 0, 360, colour, -1, cv2.LINE_AA)
    return image


def _clutter(rng: np.random.Generator, size: int) -> np.ndarray:
    """Noise of all sizes, as of leaves, crowds and rooms, between three colours."""
    amount = np.zeros((size, size, 1), np.float32)
    cells, weight, falloff = int(rng.integers(2, 5)), 1.0, rng.uniform(0.45, 0.95)
    while cells < size:
        amount += weight * (_noise(rng, size, cells, 1) - 0.5)
        cells, weight = 2 * cells, weight * falloff
    amount /= max(float(np.abs(amount).max()), 1e-6)
    low, middle, high = _colour(rng), _colour(rng), _colour(rng)
    return middle + np.maximum(amount, 0) * (high - middle) + np.maximum(-amount, 0) * (low - middle)


def background(rng: np.random.Generator, size: int) -> np.ndarray:
    """Random background of gradients, stripes, noise and shapes: float32 [size, size, 3] from 0 to 1."""
    kind = rng.integers(4)
    if kind == 0:
        image = _gradient(rng, size)
    elif kind == 1:
        image = _stripes(rng, size)
    else:
        image = _clutter(rng, size)
    if rng.random() < 0.6:
        image = _shapes(rng, image.astype(np.float32), int(rng.integers(2, 12)))
    image = image + rng.uniform(0, 0.15) * (_noise(rng, size, size // 3, 1) - 0.5)
    if rng.random() < 0.6:
        image = cv2.GaussianBlur(image.astype(np.float32), (0, 0), float(rng.uniform(0.5, 5)))
    return np.clip(image, 0, 1).astype(np.float32)


def _hand(rng: np.random.Generator, mask: np.ndarray, centre: np.ndarray, reach: float) -> None:
    palm = int(reach * 0.30)
    x, y = (int(v) for v in centre)
    cv2.circle(mask, (x, y), palm, 1.0, -1, cv2.LINE_AA)
    heading = rng.uniform(0, 2 * np.pi)
    for finger in range(4):
        angle = heading + (finger - 1.5) * 0.22
        tip = centre + reach * rng.uniform(0.6, 0.8) * np.array([np.cos(angle), np.sin(angle)])
        width = max(2, int(reach * 0.13))
        cv2.line(mask, (x, y), tuple(int(v) for v in tip), 1.0, width, cv2.LINE_AA)
    wrist = centre - 3 * reach * np.array([np.cos(heading), np.sin(heading)])
    width = max(3, int(reach * 0.42))
    cv2.line(mask, (x, y), tuple(int(v) for v in wrist), 1.0, width, cv2.LINE_AA)


def occlude(rng: np.random.Generator, image: np.ndarray, skin: np.ndarray) -> np.ndarray:
    """Occludes the face by a hand of colour `skin` (BGR from 0 to 1), a bar or a patch; returns a new image."""
    size = len(image)
    mask = np.zeros((size, size), np.float32)
    kind = rng.choice(["hand", "bar", "patch"], p=[0.4, 0.25, 0.35])
    colour = _colour(rng)
    if kind == "hand":
        _hand(rng, mask, rng.uniform(0.1, 0.9, 2) * size, size * rng.uniform(0.2, 0.4))
        colour = np.clip(skin * rng.uniform(0.8, 1.15), 0, 1)
    elif kind == "bar":
        ends = (rng.uniform(-0.2, 1.2, (2, 2)) * size).astype(int)
        start, end = map(tuple, ends.tolist())
        cv2.line(mask, start, end, 1.0, int(rng.uniform(0.04, 0.15) * size), cv2.LINE_AA)
    else:
        centre, half = rng.uniform(0, 1, 2) * size, rng.uniform(0.06, 0.2, 2) * size
        box = tuple(centre.tolist()), tuple((2 * half).tolist()), float(rng.uniform(0, 90))
        cv2.fillPoly(mask, [cv2.boxPoints(box).astype(np.int32)], 1.0, cv2.LINE_AA)
    texture = colour * (0.85 + 0.3 * _noise(rng, size, int(rng.integers(4, 30)), 1))
    mask = mask[..., None]
    return image * (1 - mask) + mask * np.clip(texture, 0, 1).astype(np.float32)


def photograph(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """Simulates a camera's exposure, contrast, size, blur, noise and JPEG -> uint8 [S, S, 3]."""
    size = len(image)
    image = np.clip(image, 0, 1) ** np.float32(rng.uniform(0.75, 1.2))
    contrast, brightness = np.float32(rng.uniform(0.8, 1.2)), np.float32(rng.normal(0, 0.04))
    image = (image - 0.5) * contrast + 0.5 + brightness
    tint = rng.normal(0, 0.03, 3).astype(np.float32)
    image = image * (1 + tint)
    if rng.random() < 0.12:
        image = np.repeat(image.mean(axis=2, keepdims=True), 3, axis=2)
    if rng.random() < 0.2:  # a small face, enlarged
        small = int(size * rng.uniform(0.3, 0.8))
        image = cv2.resize(cv2.resize(image, (small, small), interpolation=cv2.INTER_AREA), (size, size))
    elif rng.random() < 0.5:
        image = cv2.GaussianBlur(image, (0, 0), float(rng.uniform(0.3, 1.3)))
    image = image + rng.normal(0, rng.uniform(0, 0.025), image.shape).astype(np.float32)
    pixels = (np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8)
    if rng.random() < 0.5:
        quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(40, 96))]
        pixels = cv2.imdecode(cv2.imencode(".jpg", pixels, quality)[1], cv2.IMREAD_COLOR)
    return pixels
