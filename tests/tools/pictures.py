"""What the tests read from figures."""

from pathlib import Path

from PIL import Image

BLUE, ORANGE = (31, 119, 180), (255, 127, 14)


def colours(image: Path) -> set[tuple[int, ...]]:
    """Return the colours of a figure, which must be large enough."""
    with Image.open(image) as picture:
        assert picture.format == "PNG"
        assert picture.width > 500
        assert picture.height > 300
        found = picture.convert("RGB").getcolors(picture.width * picture.height)
    return {colour for _, colour in found}
