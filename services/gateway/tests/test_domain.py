import pytest

from mainspring_gateway.domain.names import answer_name, completion_id, model_id, model_name
from mainspring_svckit.errors import InvalidInput


def test_callers_name_models_shortly_or_wholly() -> None:
    assert model_name("p", "m") == "projects/p/models/m"
    assert model_name("p", "m/versions/3") == "projects/p/models/m/versions/3"
    assert model_name("p", "projects/q/models/m") == "projects/q/models/m"
    assert model_id("projects/p/models/m") == "m"


@pytest.mark.parametrize("model", ["", "M", "../m", "m/versions", "m@champion", "projects/p", "m\n", "a" * 300])
def test_what_is_not_a_model_is_refused(model: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        model_name("p", model)
    assert caught.value.violations[0].field == "model"


def test_answers_are_named_by_any_of_their_ids() -> None:
    name = "projects/p/answers/0198c0de-0000-7000-8000-000000000000"
    assert completion_id(name, chat=True) == "chatcmpl-0198c0de-0000-7000-8000-000000000000"
    for target in (name, completion_id(name, chat=True), completion_id(name, chat=False), name.rsplit("/", 1)[-1]):
        assert answer_name("p", target) == name
    with pytest.raises(InvalidInput):
        answer_name("p", "projects/p/models/m")
