"""Every error that alexnet-deploy raises on purpose.

AlexnetDeployError
├── InputError            a batch or an option that cannot be used: dtype, shape, NaN, range  (also a ValueError)
├── PictureError          a picture that cannot be read
├── DataError             a picture set that cannot be used: empty, one class, not labelled
│   └── CalibrationError  a calibration set that would give wrong ranges
├── ArtifactError         a file that is not what it should be
│   ├── ArtifactMissing   there is no such file
│   ├── ArtifactCorrupt   truncated, changed, or not of its format
│   ├── ManifestError     no manifest, or one that does not fit
│   └── ModelError        a sound graph that is no single-input image classifier
├── BuildError            TensorRT refused to build
├── BackendError          an inference backend failed
│   ├── BackendMissing    a package is not installed
│   ├── DeviceMissing     the device asked for is not here
│   ├── OutputNotFinite   it gave NaN or infinity
│   └── RuntimeClosed     used after close()
├── ServingError          a sound request that a sound server does not answer
│   ├── UnknownModel      no model of this name and version is served
│   ├── RequestTooLarge   more bytes or rows than the server takes
│   ├── AccessDenied      no token, the wrong one, or a page of another site
│   ├── Overloaded        more work waits than can be done in time
│   └── ClientGone        the client hung up before its answer
└── GateMissed            a measured figure is outside its limit (exit code 1; all others 2)

An error says what was found, what was expected, and the command that mends it:

    raise ArtifactMissing("alexnet.onnx does not exist", expected="an ONNX graph", fix="alexnet-deploy export")
"""

from __future__ import annotations


class AlexnetDeployError(Exception):
    """Base of all errors raised on purpose.

    Attributes:
        found: what is wrong, one sentence without its full stop.
        expected: what should have been there, or "".
        fix: a command or an action that mends it, or "".
    """

    exit_code = 2

    def __init__(self, found: str, *, expected: str = "", fix: str = "") -> None:
        self.found = found
        self.expected = expected
        self.fix = fix
        super().__init__(found)

    def __str__(self) -> str:
        text = self.found
        if self.expected:
            text += f"; expected {self.expected}"
        if self.fix:
            text += f". Try: {self.fix}"
        return text

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), self.found, self.expected, self.fix)


def _rebuild(kind: type[AlexnetDeployError], found: str, expected: str, fix: str) -> AlexnetDeployError:
    return kind(found, expected=expected, fix=fix)


class InputError(AlexnetDeployError, ValueError):
    """A batch or an option that cannot be used."""


class PictureError(AlexnetDeployError):
    """A picture that cannot be read."""


class DataError(AlexnetDeployError):
    """A picture set that cannot be used."""


class CalibrationError(DataError):
    """A calibration set that would give wrong ranges."""


class ArtifactError(AlexnetDeployError):
    """A file that is not what it should be."""


class ArtifactMissing(ArtifactError):
    """There is no such file."""


class ArtifactCorrupt(ArtifactError):
    """A file that is truncated, changed, or not of its format."""


class ManifestError(ArtifactError):
    """No manifest beside an artifact, or one that does not fit it."""


class ModelError(ArtifactError):
    """A sound graph that is no single-input image classifier."""


class BuildError(AlexnetDeployError):
    """TensorRT refused to build an engine."""


class BackendError(AlexnetDeployError):
    """An inference backend failed."""


class BackendMissing(BackendError):
    """A package that a backend needs is not installed."""


class DeviceMissing(BackendError):
    """The device asked for is not on this machine."""


class OutputNotFinite(BackendError):
    """An engine gave NaN or infinity for finite input."""


class RuntimeClosed(BackendError):
    """A Runtime was used after close()."""


class ServingError(AlexnetDeployError):
    """A sound request that a sound server does not answer."""


class UnknownModel(ServingError):
    """No model of this name and version is served."""


class RequestTooLarge(ServingError):
    """A request has more bytes or rows than the server takes."""


class AccessDenied(ServingError):
    """A request without the token, with a wrong one, or from a page of another site."""


class Overloaded(ServingError):
    """More work waits than can be done in time.

    Attributes:
        retry_after_s: when it is worth asking again, in seconds.
    """

    retry_after_s: float = 1.0


class ClientGone(ServingError):
    """The client hung up before its answer."""


class GateMissed(AlexnetDeployError):
    """A measured figure is outside its limit."""

    exit_code = 1


class DeployWarning(UserWarning):
    """Something that a person should know of, though the work goes on; the command line prints these, and no others."""


class DataWarning(DeployWarning):
    """Pictures that make a result look better, or worse, than it is."""


class FallbackWarning(DeployWarning):
    """Something slower than asked for runs instead, and the result says so."""
