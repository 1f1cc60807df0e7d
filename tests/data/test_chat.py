"""Chats are rendered by the tokenizer's own template, and exactly the replies are trained, through the token that ends them."""

from __future__ import annotations

import copy

import pytest

from whet.data.chat import BASIC_TEMPLATE, encode, messages_of, prompt_ids, prompt_messages, render
from whet.data.formats.chat import Chat
from whet.data.formats.plain import Plain
from whet.data.formats.preference import Preference
from whet.data.prepare import render_trained
from whet.errors import DataError

START = "'<|im_start|>' + m['role'] + '\n'"
END = "'<|im_end|>\n'"
REPLY = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
CHATML = f"{{% for m in messages %}}{{{{ {START} + m['content'] + {END} }}}}{{% endfor %}}{REPLY}"
LLAMA3 = (
    "{{ bos_token }}{% for message in messages %}{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' "
    "+ message['content'] | trim + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
FORGETS_THOUGHTS = (
    "{% for m in messages %}{% set text = m['content'] %}"
    "{% if m['role'] == 'assistant' and not loop.last %}{% set text = text.split('</think>')[-1] %}{% endif %}"
    f"{{{{ {START} + text + {END} }}}}{{% endfor %}}{REPLY}"
)
MARKED_REPLY = "{% if m['role'] == 'assistant' %}{% generation %}{{ text }}{% endgeneration %}{% else %}{{ text }}{% endif %}"
MARKED = (
    f"{{% for m in messages %}}{{% set text = m['content'] %}}{{{{ {START} }}}}{MARKED_REPLY}{{{{ {END} }}}}{{% endfor %}}{REPLY}"
)
FORGETS_BUT_MARKED = FORGETS_THOUGHTS.replace(
    f"{{{{ {START} + text + {END} }}}}", f"{{{{ {START} }}}}{MARKED_REPLY}{{{{ {END} }}}}"
)
NO_SYSTEM = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}" + CHATML
DROPS_SYSTEM = CHATML.replace("{% for m in messages %}", "{% for m in messages if m['role'] != 'system' %}")
NEVER_ENDS = "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}" + REPLY.replace(
    "<|im_start|>assistant\n", "assistant: "
)

SINGLE = [{"role": "user", "content": "What is 3 plus 4?"}, {"role": "assistant", "content": "The answer is 7."}]
MULTI = [*SINGLE, {"role": "user", "content": "Sort the list: 4, 1."}, {"role": "assistant", "content": "1, 4"}]
ROW = {"prompt": "What is 3 plus 4?", "completion": "The answer is 7."}


@pytest.fixture
def tokenizer_with(tiny_tokenizer):
    """The tiny tokenizer with another template and that template's special tokens."""

    def make(template, eos="<|im_end|>", **tokens):
        tokenizer = copy.deepcopy(tiny_tokenizer)
        special = ["<|im_start|>", "<|im_end|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|begin_of_text|>"]
        tokenizer.add_special_tokens({"additional_special_tokens": special})
        tokenizer.eos_token = eos
        for name, value in tokens.items():
            setattr(tokenizer, name, value)
        tokenizer.chat_template = template
        return tokenizer

    return make


def tokens(example, tokenizer):
    return tokenizer.convert_ids_to_tokens(example.input_ids)


def shown(messages, tokenizer, **options):
    return render_trained(encode(messages, tokenizer, **options), tokenizer)


def test_golden_tokens_of_the_tiny_template(tiny_tokenizer):
    example = encode(SINGLE, tiny_tokenizer)
    assert tokens(example, tiny_tokenizer)[0] == "<|user|>"
    prompt = tiny_tokenizer("<|user|>What is 3 plus 4?<|assistant|>", add_special_tokens=False)["input_ids"]
    reply = tiny_tokenizer("The answer is 7.<|eos|>", add_special_tokens=False)["input_ids"]
    assert list(example.input_ids) == prompt + reply
    assert list(example.trained) == [False] * len(prompt) + [True] * len(reply)


def test_golden_text_of_chatml(tokenizer_with):
    tokenizer = tokenizer_with(CHATML)
    assert shown(MULTI, tokenizer) == (
        "<|im_start|>user\nWhat is 3 plus 4?<|im_end|>\n<|im_start|>assistant\n⟦The answer is 7.<|im_end|>⟧\n"
        "<|im_start|>user\nSort the list: 4, 1.<|im_end|>\n<|im_start|>assistant\n⟦1, 4<|im_end|>⟧"
    )
    assert tokens(encode(SINGLE, tokenizer), tokenizer)[-1] == "<|im_end|>"


def test_golden_text_of_llama3_which_trims(tokenizer_with):
    tokenizer = tokenizer_with(LLAMA3, eos="<|eot_id|>", bos_token="<|begin_of_text|>")
    chat = [{"role": "system", "content": "Be short."}, SINGLE[0], {"role": "assistant", "content": "  seven \n"}]
    assert shown(chat, tokenizer) == (
        "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nBe short.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\n"
        "What is 3 plus 4?<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n⟦seven<|eot_id|>⟧"
    )


@pytest.mark.parametrize("template", [CHATML, BASIC_TEMPLATE, MARKED])
def test_the_prompt_is_the_beginning_of_the_training_row(tokenizer_with, template):
    tokenizer = tokenizer_with(template)
    example = encode(SINGLE, tokenizer)
    prompt = prompt_ids(ROW, tokenizer)
    assert list(example.input_ids[: len(prompt)]) == prompt
    assert list(example.trained) == [i >= len(prompt) for i in range(len(example))]


def test_pad_equal_to_eos_keeps_the_end_trained(tokenizer_with):
    tokenizer = tokenizer_with(CHATML, pad_token="<|im_end|>")
    example = encode(MULTI, tokenizer)
    ends = [i for i, token in enumerate(example.input_ids) if token == tokenizer.eos_token_id]
    assert len(ends) == 4
    assert [example.trained[i] for i in ends] == [False, True, False, True]


def test_last_trains_the_last_reply_alone(tokenizer_with):
    tokenizer = tokenizer_with(CHATML)
    text = shown(MULTI, tokenizer, train_on="last")
    assert text.count("⟦") == 1
    assert text.endswith("⟦1, 4<|im_end|>⟧")


def test_markers_and_incremental_rendering_agree(tokenizer_with):
    tokenizer = tokenizer_with(MARKED)
    example = encode(MULTI, tokenizer)
    mask = tokenizer.apply_chat_template(MULTI, return_dict=True, return_assistant_tokens_mask=True)["assistant_masks"]
    content = [trained and token != tokenizer.eos_token_id for token, trained in zip(example.input_ids, example.trained)]
    assert content == [bool(m) for m in mask[: len(example)]]


def test_a_template_that_rewrites_earlier_turns_is_refused_with_a_way_out(tokenizer_with):
    tokenizer = tokenizer_with(FORGETS_THOUGHTS)
    chat = [
        SINGLE[0],
        {"role": "assistant", "content": "<think>3+4</think>7"},
        MULTI[2],
        {"role": "assistant", "content": "<think>sort</think>1, 4"},
    ]
    with pytest.raises(DataError, match=r"changes what stands before message 1.*train_on: each"):
        encode(chat, tokenizer)
    each = Chat(train_on="each")({"messages": chat}, tokenizer)
    texts = [render_trained(example, tokenizer) for example in each]
    assert [text.partition("⟦")[2] for text in texts] == ["<think>3+4</think>7<|im_end|>⟧", "<think>sort</think>1, 4<|im_end|>⟧"]
    assert "<think>" not in texts[1].partition("⟦")[0]


def test_markers_help_where_rendering_is_not_incremental(tokenizer_with):
    tokenizer = tokenizer_with(FORGETS_BUT_MARKED)
    chat = [SINGLE[0], {"role": "assistant", "content": "<think>3+4</think>7"}, *MULTI[2:]]
    assert shown(chat, tokenizer).endswith(
        "\n⟦7<|im_end|>⟧\n<|im_start|>user\nSort the list: 4, 1.<|im_end|>\n<|im_start|>assistant\n⟦1, 4<|im_end|>⟧"
    )


def test_a_template_without_closing_token_gets_the_end_token(tokenizer_with):
    tokenizer = tokenizer_with(NEVER_ENDS)
    assert shown(SINGLE, tokenizer).endswith("assistant: ⟦The answer is 7.\n<|im_end|>⟧")


def test_a_token_across_the_boundary_is_split_as_at_inference(tokenizer_with):
    tokenizer = tokenizer_with(NEVER_ENDS)
    chat = [SINGLE[0], {"role": "assistant", "content": "is 7"}]
    prompt = prompt_ids({"prompt": SINGLE[0]["content"]}, tokenizer)
    whole = tokenizer(render(chat, tokenizer), add_special_tokens=False)["input_ids"]
    assert whole[: len(prompt)] != prompt
    example = encode(chat, tokenizer)
    assert list(example.input_ids[: len(prompt)]) == prompt
    assert example.trained.index(True) == len(prompt)
    assert tokenizer.decode(example.input_ids[:-1]) == tokenizer.decode(whole)


def test_a_dropped_system_text_is_not_silent(tokenizer_with):
    chat = [{"role": "system", "content": "Be short."}, *SINGLE]
    with pytest.raises(DataError, match=r"drops or rewrites text of message 0 .*Be short"):
        encode(chat, tokenizer_with(DROPS_SYSTEM))
    with pytest.raises(DataError, match=r"System role not supported; put the system text into the first user message"):
        encode(chat, tokenizer_with(NO_SYSTEM))


def test_no_template_names_the_ways_out(tokenizer_with):
    with pytest.raises(DataError, match=r"no chat template.*format: plain.*BASIC_TEMPLATE"):
        render(SINGLE, tokenizer_with(None))


def test_rows_are_read_as_chats(tiny_tokenizer):
    sharegpt = {"messages": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]}
    assert messages_of(sharegpt) == [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    assert messages_of(ROW, "Be short.")[0] == {"role": "system", "content": "Be short."}
    assert prompt_messages({"messages": MULTI}) == MULTI[:3]
    assert messages_of({"messages": None, **ROW}) == SINGLE
    with pytest.raises(DataError, match=r"no column 'prompt': did you mean 'prompts'"):
        messages_of({"prompts": "a", "completion": "b"})
    with pytest.raises(DataError, match=r"no assistant turn"):
        encode(SINGLE[:1], tiny_tokenizer)
    with pytest.raises(DataError, match=r"message 0: needs 'role' and 'content'"):
        messages_of({"messages": [{"role": "user", "content": 3}]})


def test_plain_trains_all_but_the_first_token(tiny_tokenizer):
    (example,) = Plain()({"text": "Tom has 12 apples"}, tiny_tokenizer)
    assert example.input_ids[-1] == tiny_tokenizer.eos_token_id
    assert example.trained_tokens == len(example) - 1
    assert not example.trained[0]
    (bare,) = Plain(eos=False)({"text": "Tom has 12 apples"}, tiny_tokenizer)
    assert list(bare.input_ids) == list(example.input_ids[:-1])


def test_preference_gives_a_pair_with_one_prompt(tiny_tokenizer):
    row = {"prompt": "What is 3 plus 4?", "chosen": "7", "rejected": "8"}
    chosen, rejected = Preference()(row, tiny_tokenizer)
    assert (chosen.values, rejected.values) == ({"chosen": 1.0}, {"chosen": 0.0})
    prompt = prompt_ids(row, tiny_tokenizer)
    assert list(chosen.input_ids[: len(prompt)]) == list(rejected.input_ids[: len(prompt)]) == prompt
    whole = {name: [SINGLE[0], {"role": "assistant", "content": row[name]}] for name in ("chosen", "rejected")}
    assert [e.input_ids for e in Preference()(whole, tiny_tokenizer)] == [chosen.input_ids, rejected.input_ids]


def test_preference_refuses_equal_texts_and_missing_columns(tiny_tokenizer):
    with pytest.raises(DataError, match=r"same text: '7'"):
        Preference()({"prompt": "a", "chosen": "7", "rejected": "7"}, tiny_tokenizer)
    with pytest.raises(DataError, match=r"no column 'rejected': did you mean 'reject'"):
        Preference()({"prompt": "a", "chosen": "7", "reject": "8"}, tiny_tokenizer)
