"""Opens a GGUF file, and reads its metadata."""

import struct
from pathlib import Path
from typing import Any

from mobilellm.files import describe_invalid_file

GGUF_SUFFIX = ".gguf"
_MAGIC = b"GGUF"


def gguf_package(purpose: str) -> Any:
    """The package `gguf`.

    Args:
        purpose: what it is needed for, for the message.

    Raises:
        ValueError: it is not installed.
    """
    try:
        import gguf
    except ImportError:
        raise ValueError(
            f"{purpose} needs the package gguf, which is not installed; install it with pip "
            "install 'mobilellm[gguf]'"
        ) from None
    return gguf


class GgufFile:
    """The metadata and the tensors of a GGUF file; tensors are not in memory until they are used.

    Args:
        path: path of the file.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: it is not a GGUF file, or it is truncated; or the package `gguf` is not
            installed.
    """

    def __init__(self, path: Path) -> None:
        """Read the metadata."""
        if not path.is_file():
            raise FileNotFoundError(f"{path} does not exist; give a GGUF file")
        with path.open("rb") as file:
            if file.read(len(_MAGIC)) != _MAGIC:
                reason = describe_invalid_file(path) or "is not a GGUF file; give one, or a folder"
                raise ValueError(f"{path} {reason}")
        gguf = gguf_package(f"reading {path}")
        self.path = path
        try:
            reader = gguf.GGUFReader(path)
            self.tensors: dict[str, Any] = {tensor.name: tensor for tensor in reader.tensors}
            self._fields = reader.fields
        # What the package raises depends on where the file ends.
        except (ValueError, IndexError, KeyError, OverflowError, struct.error) as error:
            raise ValueError(
                f"{path} is damaged or truncated ({type(error).__name__}: {error}); fetch it again"
            ) from None

    def get(self, name: str, default: Any = None) -> Any:
        """The value of a field: a number, a text, or a list of them.

        Raises:
            ValueError: the field is damaged.
        """
        field = self._fields.get(name)
        if field is None:
            return default
        try:
            return field.contents()
        except (ValueError, IndexError, UnicodeDecodeError) as error:
            raise ValueError(
                f"{self.path} is damaged (field {name}: {error}); fetch it again"
            ) from None

    def require(self, name: str) -> Any:
        """The value of a field that every model has.

        Raises:
            ValueError: the field is missing or damaged.
        """
        value = self.get(name)
        if value is None:
            raise ValueError(f"{self.path} has no field {name}; fetch it again, or convert it anew")
        return value
