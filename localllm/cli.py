"""Table of contents: every subcommand and its one-line help, loaded when it is called.

`main()` is the only error boundary: whatever a command raises becomes one line on stderr
(or the one JSON document on stdout) and a documented exit status.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from localllm import __version__, config
from localllm.commands import Entry, lazy, leaves, load
from localllm.errors import ExitCode, Interrupted, LocalLLMError, UsageProblem

__all__ = ["COMMANDS", "Entry", "leaves", "load", "main", "program"]

_GET, _RUN, _KEEP, _LOOK = "Get models", "Run models", "Manage models", "This machine"


_BENCH = (
    Entry("history", "bench.history_cli:history_command",
          "List what was benchmarked, and how each test's speed went."),
    Entry("show", "bench.history_cli:show_command",
          "Show everything of one run: figures, evidence, machine, versions."),
    Entry("export", "bench.history_cli:export_command",
          "Write runs to a file, in llama-bench's formats or whole."),
    Entry("import", "bench.import_cli:import_command",
          "Keep benchmarks that llama-bench or another machine wrote."),
    Entry("compare", "bench.compare_cli:compare_command",
          "Compare two runs: ratios with their confidence, memory and energy."),
    Entry("gate", "bench.gate_cli:gate_command",
          "Fail (exit 5) where a run is slower than its baseline, beyond the noise."),
)  # fmt: skip

_CHATS = (
    Entry("show", "chat.chats_cli:show_command",
          "Show what was said in a conversation."),
    Entry("export", "chat.chats_cli:export_command",
          "Write a conversation to a file."),
    Entry("rm", "chat.chats_cli:rm_command",
          "Remove conversations for good."),
)  # fmt: skip

_ENDPOINT = (
    Entry("add", "endpoint.cli:add_command",
          "Give an OpenAI-compatible server a name that chat and serve answer to."),
    Entry("list", "endpoint.cli:list_command",
          "List the endpoints."),
    Entry("show", "endpoint.cli:show_command",
          "Show what is known of an endpoint; never its key."),
    Entry("check", "endpoint.cli:check_command",
          "Ask an endpoint for its models and for one token of an answer."),
    Entry("rm", "endpoint.cli:rm_command",
          "Forget endpoints. What stands in a keyring stays there."),
)  # fmt: skip

_INBOX = (
    Entry("list", "route.inbox_cli:list_command",
          "List the questions that wait for a person."),
    Entry("show", "route.inbox_cli:show_command",
          "Show a question, and what a model would answer."),
    Entry("answer", "route.inbox_cli:answer_command",
          "Answer a question; who waits for it gets the answer."),
    Entry("approve", "route.inbox_cli:approve_command",
          "Send the answer that a model proposed as it is."),
    Entry("edit", "route.inbox_cli:edit_command",
          "Change the answer that a model proposed, in your editor, and send it."),
)  # fmt: skip

_ROUTE = (
    Entry("create", "route.cli:create_command",
          "Make a router: who may answer, and how one of them is chosen."),
    Entry("list", "route.cli:list_command",
          "List the routers."),
    Entry("show", "route.cli:show_command",
          "Show a router: members, steps, versions, figures."),
    Entry("rm", "route.cli:rm_command",
          "Remove routers, with what they learned and decided."),
    Entry("export", "route.cli:export_command",
          "Write a router to a file: data, never code."),
    Entry("import", "route.cli:import_command",
          "Keep a router from a file, every number in it checked first."),
    Entry("train", "route.train_cli:train_command",
          "Teach a router which prompts need the strong member."),
    Entry("calibrate", "route.train_cli:calibrate_command",
          "Set the threshold for a share, a quality or a budget, and say what it will bring."),
    Entry("eval", "route.eval_cli:eval_command",
          "Measure what a router is worth, on prompts that did not train what is measured."),
    Entry("label", "route.label_cli:label_command",
          "Let the members answer prompts, judge them, and write what a router is trained on."),
    Entry("ask", "route.ask_cli:ask_command",
          "Ask through a router: the answer, and who gave it and why."),
    Entry("decide", "route.decide_cli:decide_command",
          "Say which member a prompt would go to. Nobody is asked, nothing is kept."),
    Entry("explain", "route.decide_cli:explain_command",
          "Say why a prompt goes where it goes: words, features, rules, nearest known prompts."),
    Entry("feedback", "route.feedback_cli:feedback_command",
          "Say what you think of a routed answer."),
    Entry("retrain", "route.feedback_cli:retrain_command",
          "Teach a router again with its feedback; kept only if better on feedback held out."),
    Entry("rollback", "route.feedback_cli:rollback_command",
          "Go back to an earlier version of a router."),
    Entry("report", "route.feedback_cli:report_command",
          "Show what a router did: shares, cost saved, quality by period, drift of what is asked."),
    Entry("inbox", "",
          "Answer questions that wait for a person.", "Commands", _INBOX),
)  # fmt: skip

COMMANDS = (
    Entry("quickstart", "quickstart.cli:quickstart_command",
          "Pull a small real model, check that it fits, quantize, bench and chat.", _GET),
    Entry("pull", "pull.cli:pull_command",
          "Download a model: checked before, resumed if cut off, verified after.", _GET),
    Entry("import", "pull.import_cli:import_command",
          "Register models that Ollama, LM Studio or others left on this machine.", _GET),
    Entry("fit", "fit.cli:fit_command",
          "Say whether a model fits this or other hardware, before downloading it.", _GET),
    Entry("chat", "chat.cli:chat_command",
          "Ask a model, or talk with it.", _RUN),
    Entry("chats", "chat.chats_cli:list_command",
          "List the conversations that were kept.", _RUN, _CHATS),
    Entry("serve", "serve.cli:serve_command",
          "Serve models over HTTP: OpenAI's API, Ollama's, and a page to chat.", _RUN),
    Entry("endpoint", "",
          "Servers elsewhere (vLLM, llama-server, a cloud) under names of their own here.", _RUN,
          _ENDPOINT),
    Entry("route", "",
          "Send each prompt to the cheapest of several models that will answer it well.", _RUN,
          _ROUTE),
    Entry("worker", "worker.cli:worker_command",
          "Lend this machine's devices to a model that runs on another one.", _RUN),
    Entry("bench", "bench.cli:bench_command",
          "Measure prompt processing and token generation, against the memory planned.", _RUN,
          _BENCH),
    Entry("quantize", "quantize.cli:quantize_command",
          "Make a model smaller.", _RUN),
    Entry("finetune", "finetune.cli:finetune_command",
          "Tune a model on your own data: before and after judged by llama.cpp.", _RUN),
    Entry("train", "finetune.train_cli:train_command",
          "Train a small model of your own from nothing but text, its vocabulary included.", _RUN),
    Entry("merge", "merge.cli:merge_command",
          "Merge a tuning into its model, or whole models into one.", _RUN),
    Entry("imatrix", "imatrix.cli:imatrix_command",
          "Measure which weights matter most, for better quantization.", _RUN),
    Entry("convert", "convert.cli:convert_command",
          "Make a GGUF of a Hugging Face model, adapter or vision part (safetensors).", _RUN),
    Entry("quality", "quality.cli:quality_command",
          "Measure perplexity, and what a model lost against the one it was made from.", _RUN),
    Entry("create", "create.cli:create_command",
          "Make a model with a preset of its own from an Ollama Modelfile.", _KEEP),
    Entry("list", "models.cli:list_command",
          "List the models of the registry.", _KEEP),
    Entry("show", "models.show_cli:show_command",
          "Show what is known of a model.", _KEEP),
    Entry("path", "models.cli:path_command",
          "Print the path of a model's file.", _KEEP),
    Entry("cp", "models.cli:cp_command",
          "Give a model a second name.", _KEEP),
    Entry("rm", "models.cli:rm_command",
          "Remove models, or a second name.", _KEEP),
    Entry("verify", "models.check_cli:verify_command",
          "Check that a model's files are what was downloaded.", _KEEP),
    Entry("prune", "models.check_cli:prune_command",
          "Find and remove partial downloads, orphans and files nothing refers to.", _KEEP),
    Entry("export", "models.cli:export_command",
          "Write a model's files to a folder of your own.", _KEEP),
    Entry("rebuild", "models.check_cli:rebuild_command",
          "Rebuild the index of the registry from the files.", _KEEP),
    Entry("hardware", "doctor.hardware_cli:hardware_command",
          "Show processor, memory and GPUs, and what this llama.cpp can use.", _LOOK),
    Entry("doctor", "doctor.cli:doctor_command",
          "Check build, devices, disk, registry and sources, and say what to mend.", _LOOK),
)  # fmt: skip


class Contents(TyperGroup):
    """The subcommands of the table, each imported only when it runs."""

    def list_commands(self, ctx: Any) -> list[str]:
        return [entry.name for entry in COMMANDS]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        return self.commands.get(cmd_name)


app = typer.Typer(
    cls=Contents,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["--help", "-h"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"localllm {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    """Local language models: pull, fit, quantize, bench, chat - one registry, honest numbers."""


def program() -> Any:
    """The whole command tree, every subcommand a line of help until it is called."""
    group = typer.main.get_command(app)
    group.commands.update({entry.name: lazy(entry) for entry in COMMANDS})  # type: ignore[attr-defined]
    return group


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program and return its exit status. The only error boundary."""
    args = list(sys.argv[1:] if argv is None else argv)
    for stream in (sys.stdout, sys.stderr):
        if stream is not None and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        status = _run(args)
        if sys.stdout is not None:
            sys.stdout.flush()
        return status
    except typer.Exit as e:
        return e.exit_code
    except BrokenPipeError:
        return _reader_gone()
    except SystemExit as e:
        if isinstance(e.__context__, BrokenPipeError):  # rich turns one into the other
            return _reader_gone()
        raise
    except KeyboardInterrupt:
        return _fail(args, Interrupted("interrupted"))
    except LocalLLMError as e:
        return _fail(args, e)
    except (typer.Abort, EOFError):
        return _fail(args, Interrupted("aborted"))
    except typer.TyperException as e:
        return _fail(args, _usage(e))
    except Exception as e:
        return _fail(args, _unexpected(e, args))


def _run(args: list[str]) -> int:
    """Typer's own `main` would answer a broken pipe with exit code 1 before we see it, so the
    context is made here; only shell completion, which prints and exits, goes through it."""
    group = program()
    if "_LOCALLLM_COMPLETE" in config.environment():
        group(args, prog_name="localllm")
    with group.make_context("localllm", args) as context:
        return int(group.invoke(context) or 0)


def _fail(args: Sequence[str], error: LocalLLMError) -> int:
    from localllm.ui import command

    sink = command.current
    if sink is None:
        from localllm.ui import Sink

        sink = Sink(next((a for a in args if not a.startswith("-")), ""), as_json="--json" in args)
    try:
        return int(sink.fail(error))
    except BrokenPipeError:
        _reader_gone()
        return int(error.exit_code)
    except OSError:
        return int(error.exit_code)


def _reader_gone() -> int:
    """`localllm list | head`: the reader has what it wanted, which is no failure of ours."""
    from localllm.ui import command
    from localllm.ui.sink import close_quietly

    close_quietly()
    return int(command.current.exit_code) if command.current else int(ExitCode.OK)


def _usage(error: typer.TyperException) -> LocalLLMError:
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "localllm"
    if type(error).__name__ == "NoArgsIsHelpError":
        return UsageProblem("no command given", f"{path} --help")
    return UsageProblem(error.format_message(), f"{path} --help")


def _unexpected(error: Exception, args: Sequence[str]) -> LocalLLMError:
    """A bug, or the operating system refusing: still one line."""
    if "--verbose" in args:
        import traceback

        traceback.print_exc()
    if isinstance(error, OSError):
        from localllm.ui.oserrors import translate

        return translate(error)
    return LocalLLMError(
        f"internal error: {type(error).__name__}: {error}",
        "run it again with --verbose and report what it prints",
    )
