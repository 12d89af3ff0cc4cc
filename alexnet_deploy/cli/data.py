"""Which pictures a command looks at when it was not told."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from alexnet_deploy.manifest import Manifest
    from alexnet_deploy.pictures import PictureSet


def held_out(data: str | None, manifest: Manifest) -> PictureSet:
    """The pictures of `--data`, or the demo's test pictures for a model that was trained on the demo's others.

    Raises:
        DataError: none were named, and the training pictures are no measure of accuracy; or as PictureSet.open.
    """
    from alexnet_deploy.errors import DataError
    from alexnet_deploy.pictures import PictureSet

    if data is not None:
        return PictureSet.open(data)
    if manifest.pictures is not None and manifest.pictures.location == "demo:train":
        return PictureSet.open("demo:test")
    raise DataError(
        f"no pictures to compare {manifest.file} on",
        expected="pictures that it was not trained on",
        fix="--data DIR, a folder with one subfolder a class",
    )
