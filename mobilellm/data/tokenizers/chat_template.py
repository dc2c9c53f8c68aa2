"""Renders the chat templates of Hugging Face models, in a sandbox.

The environment is that of `transformers`, so that templates give the same text: blocks are trimmed,
`{% break %}` and `{% generation %}` are known, and templates may call `raise_exception`,
`strftime_now` and `tojson`. A template comes with the model: the sandbox keeps it from running
anything else.
"""

import datetime
import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import jinja2


# Not characters of any text: they stand around what `{% generation %}` marks.
BEGIN_MARK, END_MARK = "\ufdd0", "\ufdd1"


def render(
    template: str,
    messages: Sequence[Mapping[str, Any]],
    *,
    add_generation_prompt: bool,
    special_tokens: Mapping[str, str],
    origin: Path,
    tools: Sequence[Mapping[str, Any]] | None = None,
    keep_marks: bool = False,
) -> str:
    """Write a conversation as text.

    Args:
        template: in the language of Jinja.
        messages: the conversation; each message has a `role` and a `content`.
        add_generation_prompt: whether to begin the assistant's next message.
        special_tokens: names of special tokens by their use, such as `bos_token`.
        origin: folder of the template, for messages.
        tools: functions that the model may call, in OpenAI's layout.
        keep_marks: whether to put `BEGIN_MARK` and `END_MARK` around what the template marks with
            `{% generation %}`.

    Raises:
        ValueError: the template is not valid, or it refuses the messages.
    """
    import jinja2

    try:
        return _compiled(template, keep_marks).render(
            messages=list(messages),
            add_generation_prompt=add_generation_prompt,
            tools=None if tools is None else list(tools),
            documents=None,
            **special_tokens,
        )
    except (jinja2.TemplateError, TypeError, ValueError) as error:
        raise ValueError(
            f"the chat template of {origin} cannot write this conversation ({error}); change the "
            "messages, or correct the template"
        ) from None


def reads_variable(template: str, name: str) -> bool:
    """Whether a template reads a variable; False if the template is not valid."""
    import jinja2
    from jinja2 import meta

    try:
        return name in meta.find_undeclared_variables(_environment().parse(template))
    except jinja2.TemplateError:
        return False


@lru_cache(maxsize=8)
def _compiled(template: str, keep_marks: bool = False) -> "jinja2.Template":
    return _environment(keep_marks).from_string(template)


@lru_cache(maxsize=2)
def _environment(keep_marks: bool = False) -> "jinja2.Environment":
    from jinja2 import nodes
    from jinja2.ext import Extension, loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """`{% generation %} … {% endgeneration %}` marks text of the assistant; it is kept."""

        tags = {"generation"}  # noqa: RUF012 - as Jinja declares it

        def parse(self, parser: Any) -> nodes.Node:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            if keep_marks:
                begin, end = (
                    nodes.Output([nodes.TemplateData(mark)]) for mark in (BEGIN_MARK, END_MARK)
                )
                body = [begin, *body, end]
            return nodes.Scope(body, lineno=line)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise
    environment.globals["strftime_now"] = lambda text: datetime.datetime.now().strftime(text)
    return environment


def _to_json(value: Any, indent: int | None = None, ensure_ascii: bool = False) -> str:
    """JSON without HTML escapes, unlike Jinja's own filter."""
    return json.dumps(value, indent=indent, ensure_ascii=ensure_ascii, allow_nan=False)


def _raise(message: str) -> None:
    import jinja2

    raise jinja2.TemplateError(message)
