"""Loading of sharded checkpoints that may come from anywhere: torch's reader runs what a pickle in them asks for."""

import io
import pickle
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch.distributed.checkpoint import filesystem, metadata
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
from torch.distributed.checkpoint.planner import ReadItem

_DTYPES = ("float64", "float32", "bfloat16", "float16", "int64", "int32", "bool")
_METADATA = (
    *("BytesStorageMetadata", "ChunkStorageMetadata", "Metadata", "MetadataIndex", "StorageMeta", "TensorProperties"),
    *("TensorStorageMetadata", "_MEM_FORMAT_ENCODING"),
)
_PLAIN = {
    *((metadata.__name__, name) for name in _METADATA),
    *(("torch", name) for name in ("Size", "device", *_DTYPES)),
    (filesystem.__name__, "_StorageInfo"),
    ("pathlib", "PosixPath"),
    ("pathlib", "WindowsPath"),
    ("torch.serialization", "_get_layout"),
}
"""All that the table of contents of a checkpoint of ours is made of, by module and name."""


class ShardReader(filesystem.FileSystemReader):
    """torch's reader, whose table of contents can name plain things only."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> metadata.Metadata:
        """The table of contents.

        Raises:
            pickle.UnpicklingError: it is damaged, or asks for more than plain things.
        """
        content = contents(Path(self.path))
        content.storage_meta = content.storage_meta or metadata.StorageMeta()
        content.storage_meta.load_id = self.load_id
        return content


class ShardPlanner(DefaultLoadPlanner):
    """torch's planner, which loads what is not a tensor as plain values only."""

    def load_bytes(self, read_item: ReadItem, value: io.BytesIO) -> None:
        """Check before torch loads it for good.

        Raises:
            pickle.UnpicklingError: it asks for more than plain values.
        """
        torch.load(value, weights_only=True)
        value.seek(0)
        super().load_bytes(read_item, value)


def contents(folder: Path) -> metadata.Metadata:
    """The table of contents of a sharded checkpoint; errors as in `ShardReader.read_metadata`."""
    found = _Unpickler(io.BytesIO((folder / ".metadata").read_bytes())).load()
    if not isinstance(found, metadata.Metadata):
        raise pickle.UnpicklingError(f"a {type(found).__name__} in place of the table of contents")
    return found


def torn(folder: Path) -> list[str]:
    """Files of a sharded checkpoint that are missing or shorter than its table of contents says."""
    ends: dict[str, int] = {}
    for part in contents(folder).storage_data.values():
        ends[part.relative_path] = max(ends.get(part.relative_path, 0), part.offset + part.length)
    sizes = {name: (folder / name).stat().st_size if (folder / name).is_file() else -1 for name in ends}
    return sorted(name for name, end in ends.items() if sizes[name] < end)


_InPython: Any = pickle._Unpickler  # in C, `load_build` cannot be replaced


class _Unpickler(_InPython):  # type: ignore[misc]
    """Knows plain things only, and sets attributes of the dataclasses of the table alone, never of a class."""

    dispatch: ClassVar = dict(_InPython.dispatch)

    def find_class(self, module_name: str, global_name: str) -> Any:
        if (module_name, global_name) not in _PLAIN:
            raise pickle.UnpicklingError(f"its table of contents asks for {module_name}.{global_name}")
        return super().find_class(module_name, global_name)

    def load_build(self) -> None:
        if not is_dataclass(type(self.stack[-2])):
            raise pickle.UnpicklingError("its table of contents changes what is no part of it")
        super().load_build()

    dispatch[pickle.BUILD[0]] = load_build
