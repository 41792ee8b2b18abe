"""A guard policy, compiled: what a door asks about questions, and puts answers through."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache

from mainspring_guards.finders import ExpressionFinder, Finder, TextFinder
from mainspring_guards.patterns import PatternRefused
from mainspring_guards.personal import PersonalFinder
from mainspring_guards.stream import Filter, Search
from mainspring_svckit.errors import InvalidInput, PreconditionFailed
from mainspring_svckit.values import GuardAction, GuardDirection, GuardRule, Message, ServedGuard, rules_sha256

MAX_CHARACTERS = 100_000
"""Most characters of a policy: it travels in every routing table, which is one message on the bus."""
MAX_PROGRAM = 500_000
"""Most instructions of RE2 that a policy may come to: a caller can bring one with a question, and doors compile it."""
_PIECE = 1024
"""Long texts are looked at in pieces, so that what is searched stays small."""


@dataclass(frozen=True)
class Checked:
    """What a guard says of a question.

    Attributes:
        messages: The conversation with what is masked.
        refusal: What is answered instead; None when the question may be asked.
        fired: Ids of the rules that found something.
    """

    messages: tuple[Message, ...]
    refusal: str | None
    fired: tuple[str, ...]


class GuardedAnswer:
    """One answer while it comes.

    Attributes:
        refused: Whether a rule ended it; what the engine says after that does not count.
    """

    def __init__(self, searches: Sequence[Search]) -> None:
        self.refused = False
        self._blocking = Filter([each for each in searches if each.rule.action is not GuardAction.RECORD])
        # They look at what leaves, so they hold nothing back.
        self._recording = Filter([each for each in searches if each.rule.action is GuardAction.RECORD])
        self._said = False

    @property
    def fired(self) -> tuple[str, ...]:
        """Ids of the rules that found something."""
        return (*self._blocking.fired, *self._recording.fired)

    def feed(self, piece: str) -> str:
        """Takes the model's next words and returns what may leave."""
        out: list[str] = []
        for part in _parts(piece):
            if not self.refused:
                out.append(self._passed(self._blocking.feed(part)))
        return "".join(out)

    def finish(self) -> str:
        """What was held back, when the model has nothing more to say."""
        if self.refused:
            return ""
        rest = self._passed(self._blocking.finish())
        if not self.refused:
            self._recording.finish()
        return rest

    def _passed(self, text: str) -> str:
        self._recording.feed(text)
        self._said = self._said or bool(text.strip())
        rule = self._blocking.refusal
        if rule is None:
            return text
        self.refused = True
        self._recording.finish()
        return f"{text}\n\n{rule.text}" if self._said else text + rule.text


class Guard:
    """The rules of one policy; used by all calls of a door at once."""

    def __init__(self, rules: Sequence[GuardRule]) -> None:
        """Compiles the rules.

        Raises:
            InvalidInput: GUARD_POLICY_INVALID, a rule cannot be applied; says why.
        """
        check_rules(rules)
        finders = _finders(rules)
        self._input = _searches(rules, finders, GuardDirection.INPUT)
        self._output = _searches(rules, finders, GuardDirection.OUTPUT)
        self._longest = [rule for rule in rules if _looks_at(rule, GuardDirection.INPUT) and rule.max_characters]

    def question(self, messages: Iterable[Message]) -> Checked:
        """Looks at every message that a caller sends."""
        given, fired = tuple(messages), dict[str, None]()
        length = sum(len(message.content) for message in given)
        for rule in self._longest:
            if length > rule.max_characters:
                fired[rule.id] = None
                if rule.action is GuardAction.REFUSE:
                    return Checked(given, rule.text, tuple(fired))
        if not self._input:
            return Checked(given, None, tuple(fired))
        kept: list[Message] = []
        for message in given:
            checked = Filter(self._input)
            text = "".join(map(checked.feed, _parts(message.content))) + checked.finish()
            fired.update(checked.fired)
            if checked.refusal is not None:
                return Checked(given, checked.refusal.text, tuple(fired))
            kept.append(replace(message, content=text))
        return Checked(tuple(kept), None, tuple(fired))

    def answer(self) -> GuardedAnswer | None:
        """What an answer is put through; None when no rule looks at answers."""
        return GuardedAnswer(self._output) if self._output else None


def check_rules(rules: Sequence[GuardRule]) -> None:
    """Raises `InvalidInput` (GUARD_POLICY_INVALID) for rules that contradict themselves or are too many."""
    ids = [rule.id for rule in rules]
    if twice := next((each for each in ids if ids.count(each) > 1), None):
        raise _invalid(f"two rules are called {twice!r}; give each an id of its own")
    size = sum(len(text) for rule in rules for text in (rule.text, *rule.texts, *rule.expressions))
    if size > MAX_CHARACTERS:
        raise _invalid(f"the rules have {size} characters, at most {MAX_CHARACTERS} can go live")
    for rule in rules:
        kinds = (rule.texts, rule.expressions, rule.personal_data, rule.max_characters)
        if sum(map(bool, kinds)) != 1:
            raise _invalid(f"rule {rule.id!r} needs exactly one of texts, expressions, personal_data, max_characters")
        if rule.action is GuardAction.REFUSE and not rule.text:
            raise _invalid(f"rule {rule.id!r} refuses and does not say what is answered; give it a text")
        if rule.action is GuardAction.MASK and rule.max_characters:
            raise _invalid(f"rule {rule.id!r} cannot mask what is too long; refuse or record it")


def guard_of(served: ServedGuard) -> Guard:
    """The guard that was signed with a release; compiled once while it is used.

    Raises:
        PreconditionFailed: GUARD_POLICY_BROKEN, the rules are not those whose digest they carry, or cannot be applied.
    """
    guard = known_guard(served)
    if guard is None:
        guard = compiled(served)
        keep_compiled(served, guard)
    return guard


def known_guard(served: ServedGuard) -> Guard | None:
    """The guard if it was compiled before and is still kept."""
    known = _COMPILED.get((served.guard_policy_version, served.sha256))
    # Routing tables hold one object for all questions; only evaluations bring an equal one with each.
    return known[1] if known is not None and (known[0] is served or known[0] == served) else None


def keep_compiled(served: ServedGuard, guard: Guard) -> None:
    """Keeps a guard for `known_guard`; only the newest are kept. To be called where no other thread calls it."""
    while len(_COMPILED) >= _MOST_COMPILED:
        del _COMPILED[next(iter(_COMPILED))]
    _COMPILED[served.guard_policy_version, served.sha256] = served, guard


_COMPILED: dict[tuple[str, str], tuple[ServedGuard, Guard]] = {}
_MOST_COMPILED = 64


def compiled(served: ServedGuard) -> Guard:
    """As `guard_of`, but always anew; may run in any thread."""
    version = served.guard_policy_version
    if not version or not served.rules or rules_sha256(served.rules) != served.sha256:
        message = f"the rules of {version or 'a guard policy'} are missing or are not those that were released"
        raise PreconditionFailed("GUARD_POLICY_BROKEN", message, {"guardPolicyVersion": version})
    try:
        return Guard(served.rules)
    except InvalidInput as err:
        message = f"the rules of {version} cannot be applied: {err.message}"
        raise PreconditionFailed("GUARD_POLICY_BROKEN", message, {"guardPolicyVersion": version}) from err


def _parts(text: str) -> Iterator[str]:
    return (text[start : start + _PIECE] for start in range(0, len(text), _PIECE))


def _finders(rules: Sequence[GuardRule]) -> list[list[Finder]]:
    """What each rule searches with, in both directions."""
    made, program = list[list[Finder]](), 0
    for rule in rules:
        try:
            finders = _finders_of(rule)
        except PatternRefused as err:
            raise _invalid(f"rule {rule.id!r}: {err}") from err
        program += sum(finder.program for finder in finders)
        if program > MAX_PROGRAM:
            raise _invalid(f"with rule {rule.id!r} the patterns get too large together; use smaller counts or fewer")
        made.append(finders)
    return made


def _finders_of(rule: GuardRule) -> list[Finder]:
    if rule.texts:
        return [TextFinder(rule.texts, exact=rule.exact, whole_words=rule.whole_words)]
    if rule.expressions:
        bounded = _looks_at(rule, GuardDirection.OUTPUT)
        return [ExpressionFinder(rule.expressions, exact=rule.exact, bounded=bounded)]
    return [_personal_finder(kind) for kind in rule.personal_data]


_personal_finder = cache(PersonalFinder)


def _searches(rules: Sequence[GuardRule], finders: list[list[Finder]], direction: GuardDirection) -> list[Search]:
    found: list[Search] = []
    for order, (rule, own) in enumerate(zip(rules, finders, strict=True)):
        if not _looks_at(rule, direction):
            continue
        found += [Search(rule, order, finder, rule.exact and not rule.personal_data) for finder in own]
        # The longest question is counted over all messages together, not here.
        if rule.max_characters and direction is GuardDirection.OUTPUT:
            found.append(Search(rule, order, None, True))
    return found


def _looks_at(rule: GuardRule, direction: GuardDirection) -> bool:
    return rule.direction in {direction, GuardDirection.BOTH}


def _invalid(message: str) -> InvalidInput:
    return InvalidInput(message, reason="GUARD_POLICY_INVALID")
