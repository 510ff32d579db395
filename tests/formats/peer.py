"""The `gguf` package's own reader, and a comparison with it key by key, tensor by tensor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from localllm.formats import GGUFHeader


def assert_equal_to_peer(header: GGUFHeader, path: Path) -> None:
    """Every key, value, value type and tensor is what gguf.GGUFReader finds in the file."""
    import gguf

    peer = gguf.GGUFReader(path)
    fields = {k: f for k, f in peer.fields.items() if not k.startswith("GGUF.")}
    assert list(header.metadata) == list(fields)
    for key, field in fields.items():
        assert _plain(header.metadata[key]) == _plain(field.contents()), key
        info = header.metadata.info(key)
        assert int(info.type) == int(field.types[0])
        if len(field.types) > 1:  # gguf says nothing of an empty array's element type
            assert info.element_type is not None
            assert int(info.element_type) == int(field.types[-1])
    assert header.version == int(peer.fields["GGUF.version"].contents())
    assert header.alignment == peer.alignment
    assert header.data_offset == peer.data_offset or not header.tensors
    assert list(header.tensors) == [t.name for t in peer.tensors]
    for theirs in peer.tensors:
        ours = header.tensors[theirs.name]
        assert ours.shape == tuple(int(n) for n in theirs.shape)
        assert (ours.type.id, ours.type_name) == (int(theirs.tensor_type), theirs.tensor_type.name)
        assert ours.n_elements == int(theirs.n_elements)
        assert ours.size_bytes == int(theirs.n_bytes)
        assert header.data_offset + ours.offset == int(theirs.data_offset)


def _plain(value: Any) -> Any:
    """Tuples as lists, numpy's numbers as Python's."""
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return value.item() if hasattr(value, "item") else value
