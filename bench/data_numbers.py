"""Made-up personal data with right check digits."""

from __future__ import annotations

import random


def card(chance: random.Random) -> str:
    """A payment card number with a right Luhn digit."""
    digits = [4, *(chance.randrange(10) for _ in range(14))]
    total = sum(sum(divmod(digit * 2, 10)) if place % 2 == 0 else digit for place, digit in enumerate(digits))
    number = "".join(map(str, [*digits, -total % 10]))
    return chance.choice((number, " ".join(number[at : at + 4] for at in range(0, 16, 4))))


def iban(chance: random.Random) -> str:
    """A German bank account number with right check digits."""
    account = "".join(str(chance.randrange(10)) for _ in range(18))
    check = 98 - int(f"{account}131400") % 97
    return f"DE{check:02}{account}"


def ip_address(chance: random.Random) -> str:
    """An address of the ranges that are kept for documentation."""
    return f"{chance.choice(('203.0.113', '198.51.100', '192.0.2'))}.{chance.randint(1, 254)}"


def phone(chance: random.Random) -> str:
    """A telephone number of the ranges that are kept for drama."""
    return chance.choice((f"+44 20 7946 0{chance.randrange(1000):03}", f"+1 212-555-01{chance.randrange(100):02}"))
