"""Data for fine-tuning: found, told apart, turned into tokens as inference has them, reported.

    dataset = open_data(DataSpec(("chats.jsonl",)))
    with Dialect.open(gguf, preset=Preset.of(model)) as dialect:
        prepared = prepare(dataset, dialect, EncodeOptions(max_length=1024))
    parts = split(prepared, fraction=0.05, seed=0)
    for example in parts.train.examples: example.ids, example.mask

Neither torch nor transformers are needed for any of it.
"""

from localllm.finetune.data.dataset import DataFile, Dataset
from localllm.finetune.data.dialect import Dialect
from localllm.finetune.data.holdout import Split, split
from localllm.finetune.data.opening import open_data, unpruned
from localllm.finetune.data.preparing import Prepared, prepare
from localllm.finetune.data.report import DataReport
from localllm.finetune.data.rows import RowAt
from localllm.finetune.data.spec import (
    ChatFilter,
    DataSpec,
    EncodeOptions,
    parse_chat_filter,
    parse_columns,
)
from localllm.finetune.data.store import Example, Examples, PairExample, Pairs
from localllm.finetune.data.templates import TEMPLATES, ChosenTemplate
from localllm.finetune.data.view import report_view

__all__ = [
    "TEMPLATES", "ChatFilter", "ChosenTemplate", "DataFile", "DataReport", "DataSpec", "Dataset",
    "Dialect", "EncodeOptions", "Example", "Examples", "PairExample", "Pairs", "Prepared", "RowAt",
    "Split", "open_data", "parse_chat_filter", "parse_columns", "prepare", "report_view", "split",
    "unpruned",
]  # fmt: skip
