from datetime import UTC, datetime

import pytest

from mainspring_console.domain.wording import moment, project_of_token, short, state, step_title, with_interval


def test_names_are_shortened_and_states_are_words() -> None:
    assert short("projects/p/models/m/versions/3") == "models/m/versions/3"
    assert short("") == ""
    assert state("STATE_ROLLED_BACK") == "rolled back"
    assert step_title("mainspring.data.dataset_version.published.v1") == "data dataset version published"
    assert moment(datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)) == "2026-01-02 03:04:05"
    assert moment(None) == moment(datetime.fromtimestamp(0, UTC)) == "–"
    assert with_interval(0.1, 0.05, 0.15, signed=True) == "+0.1000  [+0.0500, +0.1500]"


@pytest.mark.parametrize(
    ("projects", "wanted", "shown"),
    [
        ({"p"}, "", "p"),
        ({"p", "q"}, "q", "q"),
        ({"p"}, "q", "p"),
        ({"*"}, "any", "any"),
        ({"*"}, "", ""),
    ],
)
def test_a_person_sees_only_projects_of_the_token(projects: set[str], wanted: str, shown: str) -> None:
    assert project_of_token(frozenset(projects), wanted) == shown
