"""Personal data by its form, and by its checksum where it has one; no model, no list of names.

Forms are looked for in folded text (`folding`), so letters are small and digits are ASCII.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from mainspring_guards.folding import Span
from mainspring_guards.patterns import compile_pattern
from mainspring_svckit.values import PersonalDataKind

# Characters of an account number by country, from the registry of ISO 13616.
_IBAN_LENGTHS = {
    country: int(length)
    for length, countries in {
        "15": "no", "16": "be", "18": "dk fi fk fo gl nl sd", "19": "mk si", "20": "at ba ee kz lt lu mn xk",
        "21": "ch cr hr li lv", "22": "bg bh de gb ge ie me rs va", "23": "ae gi il iq om so tl",
        "24": "ad cz es md pk ro sa se sk tn vg", "25": "ly pt st", "26": "is tr",
        "27": "bi dj fr gr it mc mr sm", "28": "al az by cy do gt hn hu lb ni pl sv", "29": "br eg ps qa ua",
        "30": "jo kw mu ye", "31": "mt sc", "32": "lc", "33": "ru",
    }.items()
    for country in countries.split()
}  # fmt: skip
_MAX_RUN = 45


@dataclass(frozen=True)
class _Form:
    """How a kind looks.

    Attributes:
        shape: What may be one.
        growing: What ends with the text and may become one, or part of a longer one. May find too much.
        end: Where one that has the shape at a place really ends; None when it is none.
        alone: Whether a letter or digit before it means that it is none.
        inside: What else means that before it.
    """

    shape: str
    growing: str
    end: Callable[[str, int, int], int | None]
    alone: bool = True
    inside: str = ""


class PersonalFinder:
    """Finds one kind of personal data."""

    def __init__(self, kind: PersonalDataKind) -> None:
        self._form = _FORMS[kind]
        self._shape: Any = compile_pattern(self._form.shape)
        self._growing: Any = compile_pattern(rf"(?:{self._form.growing})\z")
        self.endless, self.program = False, 0  # The same for every policy.

    def find_all(self, text: str, start: int) -> Iterator[Span]:
        while (span := self._find(text, start)) is not None:
            yield span
            start = span[1]

    def _find(self, text: str, start: int) -> Span | None:
        while (found := self._shape.search(text, start)) is not None:
            at = found.start()
            if self._can_begin(text, at):
                end = self._form.end(text, at, found.end())
                if end is not None:
                    return at, end
            start = at + 1
            while self._form.alone and start < len(text) and not self._can_begin(text, start):
                start += 1
        return None

    def undecided(self, text: str, start: int) -> int:
        # What grows is at the end, and no form is longer than this; searching all of a long text would find the same.
        start = max(start, len(text) - _LONGEST)
        while (found := self._growing.search(text, start)) is not None:
            if self._can_begin(text, found.start()):
                return found.start()
            start = found.start() + 1
        return len(text)

    def _can_begin(self, text: str, at: int) -> bool:
        return not self._form.alone or at == 0 or not (text[at - 1].isalnum() or text[at - 1] in self._form.inside)


def _card_end(text: str, start: int, end: int) -> int | None:
    """The longest run of whole groups of digits that Luhn's check digit fits."""
    # Luhn's sum doubles every second digit from the right, so both sums grow from the left until the length is known.
    sums, count, best, same = [0, 0], 0, None, True
    for index in range(start, end):
        character = text[index]
        if not character.isdigit():
            continue
        digit, doubled = int(character), int(character) * 2
        sums[count % 2] += digit
        sums[(count + 1) % 2] += doubled - 9 * (doubled > 9)
        same, count = same and character == text[start], count + 1
        if count >= 13 and not same and sums[(count - 1) % 2] % 10 == 0 and not text[index + 1 : index + 2].isalnum():
            best = index + 1
    return best


def _iban_end(text: str, start: int, end: int) -> int | None:
    """The end of as many characters as the country's numbers have, when the check digits fit."""
    length, kept = _IBAN_LENGTHS.get(text[start : start + 2], 0), list[str]()
    for index in range(start, end):
        if text[index].isalnum():
            kept.append(text[index])
        if length and len(kept) == length:
            number = "".join(str(int(character, 36)) for character in (*kept[4:], *kept[:4]))
            return index + 1 if int(number) % 97 == 1 and not text[index + 1 : index + 2].isalnum() else None
    return None


def _address_end(text: str, start: int, end: int) -> int | None:
    """The end of an IP address; a port, a label or the full stop of a sentence is not of it."""
    four = _IPV4.match(text, start)
    if four is not None:
        after = text[four.end() : four.end() + 2]
        goes_on = after[:1].isalnum() or (after[:1] == "." and after[1:].isalnum())
        return four.end() if not goes_on and _is_somebodys(four.group()) else None
    # After a colon it is a part of what stands before, unless that is a word: `IP:2001:db8::7`.
    within = start and text[start - 1] == ":" and (start == 1 or text[start - 2] in ":0123456789abcdef")
    if text[end : end + 1].isalnum() or within:
        return None
    run = text[start:end].rstrip(".:")
    return start + len(run) if any(map(str.isdigit, run)) and _is_somebodys(run) else None


def _is_somebodys(said: str) -> bool:
    try:
        address = ipaddress.ip_address(said)
    except ValueError:
        return False
    return not (address.is_loopback or address.is_unspecified)


def _phone_end(text: str, start: int, _: int) -> int | None:
    """The end of the last whole group of digits that can be of one telephone number, unless it is a date or a fraction.

    A group after a space that begins with 0 or a bracket begins the next number once there are enough digits for one,
    and so does one after a slash that stands behind more digits than a date or a fraction has.
    """
    if start > 1 and text[start - 1] in "./-," and text[start - 2].isdigit():
        before = text[max(0, start - 1 - _PHONE_PART) : start - 1]
        if text[start - 1] != "/" or len(before) < _PHONE_PART or not before.isdigit():
            return None
    digits, at, best = 0, start, None
    while True:
        gap, widest = at, 2 if digits else 3
        while at < len(text) and at - gap < widest and text[at] in (" ()./-" if digits else "+ ("):
            at += 1
        first = at
        while at < len(text) and at - first < _PHONE_DIGITS + 1 and text[at].isdigit():
            at += 1
        between = text[gap:first]
        begins = " " in between and ("(" in between or text[first : first + 1] == "0")
        if at == first or digits + at - first > _PHONE_DIGITS or (digits >= 7 and begins):
            break
        digits += at - first
        if digits >= 7 and not text[at : at + 1].isalnum():
            best = at
    if best is None or text.startswith("0.", start):
        return None
    head = [part for part in text[start:best].replace("/", ".").replace("-", ".").split(" ")[0].split(".") if part]
    if len(head) == 3 and len(head[0]) <= 2 and len(head[1]) <= 2 and len(head[2]) in {2, 4}:
        return None
    return best


_IPV4: Any = compile_pattern(r"[0-9]{1,3}(?:\.[0-9]{1,3}){3}")
_PHONE_DIGITS = 15
_PHONE_PART = 5
"""So many digits together are of a telephone number, not of a date."""
LOOKS_BACK = _PHONE_PART + 1
"""Characters before a place that decide, at most, whether something may begin there."""
_LOCAL = r"[a-z0-9._%+'-]"
_FORMS = {
    PersonalDataKind.MAIL_ADDRESS: _Form(
        shape=rf"{_LOCAL}{{1,64}}@(?:[a-z0-9](?:[a-z0-9-]{{0,62}})\.){{1,4}}[a-z]{{2,24}}",
        growing=rf"{_LOCAL}{{1,64}}(?:@[a-z0-9.-]{{0,280}})?",
        end=lambda text, start, end: end,
        alone=False,
    ),
    PersonalDataKind.CARD_NUMBER: _Form(
        shape=r"[2-6](?:[ -]?[0-9]){12,18}",
        growing=r"[2-6](?:[ -]?[0-9]){0,18}[ -]?",
        end=_card_end,
    ),
    PersonalDataKind.IBAN: _Form(
        shape=r"[a-z]{2}[0-9]{2}(?:[ -]?[a-z0-9]){11,30}",
        growing=r"[a-z]{1,2}|[a-z]{2}[0-9]{1,2}(?:[ -]?[a-z0-9]){0,30}[ -]?",
        end=_iban_end,
    ),
    PersonalDataKind.IP_ADDRESS: _Form(
        shape=rf"[0-9a-f:][0-9a-f:.]{{2,{_MAX_RUN}}}",
        growing=rf"[0-9a-f:][0-9a-f:.]{{0,{_MAX_RUN}}}",
        end=_address_end,
        inside=".",
    ),
    PersonalDataKind.PHONE_NUMBER: _Form(
        shape=r"(?:\+[ (]{0,2}[1-9]|\(?0|\([1-9])(?:[ ()./-]{0,2}[0-9]){5,15}",
        growing=r"(?:\+[ (]{0,2}|\(?0|\()(?:[ ()./-]{0,2}[0-9]){0,16}[ ()./-]{0,2}",
        end=_phone_end,
    ),
}
_LONGEST = 400
