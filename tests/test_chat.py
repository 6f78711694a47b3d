"""Exactly the answers with their end tokens are learnt, and a prompt is the prefix of what was learnt."""

import copy
import itertools
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline_lib import chat
from pipeline_lib.chat_templates import NAMES
from pipeline_lib.core.errors import ConfigError, DataError

CHATML = (
    "{% for m in messages %}"
    "{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
LLAMA = (
    "{{ bos_token }}{% for m in messages %}{{ '<|start_header_id|>' + m['role'] + '<|end_header_id|>\\n\\n'"
    " + m['content'] | trim + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}"
    "{{ raise_exception('System role not supported') }}{% endif %}{% for m in messages %}"
    "{{ '<start_of_turn>' + ('model' if m['role'] == 'assistant' else m['role'])"
    " + '\\n' + m['content'] + '<end_of_turn>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}"
)
REASONING = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' }}"
    "{% if m.reasoning_content and loop.last %}{{ '<think>' + m.reasoning_content + '</think>' }}{% endif %}"
    "{{ m['content'] + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
TOOLS = (
    "{% if tools %}{{ tools | tojson + '\\n' }}{% endif %}{% for m in messages %}"
    "{{ '<|im_start|>' + m['role'] + '\\n'"
    " + m['content'] }}{% for call in m.tool_calls or [] %}{{ '<call>' + call.function.name + "
    "call.function.arguments"
    " | tojson }}{% endfor %}{{ '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
FORMS = {
    "chatml": (CHATML, "<|im_end|>", "<|endoftext|>"),
    "llama": (LLAMA, "<|eot_id|>", "<|endoftext|>"),
    "gemma": (GEMMA, "<end_of_turn>", "<|endoftext|>"),
    "markers": (chat.MARKER_TEMPLATE, "<|endoftext|>", "<|endoftext|>"),
    "reasoning": (REASONING, "<|im_end|>", "<|im_end|>"),
    "tools": (TOOLS, "<|im_end|>", "<|im_end|>"),
}
SPECIAL = [
    "<|im_start|>",
    "<|im_end|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
    "<|endoftext|>",
]
SPECIAL += ["<start_of_turn>", "<end_of_turn>"]
PLAIN = ["chatml", "llama", "gemma", "markers"]


def tokenizer(form: str) -> Any:
    """Return a byte-level BPE tokenizer with many merges across line ends, and the form's template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    template, end, eos = FORMS[form]
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    bpe.decoder = decoders.ByteLevel()
    given_special = [token for token in SPECIAL if token in (template, end, eos) or token in template]
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=sorted({*given_special, eos}),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(["user\nHello there\n\nassistant\nHello\n\n a b\n"] * 30, trainer)
    made = PreTrainedTokenizerFast(
        tokenizer_object=bpe, eos_token=eos, bos_token=eos, clean_up_tokenization_spaces=False
    )
    made.chat_template = template
    return made


TOKENIZERS = {form: tokenizer(form) for form in FORMS}


def turns(*contents: str, **last: Any) -> list[dict[str, Any]]:
    """Return messages of user and assistant in turn; ``last`` adds to the last one."""
    made: list[dict[str, Any]] = [
        {"role": ("user", "assistant")[i % 2], "content": said} for i, said in enumerate(contents)
    ]
    return [*made[:-1], {**made[-1], **last}]


def learnt(form: str, messages: list[dict[str, Any]], **how: Any) -> list[str]:
    """Return the stretches of text whose tokens are learnt."""
    one = TOKENIZERS[form]
    (encoded,) = chat.encode(one, [chat.pieces(one, messages, **how)])
    stretches: list[list[int]] = [[]]
    for token, learn in zip(encoded.ids, encoded.mask, strict=True):
        if learn:
            stretches[-1].append(token)
        elif stretches[-1]:
            stretches.append([])
    return [one.decode(ids) for ids in stretches if ids]


TALK = turns("Hello there", "Hello\n\nyou", "a b", " fine ")


@pytest.mark.parametrize("form", PLAIN)
def test_exactly_the_answers_are_learnt_with_their_end_token(form: str) -> None:
    end = FORMS[form][1]
    answers = ["Hello\n\nyou", "fine" if form == "llama" else " fine "]
    assert learnt(form, TALK) == [answer + end for answer in answers]
    assert learnt(form, TALK, last_only=True) == [answers[-1] + end]


@pytest.mark.parametrize("form", PLAIN)
def test_the_pieces_are_the_rendered_text_up_to_the_last_answer(form: str) -> None:
    one = TOKENIZERS[form]
    whole = "".join(piece.text for piece in chat.pieces(one, TALK))
    assert one.apply_chat_template(TALK, tokenize=False).removesuffix("\n") == whole


SAID = st.text(alphabet="ab \né<", max_size=6)


@pytest.mark.parametrize("form", PLAIN)
@pytest.mark.parametrize("last_only", [False, True])
@settings(max_examples=30)
@given(said=st.lists(SAID, min_size=1, max_size=3), system=st.none() | st.just("Be brief."))
def test_what_is_generated_from_is_the_prefix_of_what_was_learnt(
    form: str, last_only: bool, said: list[str], system: str | None
) -> None:
    messages = turns(*[part for one in said for part in (one, one[::-1] + "!")])
    if system and form != "gemma":
        messages = [{"role": "system", "content": system}, *messages]
    one = TOKENIZERS[form]
    (encoded,) = chat.encode(one, [chat.pieces(one, messages, last_only=last_only)])
    (prompt,) = chat.prompt_ids(one, [messages[:-1]])
    assert encoded.ids[: len(prompt)] == prompt
    assert all(encoded.mask[len(prompt) :])
    assert not encoded.mask[len(prompt) - 1]
    if not last_only:
        for i in range(0, len(messages) - 1):
            if messages[i + 1]["role"] == "assistant":
                (earlier,) = chat.prompt_ids(one, [messages[: i + 1]])
                assert encoded.ids[: len(earlier)] == earlier


def test_a_conversation_without_an_answer_teaches_nothing() -> None:
    assert chat.pieces(TOKENIZERS["chatml"], turns("Hello")) == []
    assert chat.encode(TOKENIZERS["chatml"], [[], []]) == [chat.Encoded([], [])] * 2


def test_a_template_that_takes_reasoning_out_of_history_is_refused_for_every_turn() -> None:
    first = turns("a", "b", reasoning="so")
    messages = [*first, *turns("c", "d", reasoning="thus")]
    assert learnt("reasoning", first) == ["<think>so</think>b<|im_end|>"]
    with pytest.raises(DataError, match="another prompt for training than for generation"):
        learnt("reasoning", messages)


def test_such_a_template_serves_where_the_last_turn_alone_is_learnt() -> None:
    messages = [*turns("a", "b", reasoning="so"), *turns("c", "d", reasoning="thus")]
    one = TOKENIZERS["reasoning"]
    assert learnt("reasoning", messages, last_only=True) == ["<think>thus</think>d<|im_end|>"]
    (encoded,) = chat.encode(one, [chat.pieces(one, messages, last_only=True)])
    (prompt,) = chat.prompt_ids(one, [messages[:-1]])
    assert encoded.ids[: len(prompt)] == prompt
    assert all(encoded.mask[len(prompt) :])


def test_tool_calls_reach_the_template_as_objects() -> None:
    call = json.dumps([{"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}])
    messages = [
        {"role": "user", "content": "1 + 1?", "name": None},
        {"role": "assistant", "content": None, "tool_calls": call},
        {"role": "tool", "content": "2", "tool_call_id": "x"},
        {"role": "assistant", "content": "2."},
    ]
    tools = [{"type": "function", "function": {"name": "add"}}]
    assert learnt("tools", messages, tools=tools) == ['<call>add{"a": 1}<|im_end|>', "2.<|im_end|>"]
    assert chat.pieces(TOKENIZERS["tools"], messages, tools=tools)[0].text.startswith('[{"type": "function"')


def test_a_conversation_that_the_template_refuses_is_a_data_error() -> None:
    with pytest.raises(DataError, match="refuses the conversation: System role not supported"):
        chat.pieces(TOKENIZERS["gemma"], [{"role": "system", "content": "x"}, *TALK])


def test_a_message_without_content_is_rendered_empty() -> None:
    assert learnt("markers", [{"role": "user", "content": "a"}, {"role": "assistant", "content": None}]) == [
        "<|endoftext|>"
    ]


def test_generation_stops_at_the_end_token_and_at_the_templates() -> None:
    one = TOKENIZERS["chatml"]
    wanted = sorted(one.convert_tokens_to_ids(["<|endoftext|>", "<|im_end|>"]))
    assert chat.stop_ids(one) == wanted
    assert chat.stop_ids(TOKENIZERS["markers"]) == [TOKENIZERS["markers"].eos_token_id]


def test_a_tokenizer_without_a_template_needs_one_by_name() -> None:
    bare = tokenizer("markers")
    bare.chat_template = None
    with pytest.raises(ConfigError, match=r"no chat template; name one: --set tokenize\.template=chatml"):
        chat.set_template(bare, None)
    chat.set_template(bare, "markers")
    assert bare.chat_template == chat.MARKER_TEMPLATE


def test_a_prompt_with_tools_is_the_prefix_of_what_was_learnt_with_them() -> None:
    one = TOKENIZERS["tools"]
    tools = [{"type": "function", "function": {"name": "add"}}]
    messages = [{"role": "user", "content": "1 + 1?"}, {"role": "assistant", "content": "2."}]
    whole = chat.encode(one, [chat.pieces(one, messages, tools=tools)])[0]
    prompt = chat.prompt_ids(one, [messages[:1]], tools=tools)[0]
    assert whole.ids[: len(prompt)] == prompt
    assert prompt != chat.prompt_ids(one, [messages[:1]])[0]
    assert not any(whole.mask[: len(prompt)])
    assert all(whole.mask[len(prompt) :])


ENDS = {"chatml": "<|im_end|>", "qwen": "<|im_end|>", "llama3": "<|eot_id|>", "gemma": "<end_of_turn>"}
"""The end tokens that the families have, where a tokenizer has them too; else it is the tokenizer's own."""
OF_FAMILY = {"chatml": "chatml", "qwen": "chatml", "llama3": "llama", "gemma": "gemma"}


def named(name: str, *, family: bool) -> Any:
    """Return a tokenizer with the named template, with the family's special tokens or none of them."""
    made = copy.deepcopy(TOKENIZERS[OF_FAMILY.get(name, "markers") if family else "markers"])
    chat.set_template(made, name)
    return made


def stretches(one: Any, encoded: chat.Encoded) -> list[str]:
    """Return the text of each run of learnt tokens."""
    found = itertools.groupby(zip(encoded.ids, encoded.mask, strict=True), key=lambda pair: pair[1])
    return [one.decode([token for token, _ in run]) for learn, run in found if learn]


@pytest.mark.parametrize("family", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_under_every_name_the_answers_are_learnt_and_a_prompt_is_their_prefix(
    name: str, family: bool
) -> None:
    one = named(name, family=family)
    end = ENDS.get(name, "<|endoftext|>") if family else "<|endoftext|>"
    messages = [{"role": "system", "content": "Be brief."}, *TALK]
    (encoded,) = chat.encode(one, [chat.pieces(one, messages)])
    last = "fine" if name in ("llama3", "gemma") else " fine "
    assert stretches(one, encoded) == ["Hello\n\nyou" + end, last + end]
    for answer in (2, 4):
        (prompt,) = chat.prompt_ids(one, [messages[:answer]])
        assert encoded.ids[: len(prompt)] == prompt
        assert encoded.mask[len(prompt)]
        assert not encoded.mask[len(prompt) - 1]
    assert one.convert_tokens_to_ids(end) in chat.stop_ids(one)


@pytest.mark.parametrize(("name", "form"), [("chatml", "chatml"), ("llama3", "llama"), ("gemma", "gemma")])
def test_a_named_template_renders_as_the_familys_own(name: str, form: str) -> None:
    mine, theirs = named(name, family=True), TOKENIZERS[form]
    for prompt in (False, True):
        talk = TALK[:3] if prompt else TALK
        rendered = theirs.apply_chat_template(talk, tokenize=False, add_generation_prompt=prompt)
        if name == "gemma":
            rendered = rendered.replace(" fine ", "fine")
        assert mine.apply_chat_template(talk, tokenize=False, add_generation_prompt=prompt) == rendered


@pytest.mark.parametrize("name", [name for name in NAMES if name != "markers"])
def test_every_named_template_keeps_tools_calls_results_and_reasoning(name: str) -> None:
    one = named(name, family=True)
    call = [{"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}]
    messages = [
        {"role": "user", "content": "a + a?"},
        {"role": "assistant", "content": "", "tool_calls": json.dumps(call), "reasoning": "must add"},
        {"role": "tool", "content": "two"},
        {"role": "assistant", "content": "two.", "reasoning": "said so"},
    ]
    tools = [{"type": "function", "function": {"name": "add"}}]
    (encoded,) = chat.encode(one, [chat.pieces(one, messages, tools=tools)])
    first, second = stretches(one, encoded)
    assert first.startswith("<think>\nmust add\n</think>")
    assert '<tool_call>{"name": "add", "arguments": {"a": 1}}</tool_call>' in first
    assert second.startswith("<think>\nsaid so\n</think>\n\ntwo.")
    whole = one.decode(encoded.ids)
    assert json.dumps(tools) in whole
    assert whole.count("two") == 2
    (prompt,) = chat.prompt_ids(one, [messages[:3]], tools=tools)
    assert encoded.ids[: len(prompt)] == prompt


@pytest.mark.parametrize("name", [name for name in NAMES if name != "markers"])
def test_a_system_message_in_the_middle_is_refused_and_not_left_out(name: str) -> None:
    with pytest.raises(DataError, match="role system has no place after the first"):
        chat.pieces(named(name, family=True), [*TALK[:2], {"role": "system", "content": "x"}, *TALK[2:]])
