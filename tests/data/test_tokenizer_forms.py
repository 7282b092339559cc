"""Answers are trained on with the ids that the chat template's text has as a whole, whatever the tokenizer's form."""

from __future__ import annotations

import pytest

from mft_cli.config.schema.inputs import PromptConfig
from mft_cli.data.conversations import Turn
from mft_cli.data.prompts import Renderer
from mft_cli.data.segments import Segment, apart, begins_with_blank, in_context
from tests.support.tokenizers import FORMS, fast

# user's and assistant's turns, and the generation prompt; </s> is the end token
TEMPLATES = {
    "blanks around the answer": ("<s>[INST] {} [/INST]", " {} </s>", ""),  # Llama 2
    "a blank before the answer": ("[INST] {}[/INST]", " {}</s>", ""),  # Mistral
    "a line end before the answer": ("<|user|>\n{}</s>\n", "<|assistant|>\n{}</s>\n", "<|assistant|>\n"),  # Zephyr
    "plain words": ("USER: {} ", "ASSISTANT: {}</s>", "ASSISTANT:"),  # Vicuna
    "control tokens": ("<|im_start|>user\n{}<|im_end|>\n", "<|im_start|>assistant\n{}</s>\n", "<|im_start|>assistant\n"),
    "a channel": ("<|im_start|>user\n{}<|im_end|>", "<|im_start|>assistant<|channel|>{}</s>", "<|im_start|>assistant"),
}  # fmt: skip
SPECIAL = ["<s>", "</s>", "<|im_start|>", "<|im_end|>", "<|channel|>"]
CHAT: list[Turn] = [
    {"role": "user", "content": "What is 1 plus 2?"},
    {"role": "assistant", "content": "It is 3."},
    {"role": "user", "content": "And 1 more?"},
    {"role": "assistant", "content": "4"},
]


def renderer_of(form: str, template: str) -> Renderer:
    tokenizer = fast(form, SPECIAL, eos="</s>", bos="<s>")
    user, assistant, ask = (repr(part) for part in TEMPLATES[template])
    tokenizer.chat_template = (
        "{% for m in messages %}{% if m['role'] == 'user' %}{{ " + user + ".replace('{}', m['content']) }}{% else %}{{ "
        + assistant + ".replace('{}', m['content']) }}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ " + ask + " }}{% endif %}"
    )  # fmt: skip
    return Renderer(tokenizer, PromptConfig())


def chat_ids(renderer: Renderer, turns: list[Turn], ask: bool = False) -> list[int]:
    text = renderer.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=ask)
    return renderer.encode(text)


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("form", FORMS)
def test_a_conversation_has_the_ids_of_its_text_and_follows_what_is_asked(form: str, template: str):
    renderer = renderer_of(form, template)
    (pieces,) = renderer.tokenized(renderer.conversation(CHAT, "all"))
    whole, done = chat_ids(renderer, CHAT), []
    answers = iter((1, 3))
    for piece in pieces:
        if piece.loss_mask:
            assert done == chat_ids(renderer, CHAT[: next(answers)], ask=True), "what generation is asked with"
            assert piece.ids[-1] == renderer.end_id == renderer.tokenizer.eos_token_id
        done += piece.ids
    assert done == whole[: len(done)]
    assert next(answers, None) is None
    assert renderer.tokenizer.decode(whole[len(done) :]).strip() == ""


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("form", FORMS)
def test_a_question_with_its_response_has_the_ids_of_the_conversation(form: str, template: str):
    renderer = renderer_of(form, template)
    question, response = CHAT[0]["content"], CHAT[1]["content"]
    as_row, as_turns = renderer.tokenized(
        [renderer.segments(question, response, None, None), *renderer.conversation(CHAT[:2], "all")]
    )
    assert [i for p in as_row for i in p.ids] == [i for p in as_turns for i in p.ids]
    assert [len(p.ids) for p in as_row if p.loss_mask] == [len(p.ids) for p in as_turns if p.loss_mask]


def test_offsets_of_a_response_are_those_of_its_own_text():
    renderer = renderer_of("SentencePiece", "a line end before the answer")
    (pieces,) = renderer.tokenized(renderer.conversation(CHAT, "all"))
    first = next(p for p in pieces if p.loss_mask)
    assert first.offsets is not None
    assert first.text.startswith("It is 3.")
    assert "".join(first.text[a:b] for a, b in first.offsets).startswith("It is 3.")


def test_a_row_whose_ids_cannot_be_cut_is_tokenized_in_parts():
    tokenizer = fast("SentencePiece", SPECIAL, eos="</s>")
    row = [Segment("He has 3 app"), Segment("les and", True)]
    whole = tokenizer("He has 3 apples and", add_special_tokens=False)["input_ids"]
    (together,), (parts,) = in_context(tokenizer, [row]), apart(tokenizer, [row])
    assert [p.ids for p in together] == [p.ids for p in parts]
    assert [i for p in parts for i in p.ids] != whole


def test_which_tokenizers_begin_with_a_blank():
    begin = {form for form in FORMS if begins_with_blank(fast(form, SPECIAL, eos="</s>"))}
    assert begin == {"byte-level with a blank", "SentencePiece", "SentencePiece, first blank only", "unigram"}


def test_a_template_prompt_is_tokenized_in_parts_as_ever():
    tokenizer = fast("SentencePiece", SPECIAL, eos="</s>")
    renderer = Renderer(tokenizer, PromptConfig(name="p", kind="template", template="Q: {question}\nA:"))
    (pieces,) = renderer.tokenized([renderer.segments("What?", "It is 3.", None, None)])
    assert [p.ids for p in pieces] == [renderer.encode("Q: What?\nA:"), [*renderer.encode("It is 3."), renderer.end_id]]
