"""Which pictures a command measures on."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from alexnet_deploy.manifest import Manifest
    from alexnet_deploy.pictures import PictureSet


def held_out(data: str | None, manifest: Manifest) -> PictureSet:
    """The pictures of `--data`; of none, those that were held out while the model was trained.

    Where `--data` is the undivided folder that the model was trained on, that is the tenth of it that was held out.

    Raises:
        DataError: none were named and none are known, or they are not there; or as PictureSet.open.
    """
    from alexnet_deploy.errors import DataError
    from alexnet_deploy.pictures import PictureSet

    if data is None:
        if not manifest.held_out:
            raise DataError(
                f"no pictures to compare {manifest.file} on",
                expected="pictures that it was not trained on",
                fix="--data DIR, a folder with one subfolder a class",
            )
        try:
            return PictureSet.open(manifest.held_out)
        except DataError as error:
            raise DataError(
                f"the pictures that {manifest.file} was measured on while it was trained are not there: {error.found}",
                expected=error.expected,
                fix="--data DIR",
            ) from error
    pictures = PictureSet.open(data)
    return PictureSet.open(manifest.held_out) if manifest.held_out == f"{pictures.location}:test" else pictures
