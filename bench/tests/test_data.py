"""What benchmarks of data are made from."""

import random
from itertools import combinations, islice

from bench import data_near, data_numbers, data_rows

from mainspring_data_ingest.domain.words import runs_of, words_of


def test_a_seed_gives_the_same_rows_of_about_200_bytes() -> None:
    first, again, other = (list(data_rows.Rows(seed).make(200)) for seed in (1, 1, 2))
    assert first == again != other
    mean = sum(len(prompt) + len(answer) for prompt, answer in first) / len(first)
    assert 150 < mean < 250


def test_true_pairs_are_those_that_comparing_all_with_all_finds() -> None:
    texts = [answer for _, answer in islice(data_rows.Rows(5).make(400), 400)]
    texts += [f"{text} more" for text in texts[:50]]
    sets = [runs_of(words_of(text), data_near.SHINGLE_WORDS) for text in texts]
    all_pairs = {
        (a, b)
        for a, b in combinations(range(len(sets)), 2)
        if len(sets[a] & sets[b]) >= data_near.THRESHOLD * len(sets[a] | sets[b])
    }
    assert len(all_pairs) >= 50
    assert set(data_near.true_pairs(texts)) == all_pairs


def test_made_up_numbers_have_right_check_digits() -> None:
    chance = random.Random(3)
    for _ in range(50):
        digits = [int(digit) for digit in data_numbers.card(chance).replace(" ", "")]
        doubled = [sum(divmod(2 * digit, 10)) for digit in digits[-2::-2]]
        assert (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0
        account = data_numbers.iban(chance)
        assert int(f"{account[4:]}1314{account[2:4]}") % 97 == 1
