"""Examples from Python code."""

import pytest

from mainspring_pysource import entries_of

SOURCE = '''
def add(left: int, right: int) -> int:
    """Return the sum of two whole numbers.

    Both may be negative, and neither is changed by it.
    """
    return left + right
'''


def test_code_in_memory_gives_its_entries_with_their_lines() -> None:
    (entry,) = entries_of(SOURCE, "sums.py")
    assert (entry.module, entry.name, entry.line) == ("sums.py", "add", 2)
    assert entry.summary == "Return the sum of two whole numbers."


@pytest.mark.parametrize("source", ["def broken(:\n", "\0", "(" * 10_000])
def test_b1_code_that_cannot_be_parsed_is_said_to_be_so(source: str) -> None:
    with pytest.raises((SyntaxError, ValueError, RecursionError, MemoryError)):
        list(entries_of(source, "broken.py"))
