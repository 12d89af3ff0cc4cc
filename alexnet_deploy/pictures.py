"""Picture sets: in any layout that `datasets` reads, lists of files, and the embedded demo set; read one picture at a time.

PictureSet.open("photos/val")     one subfolder a class (ImageFolder), or a flat folder without labels
PictureSet.open("cifar-10:train") one part of a set that is divided
PictureSet.open("demo:test")      1,000 pictures of Fashion-MNIST that ship with the package
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cache
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt

from alexnet_deploy import datasets
from alexnet_deploy.datasets.found import UNLABELLED as UNLABELLED
from alexnet_deploy.datasets.found import Labels as Labels
from alexnet_deploy.decoding import Fitted, InMemory, Packed, Source, decoded, fitted
from alexnet_deploy.files import file_sha256
from alexnet_deploy.manifest import DataReference, Preprocess
from alexnet_deploy.preprocess import Batch, Pixels, normalise

MAX_PICTURES_AHEAD = 256
_MOST_HASHED_BYTES = 1 << 30
_SPREAD = 1000


@dataclass(frozen=True, eq=False)
class PictureSet:
    """An ordered set of pictures, labelled or not; nothing is decoded before it is asked for.

    Attributes:
        location: what opens it again: "demo:test", or an absolute path, with ":train" or ":test" where the set is divided.
        classes: names of the classes, or () when unlabelled.
        labels: int64 (N,), an index into `classes`; -1 where unlabelled.
        sources: files, files inside of files, or uint8 arrays (H, W, 3) in memory.
        names: how each picture is called in reports.
    """

    location: str
    classes: tuple[str, ...]
    labels: Labels
    sources: Sequence[Source]
    names: Sequence[str]

    @classmethod
    def open(cls, location: str | Path) -> PictureSet:
        """Opens "demo:train" or "demo:test", a folder in a known layout, or WebDataset shards.

        A set that is divided gives its test pictures, unless ":train" is added.

        Raises:
            DataError: nothing there, nothing in a layout that is known, or a class without pictures.
        """
        text = str(location)
        if text == "demo" or text.startswith("demo:"):
            return _demo(text.partition(":")[2] or "test")
        found = datasets.read(text)
        return cls(found.location, found.classes, found.labels, found.sources, found.names)

    @classmethod
    def open_training(cls, location: str | Path) -> PictureSet:
        """As `open`, but the training pictures of a set that is divided, where no part is named. Raises DataError."""
        text = str(location)
        if text.partition(":")[0] == "demo":
            return cls.open("demo:train" if text == "demo" else text)
        return cls.open(datasets.training_part(text))

    @classmethod
    def from_files(cls, files: Sequence[Path], location: str = "list of files") -> PictureSet:
        return cls(location, (), np.full(len(files), UNLABELLED, np.int64), tuple(files), [str(f) for f in files])

    def __len__(self) -> int:
        return len(self.sources)

    @property
    def labelled(self) -> bool:
        return bool(self.classes)

    def picture(self, index: int) -> Pixels:
        """uint8 (H, W, 3) RGB. Raises PictureError."""
        return decoded(self.sources[index])

    def pixels(self, recipe: Preprocess, batch_size: int) -> Iterator[tuple[Pixels, Labels]]:
        """Fitted pictures, uint8 (n, height, width, 3), and their labels, in order; the last batch may be shorter."""
        batch_size = min(batch_size, len(self) or 1)
        ahead = min(2 * batch_size, MAX_PICTURES_AHEAD)
        with closing(fitted(self.sources, recipe, ahead=ahead)) as pictures:  # ends its threads, also when the caller stops early
            for start in range(0, len(self), batch_size):
                found = list(islice(pictures, batch_size))
                yield np.stack([_sound(picture) for picture in found]), self.labels[start : start + len(found)]

    def batches(self, recipe: Preprocess, batch_size: int) -> Iterator[tuple[Batch, Labels]]:
        """Preprocessed pictures, float32 in the recipe's layout, and their labels."""
        for pixels, labels in self.pixels(recipe, batch_size):
            yield normalise(pixels, recipe), labels

    def subset(self, indices: Sequence[int] | npt.NDArray[np.integer]) -> PictureSet:
        """The pictures at `indices`, in that order."""
        chosen = [int(i) for i in indices]
        return PictureSet(
            self.location,
            self.classes,
            self.labels[chosen],
            [self.sources[i] for i in chosen],
            [self.names[i] for i in chosen],
        )

    def sample(self, count: int, seed: int = 0) -> PictureSet:
        """`count` different pictures drawn with `seed`, spread evenly over the classes, in the set's own order."""
        if count >= len(self):
            return self
        generator = np.random.default_rng(seed)
        order = generator.permutation(len(self))
        # The k-th picture of every class comes before the (k+1)-th of any: a stable sort by rank within the class.
        rank = np.empty(len(self), np.int64)
        seen: dict[int, int] = {}
        for index in order:
            label = int(self.labels[index])
            rank[index] = seen.get(label, 0)
            seen[label] = rank[index] + 1
        chosen = order[np.argsort(rank[order], kind="stable")[:count]]
        return self.subset(np.sort(chosen))

    def content_hashes(self) -> list[str]:
        """SHA-256 of every picture's content (file bytes, or pixels), in order."""
        return [_content_hash(source) for source in self.sources]

    def digest(self) -> str:
        """SHA-256 of the set's content, whatever its order and its file names.

        Of a set of more than 1 GiB it is that of all sizes, and of the content of a thousand pictures spread over the set:
        reading ImageNet takes minutes from the fastest disk, and hours from others. There the order tells which these are.
        """
        sizes = [_size_bytes(source) for source in self.sources]
        if sum(sizes) <= _MOST_HASHED_BYTES:
            return hashlib.sha256("".join(sorted(self.content_hashes())).encode()).hexdigest()
        spread = self.subset(np.linspace(0, len(self) - 1, _SPREAD).astype(np.int64))
        return hashlib.sha256(f"{sorted(sizes)} {sorted(spread.content_hashes())}".encode()).hexdigest()

    def reference(self) -> DataReference:
        return DataReference(location=self.location, count=len(self), sha256=self.digest())


def _sound(picture: Fitted) -> Pixels:
    if isinstance(picture, Exception):
        raise picture
    return picture


def _size_bytes(source: Source) -> int:
    """Of the file, or of the pixels in memory."""
    if isinstance(source, (str, Path)):
        return Path(source).stat().st_size
    return source.nbytes if isinstance(source, np.ndarray) else source.size


def _content_hash(source: Source) -> str:
    if isinstance(source, (str, Path)):
        return file_sha256(Path(source))
    if isinstance(source, (Packed, InMemory)):
        return hashlib.sha256(source.read()).hexdigest()
    return hashlib.sha256(f"{source.shape}".encode() + source.tobytes()).hexdigest()


@cache
def _demo(split: str) -> PictureSet:
    from alexnet_deploy import demo_data

    grey, labels = demo_data.load(split)
    rgb = np.repeat(grey[..., None], 3, axis=-1)
    names = [f"{split}/{demo_data.CLASSES[label]}/{index:04d}" for index, label in enumerate(labels)]
    return PictureSet(f"demo:{split}", demo_data.CLASSES, labels.astype(np.int64), tuple(rgb), names)
