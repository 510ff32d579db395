"""Jinja for templates that come out of a downloaded file, and may be hostile.

Jinja's own sandbox keeps attributes and mutation away, not time and memory: a few nested
loops run for years, `'x' * 10**10` or a string doubled in a loop takes all memory. Here
whatever makes a value pays for it from a `Budget`; what cannot be priced (str.center,
|batch, lipsum, ...) is not offered.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import cache, wraps
from typing import TYPE_CHECKING, Any

from localllm.engine.budget import STEP, Budget, OverBudget, check_format, current

if TYPE_CHECKING:
    from jinja2 import Environment, Template

_STR_METHODS = """capitalize casefold count endswith find format index isalnum isalpha isdecimal
isdigit islower isnumeric isspace istitle isupper join lower lstrip partition removeprefix
removesuffix replace rfind rindex rpartition rsplit rstrip split splitlines startswith strip
swapcase title upper"""
_FILTERS = """abs attr capitalize count d default dictsort e escape first float forceescape groupby
int items last length list lower map max min reject rejectattr reverse safe select selectattr
sort string title unique upper urlencode wordcount"""
_ATTRIBUTES: tuple[tuple[Any, frozenset[str]], ...] = (
    (str, frozenset(_STR_METHODS.split())),
    ((int, float, bytes), frozenset()),
    (Mapping, frozenset(["get", "items", "keys", "values"])),
    ((list, tuple), frozenset(["count", "index"])),
)


def compile_template(source: str) -> Template:
    """Parse and compile; jinja2.TemplateSyntaxError and what Python's compiler raises."""
    from jinja2 import Template

    environment = sandbox()
    token = current.set(Budget(len(source)))  # constant folding runs filters already
    try:
        tree = _rewriter()(environment).visit(environment.parse(source))
        code = environment.compile(tree, filename="<chat template>")
        return Template.from_code(environment, code, environment.make_globals(None))
    finally:
        current.reset(token)


def render_bounded(template: Template, variables: Mapping[str, Any]) -> str:
    """Render within a budget that grows with the input.

    Raises OverBudget, jinja2.TemplateError, and whatever else its expressions raise.
    """
    budget = Budget(len(json.dumps(variables, default=str)))
    token = current.set(budget)
    try:
        parts = []
        for part in template.generate(**variables):
            budget.pay(len(part))
            parts.append(part)
        return "".join(parts)
    finally:
        current.reset(token)


@cache
def sandbox() -> Environment:
    """The environment, with Hugging Face's conventions for chat templates."""
    from jinja2.ext import loopcontrols
    from jinja2.filters import FILTERS

    environment = _environment_class()(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=[loopcontrols, _generation_tag()],
        finalize=_written,
    )
    own: dict[str, Callable[..., Any]] = {
        "tojson": _tojson, "join": _join, "replace": _replace, "indent": _indent, "trim": _trim,
        "round": _round, "sum": _sum, "_counted": _counted, "_concat": _concat, "_slice": _slice,
    }  # fmt: skip
    environment.filters = {name: _paid(FILTERS[name]) for name in _FILTERS.split()} | own
    environment.globals.pop("lipsum", None)
    return environment


def _environment_class() -> type[Environment]:
    from jinja2.runtime import LoopContext
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class ChatEnvironment(ImmutableSandboxedEnvironment):
        intercepted_binops = frozenset(["+", "*", "**", "%"])

        def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
            current.get().pay_operator(operator, left, right)
            return super().call_binop(context, operator, left, right)

        def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
            for kind, allowed in _ATTRIBUTES:
                if isinstance(obj, kind):
                    return attr in allowed
            return bool(super().is_safe_attribute(obj, attr, value))

        def wrap_str_format(self, value: Any) -> Any:
            wrapper = super().wrap_str_format(value)
            if wrapper is not None:
                check_format(value.__self__)
            return wrapper

        def call(__self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805
            budget = current.get()
            budget.pay(STEP)
            owner = getattr(__obj, "__self__", None)
            if isinstance(owner, str):
                if __obj.__name__ == "join" and args:
                    args = (list(budget.counted(args[0])),)
                budget.pay_method(owner, __obj.__name__, args)
            elif isinstance(__obj, LoopContext) and args:  # {{ loop(children) }}
                args = (budget.counted(args[0], __self.data_chars), *args[1:])
            result = super().call(__context, __obj, *args, **kwargs)
            budget.pay_held(result)
            return result

        data_chars = 128  # charged for a recursive loop's body, whose text we cannot tell

    return ChatEnvironment


def _rewriter() -> Any:
    """A pass over the syntax tree that makes Jinja's unpriced operations filters of ours."""
    from jinja2 import nodes
    from jinja2.visitor import NodeTransformer

    class Rewriter(NodeTransformer):
        def __init__(self, environment: Environment) -> None:
            self.environment = environment

        def filter(self, node: Any, name: str, *args: Any) -> Any:
            made = nodes.Filter(node, name, list(args), [], None, None, lineno=node.lineno)
            made.set_environment(self.environment)
            return made

        def visit_For(self, node: Any) -> Any:  # noqa: N802 - Jinja's naming
            self.generic_visit(node)
            data = (len(text.data) for text in node.find_all(nodes.TemplateData))
            node.iter = self.filter(node.iter, "_counted", nodes.Const(sum(data)))
            return node

        def visit_Concat(self, node: Any) -> Any:  # noqa: N802
            self.generic_visit(node)
            return self.filter(nodes.List(node.nodes, lineno=node.lineno), "_concat")

        def visit_Getitem(self, node: Any) -> Any:  # noqa: N802
            self.generic_visit(node)
            if not isinstance(node.arg, nodes.Slice):
                return node
            ends = (node.arg.start, node.arg.stop, node.arg.step)
            return self.filter(node.node, "_slice", *(end or nodes.Const(None) for end in ends))

    return Rewriter


def _generation_tag() -> Any:
    """`{% generation %}...{% endgeneration %}` marks training targets; it renders its body."""
    from jinja2.ext import Extension

    class GenerationTag(Extension):
        tags = {"generation"}  # noqa: RUF012 - Jinja's interface

        def parse(self, parser: Any) -> Any:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    return GenerationTag


def _paid(function: Callable[..., Any]) -> Callable[..., Any]:
    """A filter that pays for its input if that is text, and for its result."""

    @wraps(function)
    def paid(*args: Any, **kwargs: Any) -> Any:
        budget = current.get()
        budget.pay(STEP)
        for value in args[:2]:  # the value stands first or after Jinja's own argument
            budget.pay_held(value if isinstance(value, str) else "")
        if function.__name__ in ("soft_str", "escape", "forceescape", "do_forceescape"):
            budget.pay_written(args[0])
        result = function(*args, **kwargs)
        budget.pay_held(result)
        return result

    return paid


def _written(value: Any) -> Any:
    current.get().pay_written(value)
    return value


def _counted(items: Any, chars: int) -> Any:
    return current.get().counted(items, chars)


def _concat(values: list[Any]) -> str:
    current.get().pay_written(values)
    return "".join(map(str, values))


def _slice(value: Any, start: Any, stop: Any, step: Any) -> Any:
    part = value[start:stop:step]
    current.get().pay_held(part)
    return part


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Hugging Face's: no HTML escapes, characters as they are."""
    current.get().pay_written(value)
    text = json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=_small(indent),
        separators=separators,
        sort_keys=sort_keys,
    )
    current.get().pay(len(text))
    return text


def _join(values: Any, d: str = "", attribute: str | int | None = None) -> str:
    from jinja2.filters import make_attrgetter

    budget = current.get()
    items = list(budget.counted(values))
    if attribute is not None:
        get = make_attrgetter(sandbox(), attribute)
        items = [get(item) for item in items]
    texts = [_text(item) for item in items]
    budget.pay_method(d, "join", (texts,))
    return d.join(texts)


def _replace(text: Any, old: str, new: str, count: int | None = None) -> str:
    text = _text(text)
    current.get().pay_method(text, "replace", (old, new))
    return str(text.replace(str(old), str(new), -1 if count is None else count))


def _indent(text: Any, width: int | str = 4, first: bool = False, blank: bool = False) -> str:
    text = _text(text)
    lead = width if isinstance(width, str) else " " * (_small(width) or 0)
    current.get().pay(len(text) + len(lead) * (text.count("\n") + 1))
    lines = text.splitlines(keepends=True)
    led = [lead + line if (blank or line.strip()) else line for line in lines[1:]]
    return "".join([(lead if first else "") + line for line in lines[:1]] + led)


def _trim(text: Any, chars: str | None = None) -> str:
    text = _text(text)
    current.get().pay_method(text, "trim", () if chars is None else (chars,))
    return str(text.strip(chars))


def _round(value: float, precision: int = 0, method: str = "common") -> float:
    from jinja2.filters import FILTERS

    return float(FILTERS["round"](value, _small(precision), method))


def _sum(values: Any, attribute: str | int | None = None, start: float = 0) -> Any:
    from jinja2.filters import make_attrgetter

    get = make_attrgetter(sandbox(), attribute) if attribute is not None else None
    numbers = [get(item) if get else item for item in current.get().counted(values)]
    if not all(isinstance(number, (int, float)) for number in [start, *numbers]):
        raise TypeError("sum of what are no numbers")
    return sum(numbers, start)


def _text(value: Any) -> str:
    current.get().pay_written(value)
    return value if isinstance(value, str) else str(value)


def _small(value: int | None) -> int | None:
    if value is not None and abs(value) > 64:
        raise OverBudget(f"it asks for a width of {value}")
    return value
