"""GGUF as bytes: what a file, its shards or a remote prefix say, and copies that say more.

No import of `gguf` or numpy; opening a header is cheap enough for every command.
"""

from localllm.formats.gguf.edit import copy_with_metadata
from localllm.formats.gguf.header import GGUFHeader, GGUFView, Kind, SplitInfo, TypeTotal
from localllm.formats.gguf.index import HEADER_LIMIT_BYTES, TensorInfo
from localllm.formats.gguf.metadata import Metadata, Value, ValueInfo
from localllm.formats.gguf.model import GGUFModel, Location, combine, model_files, read_model
from localllm.formats.gguf.read import fetch_header, parse_header, read_header
from localllm.formats.gguf.types import (
    GGML_TYPES,
    FileType,
    GGMLType,
    ValueType,
    file_type,
    file_type_of,
)
from localllm.formats.prefix import NeedMoreBytes

__all__ = [
    "GGML_TYPES",
    "HEADER_LIMIT_BYTES",
    "FileType",
    "GGMLType",
    "GGUFHeader",
    "GGUFModel",
    "GGUFView",
    "Kind",
    "Location",
    "Metadata",
    "NeedMoreBytes",
    "SplitInfo",
    "TensorInfo",
    "TypeTotal",
    "Value",
    "ValueInfo",
    "ValueType",
    "combine",
    "copy_with_metadata",
    "fetch_header",
    "file_type",
    "file_type_of",
    "model_files",
    "parse_header",
    "read_header",
    "read_model",
]
