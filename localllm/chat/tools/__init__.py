"""Functions that a model may call: from Python files, run in a process of their own, and from MCP
servers."""

from localllm.chat.tools.box import Decision, DoneCall, ToolBox, open_tools

__all__ = ["Decision", "DoneCall", "ToolBox", "open_tools"]
