"""Conversations: what the tokenizer's chat template writes is split at the last assistant message."""

from __future__ import annotations

import json
import re

import pytest

from foretune.data import load_task_data
from foretune.data.own import make_own_task, make_spec
from foretune.errors import IncompatibleError, UsageError
from foretune.objectives import encode_examples

CHATML = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
MESSAGES = [
    {"role": "user", "content": "Is it good?"},
    {"role": "assistant", "content": "Yes"},
    {"role": "user", "content": "And bad?"},
    {"role": "assistant", "content": " It was great "},
]


@pytest.fixture
def chat(tmp_path):
    """Makes a task of conversations."""

    def make(*conversations):
        path = tmp_path / "chat.jsonl"
        path.write_text("".join(json.dumps({"turns": messages}) + "\n" for messages in conversations))
        return make_own_task(make_spec({"data": str(path), "messages": "turns"}))

    return make


@pytest.fixture
def tokenizer(make_tokenizer):
    tokenizer = make_tokenizer(bos=False)
    tokenizer.chat_template = CHATML
    return tokenizer


def write(task, tokenizer, messages=MESSAGES):
    task = task.bind(tokenizer)
    return task.example({"turns": messages}, task.template(), "row")


def test_the_last_message_and_its_end_are_the_completion(chat, tokenizer):
    example = write(chat(MESSAGES), tokenizer)
    assert example.prompt == "<|user|>Is it good?</s>\n<|assistant|>Yes</s>\n<|user|>And bad?</s>\n<|assistant|>"
    assert example.candidates == (" It was great </s>",)
    assert example.answers == (" It was great ",)
    (row,) = encode_examples([example], tokenizer)
    option = row.token_ids[0][-row.option_lengths[0] :]
    assert tokenizer.decode(option) == " It was great </s>"
    assert option[-1] == tokenizer.eos_token_id


def test_a_bos_is_there_once_whoever_writes_it(chat, make_tokenizer):
    tokenizer = make_tokenizer(bos=True)
    tokenizer.chat_template = "{{ bos_token }}" + CHATML
    (row,) = encode_examples([write(chat(MESSAGES), tokenizer)], tokenizer)
    whole = tokenizer.apply_chat_template(MESSAGES, tokenize=False).rstrip()
    assert list(row.token_ids[0]) == tokenizer(whole, add_special_tokens=False)["input_ids"]


def test_other_tasks_are_the_same_for_every_tokenizer(tokenizer):
    from foretune.tasks import get_task

    assert get_task("sst2").bind(tokenizer) is get_task("sst2")


def test_a_tokenizer_without_template_is_refused(chat, make_tokenizer):
    with pytest.raises(IncompatibleError, match="the tokenizer has no chat template"):
        chat(MESSAGES).bind(make_tokenizer(bos=False))


def test_a_template_that_refuses_or_rewrites_is_named(chat, tokenizer):
    tokenizer.chat_template = "{{ raise_exception('no system role') }}"
    with pytest.raises(UsageError, match=r"Conversation 'Is it good\?'.*refuses it: no system role"):
        write(chat(MESSAGES), tokenizer)
    tokenizer.chat_template = "{{ messages | length }}"
    with pytest.raises(IncompatibleError, match="changes what stands before the last message"):
        write(chat(MESSAGES), tokenizer)


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([], "field 'turns' has no messages."),
        ("hello", "field 'turns' is 'hello'; it should be a list."),
        (["hello"], "field 'turns', message 0 is 'hello'; it should be an object with 'role' and 'content'."),
        ([{"role": "user"}], "field 'turns', message 0: 'content' is None; it should be a string."),
        (MESSAGES[:3], "field 'turns': the last message is of role 'user'; it should be 'assistant'"),
        ([*MESSAGES[:3], MESSAGES[3] | {"content": " "}], "the last message is empty"),
    ],
)
def test_bad_conversations_are_refused_with_their_line(chat, messages, message):
    with pytest.raises(UsageError, match=re.escape(message)) as caught:
        load_task_data(chat(MESSAGES, messages))
    assert "chat.jsonl', line 2: " in str(caught.value)
