"""What people and scripts see. rich lives only here."""

from localllm.ui.progress import Advance, Progress, Silent
from localllm.ui.sink import Sink
from localllm.ui.units import Bytes, Count, Moment, Percent, Rate, Seconds
from localllm.ui.view import Cell, Fields, Heading, Note, Table, Text, Tree, View

__all__ = [
    "Advance",
    "Bytes",
    "Cell",
    "Count",
    "Fields",
    "Heading",
    "Moment",
    "Note",
    "Percent",
    "Progress",
    "Rate",
    "Seconds",
    "Silent",
    "Sink",
    "Table",
    "Text",
    "Tree",
    "View",
]
