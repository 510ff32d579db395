"""What is on disk: the index, the files, lineage and measurements. The only writer of the home."""

from localllm.registry.landing import Arrival, Staged
from localllm.registry.model import Lineage, Measurement, Model, StoredFile
from localllm.registry.store import Registry

__all__ = ["Arrival", "Lineage", "Measurement", "Model", "Registry", "Staged", "StoredFile"]
