import pytest
from hypothesis import given
from hypothesis import strategies as st

from mainspring_answers.domain import Route
from mainspring_answers.templates import JinjaTemplates
from mainspring_svckit.errors import InvalidInput, PreconditionFailed
from mainspring_svckit.values import Message

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def render(template: str, *messages: Message) -> str:
    route = Route("v", "", 100, "t", chat_template=template, bos_token="<s>", eos_token="</s>")
    return JinjaTemplates().render(route, messages or (Message("user", "hi"),))


def test_a_conversation_becomes_a_prompt() -> None:
    assert render(CHATML) == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    assert render("{{ bos_token }}{{ messages[0].content }}{{ eos_token }}") == "<s>hi</s>"


@given(st.text())
def test_what_people_write_is_never_a_template(text: str) -> None:
    assert text in render(CHATML, Message("user", text))


def test_a_template_may_refuse_a_conversation() -> None:
    with pytest.raises(InvalidInput, match="system first"):
        render("{{ raise_exception('system first') }}")


@pytest.mark.parametrize(
    "hostile",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.append(1) }}",
        "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
        "{{ self.__init__.__globals__ }}",
        "{% for i in range(10000000000) %}x{% endfor %}",
        "{{ undefined_function() }}",
        "{% include '/etc/passwd' %}",
        "{{ 1 / 0 }}",
        "{% if %}",
        "{{ messages[99].content }}",
    ],
)
def test_b7_hostile_and_broken_templates_do_nothing(hostile: str) -> None:
    with pytest.raises(PreconditionFailed) as caught:
        render(hostile)
    assert caught.value.reason == "CHAT_TEMPLATE_BROKEN"


def test_a_model_without_a_template_says_so() -> None:
    with pytest.raises(PreconditionFailed, match="raw_prompt"):
        render("")
