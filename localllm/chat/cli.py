"""chat: one answer, or a conversation."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from localllm import config
from localllm.chat import options as given
from localllm.chat.defaults import preset_keep
from localllm.chat.files import read_text
from localllm.chat.opening import Wanted, hold
from localllm.chat.piped import Piped
from localllm.chat.session import LoadWishes
from localllm.chat.settings import ChatSettings
from localllm.errors import NotFound, UsageProblem
from localllm.library import find_gguf
from localllm.library.answering import complete_answerer, find_answerer
from localllm.library.arguments import complete_model
from localllm.library.find import find_adapter
from localllm.placement import arguments as place
from localllm.registry import Model, Registry
from localllm.registry.chats import Chats
from localllm.ui import Sink

_TALK, _TOOLS = "Conversation", "Tools"


def chat_command(
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="MODEL",
            autocompletion=complete_answerer,
            help="Name, alias or reference of a model, or the path of a file; with --continue it "
            "may be left out.",
        ),
    ] = None,
    prompt: Annotated[
        str | None,
        typer.Argument(
            metavar="[PROMPT]",
            help="Answer this and end; what is piped in is put after it. - is stdin alone.",
        ),
    ] = None,
    system: Annotated[str | None, typer.Option("--system", help="A system message.")] = None,
    file: Annotated[
        list[Path] | None,
        typer.Option("--file", "-f", help="Put a file into the first message; may be repeated."),
    ] = None,
    image: Annotated[
        list[Path] | None,
        typer.Option("--image", help="Put an image into the first message; may be repeated."),
    ] = None,
    mmproj: Annotated[
        Path | None,
        typer.Option("--mmproj", metavar="FILE", help="What sees images for this model."),
    ] = None,
    tool: Annotated[
        list[str] | None,
        typer.Option(
            "--tool",
            metavar="FILE.py|mcp:COMMAND|FILE.json",
            rich_help_panel=_TOOLS,
            help="Functions of a Python file, or an MCP server; may be repeated.",
        ),
    ] = None,
    yes_tools: Annotated[
        bool,
        typer.Option("--yes-tools", rich_help_panel=_TOOLS, help="Run every call unasked."),
    ] = False,
    tool_timeout: Annotated[
        float,
        typer.Option(
            "--tool-timeout",
            metavar="SECONDS",
            min=0.1,
            rich_help_panel=_TOOLS,
            help="A call that takes longer is ended.",
        ),
    ] = 60.0,
    template: Annotated[
        Path | None,
        typer.Option("--template", metavar="FILE", help="A chat template (Jinja) to use instead."),
    ] = None,
    raw: Annotated[
        bool, typer.Option("--raw", help="Continue the text as it stands, without a template.")
    ] = False,
    stdin: Annotated[
        bool | None,
        typer.Option("--stdin/--no-stdin", help="Wait for stdin beside PROMPT, or leave it."),
    ] = None,
    lora: Annotated[
        list[str] | None,
        typer.Option("--lora", metavar="ADAPTER[:SCALE]", help="A LoRA adapter; may be repeated."),
    ] = None,
    draft: Annotated[
        str | None,
        typer.Option(
            "--draft",
            metavar="MODEL",
            autocompletion=complete_model,
            help="Guesses tokens ahead: a smaller model of the family, or ngram (the text).",
        ),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--continue", help="Go on with the conversation held last.", rich_help_panel=_TALK
        ),
    ] = False,
    chat_id: Annotated[
        int | None,
        typer.Option(
            "--chat",
            metavar="ID",
            min=1,
            rich_help_panel=_TALK,
            help="Go on with this one: see `localllm chats`.",
        ),
    ] = None,
    save: Annotated[
        bool | None,
        typer.Option(
            "--save/--no-save",
            rich_help_panel=_TALK,
            help="Keep the conversation; default yes, for one PROMPT alone no.",
        ),
    ] = None,
    thinking: Annotated[
        str,
        typer.Option(
            "--thinking",
            metavar="auto|show|hide|off",
            rich_help_panel=_TALK,
            help="What the model thinks: shown dimmed, hidden, or not thought at all.",
        ),
    ] = "auto",
    overflow: Annotated[
        str,
        typer.Option(
            "--overflow",
            metavar="stop|shift|summarize",
            rich_help_panel=_TALK,
            help="When the context is full: stop, drop the oldest turns, or sum them up.",
        ),
    ] = "stop",
    keep: Annotated[
        int | None,
        typer.Option(
            "--keep",
            metavar="N",
            min=-1,
            rich_help_panel=_TALK,
            help="Tokens at the beginning that are never dropped; -1 the first turn.",
        ),
    ] = None,
    markdown: Annotated[
        bool,
        typer.Option(
            "--markdown/--plain",
            rich_help_panel=_TALK,
            help="Draw Markdown on a terminal, or show the text as it is.",
        ),
    ] = True,
    stats: Annotated[bool, typer.Option("--stats", help="Speeds and token counts.")] = False,
    temperature: given.Temperature = None,
    top_k: given.TopK = None,
    top_p: given.TopP = None,
    min_p: given.MinP = None,
    typical_p: given.TypicalP = None,
    top_n_sigma: given.TopNSigma = None,
    repeat_penalty: given.RepeatPenalty = None,
    repeat_last_n: given.RepeatLastN = None,
    presence_penalty: given.PresencePenalty = None,
    frequency_penalty: given.FrequencyPenalty = None,
    dry_multiplier: given.DryMultiplier = None,
    dry_base: given.DryBase = None,
    dry_allowed_length: given.DryAllowedLength = None,
    dry_penalty_last_n: given.DryPenaltyLastN = None,
    dry_sequence_breaker: given.DryBreaker = None,
    xtc_probability: given.XtcProbability = None,
    xtc_threshold: given.XtcThreshold = None,
    dynatemp_range: given.DynatempRange = None,
    dynatemp_exponent: given.DynatempExponent = None,
    mirostat: given.Mirostat = None,
    mirostat_tau: given.MirostatTau = None,
    mirostat_eta: given.MirostatEta = None,
    seed: given.Seed = None,
    max_tokens: given.MaxTokens = None,
    stop: given.Stop = None,
    json_schema: given.JsonSchema = None,
    grammar: given.Grammar = None,
    n_ctx: place.Ctx = None,
    kv: place.KvType = None,
    n_gpu_layers: place.GpuLayers = None,
    flash_attn: place.FlashAttn = None,
    threads: place.Threads = None,
    rpc: place.Rpc = None,
    require_gpu: place.RequireGpu = False,
    force: place.Force = False,
    *,
    sink: Sink,
) -> None:
    """Ask a model, or talk with it."""
    piped = _piped(prompt, stdin, sink)
    settings = config.load()
    registry = Registry.open(settings)
    place.use_workers(rpc)
    found = find_answerer(model or _model_of_chat(resume, chat_id, registry), registry)
    own = found if isinstance(found, Model) else None
    wanted = Wanted(
        tools=tuple(tool or ()), yes_tools=yes_tools, tool_timeout_s=tool_timeout,
        model=found, prompt=prompt, piped=piped, patient=stdin is True, system=system,
        files=tuple(file or ()), images=tuple(image or ()), raw=raw, resume=resume, chat_id=chat_id,
        save=save, save_by_default=settings.save_chats,
        grammar=given.forced_grammar(json_schema, grammar),
        schema=given.read_schema(json_schema),
        settings=ChatSettings(
            given.said(
                temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p,
                typical_p=typical_p, top_n_sigma=top_n_sigma, repeat_penalty=repeat_penalty,
                repeat_last_n=repeat_last_n, presence_penalty=presence_penalty,
                frequency_penalty=frequency_penalty, dry_multiplier=dry_multiplier,
                dry_base=dry_base, dry_allowed_length=dry_allowed_length,
                dry_penalty_last_n=dry_penalty_last_n, dry_sequence_breakers=dry_sequence_breaker,
                xtc_probability=xtc_probability, xtc_threshold=xtc_threshold,
                dynatemp_range=dynatemp_range, dynatemp_exponent=dynatemp_exponent,
                mirostat=mirostat, mirostat_tau=mirostat_tau, mirostat_eta=mirostat_eta,
                seed=seed, max_tokens=max_tokens, stop=stop,
            ),
            thinking=thinking, overflow=overflow,  # type: ignore[arg-type]
            keep=_keep(keep, own), stats=stats, markdown=markdown,
        ),
    )  # fmt: skip
    wishes = LoadWishes(
        place.plan_options(n_ctx or settings.n_ctx, kv, n_gpu_layers, flash_attn),
        threads or settings.threads, require_gpu, force,
        tuple(find_adapter(text, registry) for text in lora or ()),
        place.said(kv, n_gpu_layers, flash_attn),
        _draft(draft, registry), mmproj,
        read_text(template) if template else None,
    )  # fmt: skip
    hold(wanted, wishes, registry, sink)


def _model_of_chat(resume: bool, chat_id: int | None, registry: Registry) -> str:
    """The model that a conversation was last held with."""
    if not resume and chat_id is None:
        raise UsageProblem("name a model", "localllm list")
    chats = Chats.of(registry)
    found = chats.latest() if chat_id is None else chats.find(chat_id)
    try:
        find_answerer(found.model, registry)
    except NotFound as problem:
        raise type(problem)(
            f"conversation {found.id} was held with {found.model}: {problem.message}",
            f"go on with another: localllm chat MODEL --chat {found.id}",
        ) from None
    return found.model


def _piped(prompt: str | None, stdin: bool | None, sink: Sink) -> Piped | None:
    """Begin to read stdin where it may hold something; None for a terminal, or if it was told
    not to look. Raises UsageProblem where nothing can be asked then."""
    alone = prompt is None or prompt == "-"
    is_terminal = sys.stdin is not None and sys.stdin.isatty()
    if alone and stdin is False and not is_terminal:
        raise UsageProblem("--no-stdin needs a PROMPT", "localllm chat MODEL 'a prompt'")
    if sys.stdin is None or stdin is False or (is_terminal and prompt != "-"):
        if sink.as_json and prompt is None:
            raise UsageProblem("--json needs a prompt", "localllm chat MODEL 'a prompt' --json")
        if sys.stdin is None and alone:
            raise UsageProblem(
                "nothing to answer: stdin is closed", "localllm chat MODEL 'a prompt'"
            )
        return None
    return Piped()


def _keep(keep: int | None, model: Model | None) -> int:
    return keep if keep is not None else preset_keep(model) or 0


def _draft(text: str | None, registry: Registry) -> Model | Literal["ngram"] | None:
    if text is None or text == "ngram":
        return "ngram" if text else None
    return find_gguf(text, registry)
