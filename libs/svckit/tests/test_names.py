import pytest
from hypothesis import given
from hypothesis import strategies as st

from mainspring_svckit.errors import InvalidInput
from mainspring_svckit.names import ModelAliasName, ModelName, ModelVersionName, is_id, project_name_of, project_of

ids = st.from_regex(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?", fullmatch=True)


@given(project=ids, model=ids, version=ids)
def test_names_round_trip(project: str, model: str, version: str) -> None:
    name = ModelVersionName(project, model, version)
    assert ModelVersionName.parse(str(name)) == name
    assert project_of(str(name)) == project
    assert project_name_of(str(name)) == f"projects/{project}"


@given(st.text())
def test_parsing_any_text_gives_a_name_or_a_violation(text: str) -> None:
    try:
        assert str(ModelName.parse(text, "model")) == text
    except InvalidInput as err:
        assert [violation.field for violation in err.violations] == ["model"]


@pytest.mark.parametrize(
    "text",
    [
        "projects/p/models/M",
        "projects/p/models/m/",
        "projects/p/models/../m",
        "projects/p/models/m\n",
        "/projects/p/models/m",
        "projects//models/m",
        "projects/p/models/-m",
        "projects/p/models/" + "m" * 64,
    ],
)
def test_near_misses_are_refused(text: str) -> None:
    with pytest.raises(InvalidInput):
        ModelName.parse(text)


def test_an_alias_is_not_a_version() -> None:
    assert str(ModelAliasName("p", "m", "champion")) == "projects/p/models/m@champion"
    assert not ModelVersionName.matches("projects/p/models/m@champion")


def test_ids_are_lower_case_letters_digits_and_hyphens() -> None:
    assert is_id("0198c0de-0000-7000-8000-000000000000")
    assert not is_id("")
    assert not is_id("a_b")


@pytest.mark.parametrize("text", ["", "models/m", "projects/", "projects/P/models/m"])
def test_what_is_no_resource_name_has_no_project(text: str) -> None:
    assert project_of(text) is None
    with pytest.raises(ValueError, match="no resource name"):
        project_name_of(text)
