"""What people and scripts see. rich lives only here."""

from localllm.ui.answer import AnswerView, answer_view
from localllm.ui.progress import Advance, Progress, Silent
from localllm.ui.prompt import Choice, Prompt, prompt_for
from localllm.ui.sink import Sink
from localllm.ui.terminal import keys_seen, keys_unseen
from localllm.ui.units import Bytes, Count, Moment, Percent, Rate, Seconds
from localllm.ui.view import Cell, Fields, Heading, Note, Table, Text, Tree, View

__all__ = [
    "Advance",
    "AnswerView",
    "Bytes",
    "Cell",
    "Choice",
    "Count",
    "Fields",
    "Heading",
    "Moment",
    "Note",
    "Percent",
    "Progress",
    "Prompt",
    "Rate",
    "Seconds",
    "Silent",
    "Sink",
    "Table",
    "Text",
    "Tree",
    "View",
    "answer_view",
    "keys_seen",
    "keys_unseen",
    "prompt_for",
]
