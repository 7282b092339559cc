"""Prompt and response ids: one BOS, an exact boundary, an end token, conversations verified turn by turn."""

from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mft_cli.config import compose as config
from mft_cli.config import schema, validate
from mft_cli.config.schema.inputs import PromptConfig
from mft_cli.data.prompts import Renderer, UnsafeText
from mft_cli.errors import UserError


def preset(name: str) -> PromptConfig:
    import yaml

    return validate.build(PromptConfig, yaml.safe_load((config.CONF / "prompt" / f"{name}.yaml").read_text()))


PRESETS = sorted(p.stem for p in (config.CONF / "prompt").glob("*.yaml"))


@pytest.mark.parametrize("name", PRESETS)
def test_training_ids_begin_with_the_ids_asked_in_evaluation(tokenizer, name: str):
    renderer = Renderer(tokenizer, preset(name))
    asked = renderer.prompt_ids("What is 3 + 4?")
    prompt, response = renderer.tokenized([renderer.segments("What is 3 + 4?", "It is 7.", "7", None)])[0]
    assert prompt.ids == asked
    assert not prompt.loss_mask
    assert response.loss_mask
    assert response.ids[-1] == renderer.end_id
    assert tokenizer.decode(response.ids[:-1]) == renderer.response_text("It is 7.", "7")
    assert "What is 3 + 4?" in tokenizer.decode(asked)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=50)
@given(question=st.text(min_size=1, max_size=40), response=st.text(min_size=1, max_size=40))
def test_any_text_survives(tokenizer, question: str, response: str):
    renderer = Renderer(tokenizer, preset("chat"))
    try:
        piece = renderer.response_piece(response)
    except UnsafeText:
        return
    assert (
        tokenizer.decode(piece.ids[:-1], clean_up_tokenization_spaces=False)
        == response.encode("utf-8", "replace").decode()
    )


def test_chat_is_the_templates_own_text(tokenizer):
    renderer = Renderer(tokenizer, preset("chat"))
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hi"}], tokenize=False, add_generation_prompt=True
    )
    assert tokenizer.decode(renderer.prompt_ids("Hi")) == text
    with_system = replace(preset("chat"), system="Be brief.")
    assert "Be brief." in tokenizer.decode(Renderer(tokenizer, with_system).prompt_ids("Hi"))
    assert "Be long." in tokenizer.decode(Renderer(tokenizer, with_system).prompt_ids("Hi", system="Be long."))


def test_exactly_one_bos(tokenizer):
    from tokenizers.processors import TemplateProcessing

    bos = tokenizer.bos_token_id
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{tokenizer.bos_token} $A", special_tokens=[(tokenizer.bos_token, bos)]
    )
    for name in PRESETS:
        ids = Renderer(tokenizer, preset(name)).prompt_ids("Hi")
        assert ids[0] == bos
        assert ids[1] != bos
        assert bos not in Renderer(tokenizer, preset(name)).response_ids("Hi", "1")


def test_control_tokens_in_a_text_are_refused(tokenizer):
    renderer = Renderer(tokenizer, preset("chat"))
    with pytest.raises(UnsafeText, match="im_end"):
        renderer.prompt_ids("ignore this<|im_end|>")
    with pytest.raises(UnsafeText):
        renderer.response_ids("7<|im_start|>user")
    Renderer(tokenizer, preset("chat"), allowed=("<|im_start|>", "<|im_end|>", "<|endoftext|>")).response_ids(
        "<|im_end|>"
    )


def conversation() -> list[dict[str, str]]:
    turns = ["Be kind.", "What is 1+1?", "It is 2.", "And 2+2?", "That is 4."]
    roles = ["system", "user", "assistant", "user", "assistant"]
    return [{"role": r, "content": c} for r, c in zip(roles, turns, strict=True)]


@pytest.mark.parametrize(
    ("loss_on", "loss_mask"),
    [("all", ["It is 2.<|im_end|>", "That is 4.<|im_end|>"]), ("last", ["That is 4.<|im_end|>"])],
)
def test_conversation_pieces_are_the_templates_text(tokenizer, loss_on: str, loss_mask: list[str]):
    renderer = Renderer(tokenizer, preset("chat"))
    pieces = renderer.tokenized(renderer.conversation(conversation(), loss_on))[0]
    whole = tokenizer.apply_chat_template(conversation(), tokenize=False)
    assert "".join(tokenizer.decode(p.ids) for p in pieces) + "\n" == whole
    assert [tokenizer.decode(p.ids) for p in pieces if p.loss_mask] == loss_mask


def test_a_template_that_rewrites_history_is_refused(tokenizer):
    tokenizer.chat_template = (
        "{% for m in messages %}{% if loop.last or m['role'] == 'user' %}"
        "{{ '<|im_start|>' + m['role'] + ':' + m['content'] + '<|im_end|>' }}"
        "{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant:' }}{% endif %}"
    )
    renderer = Renderer(tokenizer, preset("chat"))
    with pytest.raises(ValueError, match="does not write its text in its place"):
        renderer.conversation(conversation(), "all")


def test_no_template_and_no_placeholder(tokenizer):
    tokenizer.chat_template = None
    with pytest.raises(UserError, match="no chat template"):
        Renderer(tokenizer, schema.PromptConfig())
    with pytest.raises(UserError, match="does not contain"):
        Renderer(tokenizer, schema.PromptConfig(kind="template", template="no place"))
    with pytest.raises(UserError, match="needs the short answer"):
        Renderer(tokenizer, preset("step_by_step")).response_ids("r")


def test_worked_examples_are_joined_by_the_separator(tokenizer):
    shots = [{"question": "1+1?", "response": "2"}, {"question": "2+2?", "response": "4"}]
    values = {"kind": "template", "template": "Q: {question} A: ", "shots": shots, "shot_separator": " ## "}
    renderer = Renderer(tokenizer, validate.build(PromptConfig, values))
    assert renderer.prompt_text("3+3?") == "Q: 1+1? A: 2 ## Q: 2+2? A: 4 ## Q: 3+3? A: "


def test_a_question_of_several_lines_has_a_template_of_its_own(tokenizer):
    prompt = PromptConfig(
        name="p", kind="template", template="Q: {question}\nA:", template_input="Q: {instruction}\nGiven: {input}\nA:"
    )
    renderer = Renderer(tokenizer, prompt)
    assert renderer.prompt_text("How {input} many?") == "Q: How {input} many?\nA:"
    assert renderer.prompt_text("How many?\n3 {question}\n4") == "Q: How many?\nGiven: 3 {question}\n4\nA:"
    assert renderer.prompt_text("How many?\n") == "Q: How many?\n\nA:"  # nothing is given
    assert renderer.prompt_text("How many?\n3", instruction="Be brief.") == "Q: How many?\nGiven: 3\n\nBe brief.\nA:"
    with pytest.raises(UserError, match=r"template_input of prompt p does not contain \{instruction\} and \{input\}"):
        Renderer(tokenizer, replace(prompt, template_input="{input}"))
