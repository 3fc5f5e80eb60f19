"""Data augmentation: random affine and elastic distortions."""

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter  # type: ignore[import-untyped]

SIDE = 28
MAX_ROTATION_DEGREES = 12
MAX_SCALING = 0.12
MAX_SHEAR = 0.12
MAX_SHIFT_PX = 2.0
# Random displacements, smoothed over 4 pixels and stretched to about one pixel: Simard et al.,
# "Best practices for convolutional neural networks applied to visual document analysis", 2003.
ELASTIC_SIGMA_PX = 4.0
ELASTIC_STRENGTH = 26.0

# Written to model.json and the model card.
LIMITS = {
    "rotation_degrees": MAX_ROTATION_DEGREES,
    "scaling": MAX_SCALING,
    "shear": MAX_SHEAR,
    "shift_px": MAX_SHIFT_PX,
    "elastic_sigma_px": ELASTIC_SIGMA_PX,
    "elastic_strength": ELASTIC_STRENGTH,
}


def distort(images: NDArray[np.float32], generator: np.random.Generator) -> NDArray[np.float32]:
    """Apply a random distortion to each image.

    Args:
        images: Shape (n, 28, 28), in [0, 1]; not modified.
        generator: Source of all randomness.

    Returns:
        Shape (n, 28, 28), float32, in [0, 1].
    """
    rows, columns = _affine_grid(len(images), generator)
    for grid in (rows, columns):
        noise = generator.uniform(-1, 1, grid.shape).astype(np.float32)
        smooth = gaussian_filter(noise, (0, ELASTIC_SIGMA_PX, ELASTIC_SIGMA_PX), mode="constant")
        grid += ELASTIC_STRENGTH * smooth
    return _sample(images, rows, columns)


def _affine_grid(
    count: int, generator: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Source row and column of each output pixel, shape (n, 28, 28) each."""
    largest_angle = np.deg2rad(MAX_ROTATION_DEGREES)
    angle = generator.uniform(-largest_angle, largest_angle, count)
    scale = 1 + generator.uniform(-MAX_SCALING, MAX_SCALING, (2, count))
    shear = generator.uniform(-MAX_SHEAR, MAX_SHEAR, count)
    shift = generator.uniform(-MAX_SHIFT_PX, MAX_SHIFT_PX, (2, count))
    centre = (SIDE - 1) / 2
    row, column = np.meshgrid(np.arange(SIDE) - centre, np.arange(SIDE) - centre, indexing="ij")

    def each(values: NDArray[np.float64]) -> NDArray[np.float64]:
        return values[:, None, None]

    cosine, sine = np.cos(angle), np.sin(angle)
    rows = each(cosine / scale[0]) * row + each((shear - sine) / scale[0]) * column
    columns = each(sine / scale[1]) * row + each(cosine / scale[1]) * column
    rows += each(shift[0]) + centre
    columns += each(shift[1]) + centre
    return rows.astype(np.float32), columns.astype(np.float32)


def _sample(
    images: NDArray[np.float32], rows: NDArray[np.float32], columns: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Bilinear interpolation; pixels outside the image are background."""
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1)))
    rows = np.clip(rows + 1, 0, SIDE + 1 - 1e-3)
    columns = np.clip(columns + 1, 0, SIDE + 1 - 1e-3)
    top, left = rows.astype(np.intp), columns.astype(np.intp)
    down, right = rows - top, columns - left
    image = np.arange(len(images))[:, None, None]
    above = padded[image, top, left] * (1 - right) + padded[image, top, left + 1] * right
    below = padded[image, top + 1, left] * (1 - right) + padded[image, top + 1, left + 1] * right
    result: NDArray[np.float32] = (above * (1 - down) + below * down).astype(np.float32)
    return result
