"""chat: one answer, or a conversation."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from localllm import config
from localllm.chat import options as given
from localllm.chat.answer import Answer, answer, collect, finished
from localllm.chat.repl import converse
from localllm.chat.session import Session, first_messages, model_sampling, open_session
from localllm.errors import ExitCode, Interrupted, UsageProblem
from localllm.generation import Message, Sampling
from localllm.library import ModelName, find_gguf
from localllm.library.find import find_adapter
from localllm.placement import arguments as place
from localllm.registry import Registry
from localllm.ui import Rate, Seconds, Sink


def chat_command(
    model: ModelName,
    prompt: Annotated[
        str | None,
        typer.Argument(metavar="[PROMPT]", help="Answer this and end; - or a pipe: from stdin."),
    ] = None,
    system: Annotated[str | None, typer.Option("--system", help="A system message.")] = None,
    raw: Annotated[
        bool, typer.Option("--raw", help="Continue the text as it stands, without a template.")
    ] = False,
    lora: Annotated[
        list[str] | None,
        typer.Option("--lora", metavar="ADAPTER[:SCALE]", help="A LoRA adapter; may be repeated."),
    ] = None,
    stats: Annotated[bool, typer.Option("--stats", help="Speeds and token counts.")] = False,
    temperature: given.Temperature = None,
    top_k: given.TopK = None,
    top_p: given.TopP = None,
    min_p: given.MinP = None,
    repeat_penalty: given.RepeatPenalty = None,
    seed: given.Seed = None,
    max_tokens: given.MaxTokens = None,
    stop: given.Stop = None,
    n_ctx: place.Ctx = None,
    kv: place.KvType = None,
    n_gpu_layers: place.GpuLayers = None,
    flash_attn: place.FlashAttn = None,
    threads: place.Threads = None,
    require_gpu: place.RequireGpu = False,
    force: place.Force = False,
    *,
    sink: Sink,
) -> None:
    """Ask a model, or talk with it."""
    settings = config.load()
    registry = Registry.open(settings)
    found = find_gguf(model, registry)
    text = _prompt(prompt, sink)
    sampling = given.merged(
        model_sampling(found), stop=stop, temperature=temperature, top_k=top_k, top_p=top_p,
        min_p=min_p, repeat_penalty=repeat_penalty, seed=seed, max_tokens=max_tokens,
    )  # fmt: skip
    plan = place.plan_options(n_ctx or settings.n_ctx, kv, n_gpu_layers, flash_attn)
    session = open_session(
        found, plan, sink.progress, threads=threads or settings.threads,
        require_gpu=require_gpu, force=force, adapters=_adapters(lora or [], registry),
        said=place.said(kv, n_gpu_layers, flash_attn),
    )  # fmt: skip
    try:
        _advise(session, sink)
        if text is None:
            if raw:
                raise UsageProblem("--raw continues a text: give it as PROMPT or on stdin")
            converse(session, first_messages(found, system), sampling, sink,
                     _stats if stats else None)  # fmt: skip
        else:
            _one_shot(session, text, system, raw, sampling, stats, sink)
    finally:
        session.close()


def _prompt(prompt: str | None, sink: Sink) -> str | None:
    """The prompt, with what is piped in after it; None for a conversation at a terminal."""
    piped = sys.stdin is not None and not sys.stdin.isatty()
    if prompt is not None and prompt != "-":
        return prompt
    if piped or prompt == "-":
        text = sys.stdin.read() if sys.stdin is not None else ""
        if not text.strip():
            raise UsageProblem(
                "nothing to answer: stdin is empty", "localllm chat MODEL 'a prompt'"
            )
        return text
    if sink.as_json:
        raise UsageProblem("--json needs a prompt", "localllm chat MODEL 'a prompt' --json")
    return None


def _adapters(wanted: list[str], registry: Registry) -> tuple[tuple[Path, float], ...]:
    return tuple(find_adapter(text, registry) for text in wanted)


def _advise(session: Session, sink: Sink) -> None:
    for advice in session.opened.advice:
        sink.warn(advice.message + (f"; try: {advice.hint}" if advice.hint else ""))
    sink.note(session.where)


def _one_shot(
    session: Session,
    text: str,
    system: str | None,
    raw: bool,
    sampling: Sampling,
    stats: bool,
    sink: Sink,
) -> None:
    if raw:
        stream = session.generator.complete(text, sampling)
        said = collect(stream, sink.write)
        assert stream.accounting is not None  # iteration has ended
        result = finished(
            session.generator.name, said, stream.accounting, session.n_ctx, session.load_s
        )
    else:
        messages = [*first_messages(session.model, system), Message("user", text)]
        result = answer(
            session.generator, messages, sampling, sink.write,
            n_ctx=session.n_ctx, load_s=session.load_s,
        )  # fmt: skip
    sink.write("\n")
    if result.truncated:
        sink.warn(f"the context of {result.n_ctx} tokens is full; the answer was cut off (--ctx)")
    if stats:
        sink.note(_stats(result))
    cancelled = result.finish_reason == "cancelled"
    sink.show(
        result,
        ok=not cancelled,
        exit_code=ExitCode.INTERRUPTED,
        error=Interrupted("interrupted; the answer is not complete") if cancelled else None,
    )


def _stats(a: Answer) -> str:
    rates = []
    if a.prompt_tps is not None:
        rates.append(f"pp {Rate(a.prompt_tps)}")
    if a.decode_tps is not None:
        rates.append(f"tg {Rate(a.decode_tps)}")
    return (
        f"{a.prompt_tokens} tokens in ({a.cached_tokens} cached), {a.completion_tokens} out; "
        f"{', '.join([*rates, f'first token after {Seconds(a.first_token_s)}'])}; "
        f"context {a.context_tokens} of {a.n_ctx}; {a.finish_reason}; seed {a.seed}"
    )
