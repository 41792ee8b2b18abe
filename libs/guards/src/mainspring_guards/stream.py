"""Rules over a text while it comes.

However the text is cut into pieces, the same comes out: a place is let through when no more text could make a rule
find something that begins there. So nothing that a rule refuses or masks ever leaves in part.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush
from unicodedata import category

from mainspring_guards.finders import Finder
from mainspring_guards.folding import View
from mainspring_guards.personal import LOOKS_BACK
from mainspring_svckit.values import GuardAction, GuardRule

_STRICTNESS = list(GuardAction)


@dataclass(frozen=True)
class Search:
    """One thing that a rule looks for.

    Attributes:
        rule: The rule.
        order: Its place in the policy.
        finder: What finds it; None for the rule's longest text.
        exact: Whether the finder sees the text as it is, and not folded.
    """

    rule: GuardRule
    order: int
    finder: Finder | None
    exact: bool


@dataclass(frozen=True, order=True)
class _Hit:
    start: int
    strictness: int
    order: int
    end: int
    rule: GuardRule = field(compare=False)


class Filter:
    """Some rules over one text.

    Attributes:
        fired: Ids of the rules that found something, in the order of the text.
        refusal: The rule that ended the text, once one did; nothing comes out after that.
    """

    def __init__(self, searches: Sequence[Search]) -> None:
        self.fired: dict[str, None] = {}
        self.refusal: GuardRule | None = None
        self._views = {key: View(exact=key[0]) for key in map(_view_of, searches)}
        self._searches = [(search, self._views[_view_of(search)]) for search in searches]
        self._places = [0] * len(searches)
        self._looking = {
            key: [at for at, each in enumerate(searches) if _view_of(each) == key and each.finder is not None]
            for key in self._views
        }
        self._hits: list[_Hit] = []
        self._held, self._length, self._done = "", 0, 0
        self._masked = False

    def feed(self, piece: str) -> str:
        """Takes the next piece and returns what may leave."""
        if self.refusal is not None:
            return ""
        for view in self._views.values():
            view.add(piece)
        self._held += piece
        self._length += len(piece)
        return self._go_on(last=False)

    def finish(self) -> str:
        """What was held back, when nothing more comes."""
        return "" if self.refusal is not None else self._go_on(last=True)

    def _go_on(self, *, last: bool) -> str:
        if last:
            for view in self._views.values():
                view.close()
        decided = self._length
        for index, (search, view) in enumerate(self._searches):
            decided = min(decided, self._search(index, search, view, last=last))
        out = self._through(decided)
        for key, view in self._views.items():
            view.forget(min((self._places[at] for at in self._looking[key]), default=view.end) - LOOKS_BACK)
        return out

    def _search(self, index: int, search: Search, view: View, *, last: bool) -> int:
        """Notes what a search finds, and returns from where on in the original text it may find more."""
        place = self._places[index]
        if search.finder is None:
            most = search.rule.max_characters
            if place == 0 and self._length > most:
                self._places[index] = 1
                self._note(search, most, most + 1)
            return self._length
        end = view.end if last else view.base + search.finder.undecided(view.text, place - view.base)
        if place < end:
            for found in search.finder.find_all(view.text, place - view.base):
                start = view.base + found[0]
                if start >= end:
                    break
                place = view.base + found[1]
                self._note(search, view.original(start), view.original_end(place))
            place = max(place, end)
        self._places[index] = place
        return view.original(place)

    def _note(self, search: Search, start: int, end: int) -> None:
        strictness = _STRICTNESS.index(search.rule.action)
        heappush(self._hits, _Hit(start, strictness, search.order, end, search.rule))

    def _through(self, decided: int) -> str:
        """Applies what was found before a place of the original text, and lets through what stands before it."""
        out: list[str] = []
        while self._hits and self._hits[0].start < decided:
            hit = heappop(self._hits)
            self.fired[hit.rule.id] = None
            if hit.rule.action is GuardAction.RECORD:
                continue
            fresh = hit.start >= self._done
            if fresh:
                out.append(self._take(hit.start))
            if hit.rule.action is GuardAction.REFUSE:
                self.refusal = hit.rule
                self._held = ""
                return "".join(out)
            if fresh:
                out.append(hit.rule.text or f"[{hit.rule.id}]")
            self._take(hit.end)
            self._masked = True
        out.append(self._take(decided))
        self._held = self._held[max(0, self._done - self._length + len(self._held)) :]
        return "".join(out)

    def _take(self, end: int) -> str:
        """Goes on to a place, which may be beyond what came, and returns what stands before it.

        Marks on the last letter of what was masked go with it.
        """
        if end <= self._done:
            return ""
        begin = self._length - len(self._held)
        taken = self._held[max(0, self._done - begin) : max(0, end - begin)]
        self._done = end
        if self._masked:
            marks = next((at for at, each in enumerate(taken) if not category(each).startswith("M")), len(taken))
            taken = taken[marks:]
            self._masked = not taken
        return taken


def _view_of(search: Search) -> tuple[bool, bool]:
    """Which searches look at one view. One that waits for the end of the text keeps all of it, so it has its own."""
    return search.exact, search.finder is not None and search.finder.endless
