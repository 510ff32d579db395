"""safetensors as bytes: headers of files, of remote prefixes, and of whole model folders."""

from localllm.formats.safetensors.folder import SafetensorsModel, read_safetensors_folder
from localllm.formats.safetensors.header import (
    DTYPE_BITS,
    HEADER_LIMIT_BYTES,
    SafeTensor,
    SafetensorsHeader,
    parse_safetensors,
    read_safetensors,
)

__all__ = [
    "DTYPE_BITS",
    "HEADER_LIMIT_BYTES",
    "SafeTensor",
    "SafetensorsHeader",
    "SafetensorsModel",
    "parse_safetensors",
    "read_safetensors",
    "read_safetensors_folder",
]
