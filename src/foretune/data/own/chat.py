"""A user's own conversations, written with the tokenizer's chat template; the last assistant message is learned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from foretune.data.own.completion import generated
from foretune.data.own.spec import OwnTask
from foretune.errors import IncompatibleError, UsageError
from foretune.tasks.base import Row, Template
from foretune.tasks.generation import GenerationTask

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def chat_task(spec: OwnTask, common: Mapping[str, Any]) -> GenerationTask:
    """Return a task of writing the last message of a conversation; its prompt is written once a tokenizer is bound.

    Args:
        spec: With `messages`.
        common: The arguments that do not depend on the kind of task.
    """
    field = spec.messages or ""

    def unbound(row: Row) -> str:
        raise UsageError(
            "The rows are conversations, whose prompt depends on the tokenizer (Task.bind), so they cannot be "
            "demonstrations."
        )

    return GenerationTask(
        **common,
        **generated(spec, default="rouge_l"),
        fields={field: list},
        check=lambda row: _check_messages(row[field], field),
        templates={"v0": Template(prompt=unbound)},
        template_for=lambda tokenizer: _template(tokenizer, field),
        references=lambda row: (row[field][-1]["content"],),
    )


def _check_messages(messages: Sequence[Any], field: str) -> None:
    if not messages:
        raise ValueError(f"field {field!r} has no messages.")
    for index, message in enumerate(messages):
        where = f"field {field!r}, message {index}"
        if not isinstance(message, Mapping):
            raise ValueError(f"{where} is {message!r:.60}; it should be an object with 'role' and 'content'.")
        for key in ("role", "content"):
            if not isinstance(message.get(key), str):
                raise ValueError(f"{where}: {key!r} is {message.get(key)!r:.60}; it should be a string.")
    if messages[-1]["role"] != "assistant":
        raise ValueError(
            f"field {field!r}: the last message is of role {messages[-1]['role']!r}; it should be 'assistant', whose "
            "message is learned."
        )
    if not messages[-1]["content"].strip():
        raise ValueError(f"field {field!r}: the last message is empty, so there is nothing to learn.")


def _template(tokenizer: PreTrainedTokenizerBase, field: str) -> Template:
    """Write conversations for `tokenizer`.

    The prompt is the template's text up to where the assistant begins, the target what the template writes from there
    on: the message and the token that ends it, white space behind it apart. A BOS that the template writes and that
    the tokenizer adds itself is left to the tokenizer.

    Raises:
        IncompatibleError: the tokenizer has no chat template.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise IncompatibleError(
            "The rows are conversations, and the tokenizer has no chat template. Give --model a chat model, or write "
            "the prompt yourself, with --prompt and --completion."
        )
    bos = _own_bos(tokenizer)

    def write(messages: Sequence[Mapping[str, str]], *, asks: bool) -> str:
        from jinja2 import TemplateError

        try:
            text = tokenizer.apply_chat_template(
                [dict(message) for message in messages], tokenize=False, add_generation_prompt=asks
            )
        except (TemplateError, TypeError, ValueError) as error:  # a template may call for what a row does not have
            raise UsageError(f"{_named(messages)}: the tokenizer's chat template refuses it: {error}") from error
        return str(text).removeprefix(bos)

    def prompt(row: Row) -> str:
        return write(row[field][:-1], asks=True)

    def target(row: Row, candidate: str) -> str:
        whole, before = write(row[field], asks=False), prompt(row)
        if not whole.startswith(before):
            raise IncompatibleError(
                f"{_named(row[field])}: the tokenizer's chat template changes what stands before the last message "
                "once this is there, so the two cannot be told apart. Write the prompt yourself, with --prompt and "
                "--completion."
            )
        return whole.removeprefix(before).rstrip()

    return Template(prompt=prompt, target=target)


def _own_bos(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return the text of the BOS token if encodings start with it anyway, else nothing."""
    bos = tokenizer.bos_token
    return str(bos) if bos is not None and tokenizer("a")["input_ids"][0] == tokenizer.bos_token_id else ""


def _named(messages: Sequence[Mapping[str, str]]) -> str:
    return f"Conversation {messages[0]['content']!r:.60}" if messages else "Conversation without a question"
