"""KV pages: fixed-size blocks of the cache, their holders, and the prefixes by which they can be found.

Invariants (`check` asserts them):
- Every page except page 0 is either held (refs > 0) or in the free list (refs = 0), never both.
- A full page whose content is known can be found by its key, even after its last holder has let go, until it
  is taken for something else. So free pages are a cache that costs nothing.
- A key is a hash of all tokens from the sequence's beginning, keyed with a secret of this process, so that no
  one can craft two prefixes with the same key.
- The free list is in eviction order: pages without content first, then the longest unused. A sequence lets go
  of its last page first, so that beginnings, which are shared, survive longest.
- Page 0 is the null page: padding points to it, and it is never read.

An example, with pages of 4 tokens: A, of the tokens abcdefghi, holds the pages 1 (abcd), 2 (efgh) and 3 (i),
of which the first two are full and known. A ends: 3, which has no key, goes to the front of the free list, 2
and then 1 to its end. B comes with abcdefxy: it finds 1 by the key of abcd, but nothing by that of abcd and
efxy, so it holds 1 and takes 3, the first of the list. If pages ran short, 2 would be taken before 1.
"""

import secrets
from collections.abc import Iterable
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass
from hashlib import blake2b
from struct import Struct


@dataclass(slots=True, eq=False)
class Page:
    """One page.

    Attributes:
        id: its index in the KV cache.
        refs: number of sequences that hold it.
        key: its key in the prefix cache; None if it isn't there.
        before, after: neighbours in the free list.
    """

    id: int
    refs: int = 0
    key: bytes | None = None
    before: "Page | None" = None
    after: "Page | None" = None


class PagePool:
    """All pages of one KV cache; every operation is O(1) per page.

    Attributes:
        page_size: tokens per page.
        total: number of pages that sequences can hold (all but page 0).
        free: number of pages that can be allocated now, including cached ones.
        shared: number of pages with several holders.
    """

    def __init__(self, num_pages: int, page_size: int) -> None:
        """Make a pool; `num_pages` includes the null page."""
        self.page_size = page_size
        self.total = num_pages - 1
        self.free = self.shared = 0
        self._pages = [Page(index) for index in range(num_pages)]
        # Token ids as 8 bytes each: a fixed width, so that no two lists of ids pack to the same bytes.
        self._packed = Struct(f"{page_size}q").pack
        # 128 bits: two prefixes with the same key could only be found by chance, among the pages of one pool.
        self._keyed = blake2b(key=secrets.token_bytes(32), digest_size=16)
        self._known: dict[bytes, Page] = {}
        self._ends = Page(-1)  # sentinel: `after` is the next page to take, `before` the last
        self._ends.before = self._ends.after = self._ends
        for page in self._pages[1:]:
            self._append(page)

    @property
    def cached(self) -> int:
        """Number of pages findable in the prefix cache, including held ones."""
        return len(self._known)

    def allocate(self, count: int) -> list[Page]:
        """Allocate `count` pages for new content, each held once; the caller has checked `free`."""
        assert count <= self.free, f"{count} pages wanted, {self.free} free"
        return [self._take_first() for _ in range(count)]

    def hold(self, page: Page) -> None:
        """Add a holder to a page found by `find`."""
        if page.refs == 0:
            self._unlink(page)
        page.refs += 1
        self.shared += page.refs == 2

    def release(self, pages: SequenceOf[Page]) -> None:
        """Remove a holder from each of a sequence's pages, given in the sequence's order."""
        for page in reversed(pages):
            page.refs -= 1
            self.shared -= page.refs == 1
            assert page.refs >= 0, f"page {page.id} was released twice"
            if page.refs == 0:
                if page.key is None:
                    self._prepend(page)
                else:
                    self._append(page)

    def root(self, salt: str, adapter: str = "") -> bytes:
        """The parent key of a sequence's first page; only the same salt and adapter share prefixes."""
        root = self._digest(salt.encode(errors="surrogatepass"))
        # Keys and values are those of the weights that computed them.
        return self._digest(root + adapter.encode(errors="surrogatepass")) if adapter else root

    def key_of(self, parent: bytes, token_ids: SequenceOf[int]) -> bytes:
        """The key of a page with this content after the page with the key `parent`."""
        return self._digest(parent + self._packed(*token_ids))

    def _digest(self, content: bytes) -> bytes:
        keyed = self._keyed.copy()
        keyed.update(content)
        return keyed.digest()

    def find(self, key: bytes) -> Page | None:
        """The page with this key, if there is one."""
        return self._known.get(key)

    def remember(self, page: Page, key: bytes) -> None:
        """Make a full page findable; of several with the same content, only the first one is."""
        # Two sequences may have computed the same prefix side by side. The second page keeps no key, and is
        # among the first to be taken when it is let go of.
        if page.key is None and key not in self._known:
            page.key = key
            self._known[key] = page

    def forget(self, pages: Iterable[Page]) -> None:
        """Make pages unfindable."""
        for page in pages:
            if page.key is not None:
                del self._known[page.key]
                page.key = None

    def _take_first(self) -> Page:
        page = self._ends.after
        assert page is not None
        self._unlink(page)
        # Only now is its content gone: until then a free page could still be found.
        self.forget([page])
        page.refs = 1
        return page

    # Free list ------------------------------------------------------------------------------------------

    def _append(self, page: Page) -> None:
        self._insert(page, self._ends.before)

    def _prepend(self, page: Page) -> None:
        self._insert(page, self._ends)

    def _insert(self, page: Page, before: Page | None) -> None:
        assert before is not None
        assert before.after is not None
        page.before, page.after = before, before.after
        before.after.before = page
        before.after = page
        self.free += 1

    def _unlink(self, page: Page) -> None:
        assert page.before is not None
        assert page.after is not None
        page.before.after, page.after.before = page.after, page.before
        page.before = page.after = None
        self.free -= 1

    def check(self, holdings: Iterable[SequenceOf[Page]]) -> None:
        """Assert the invariants against what the sequences say they hold."""
        counts = [0] * len(self._pages)
        for pages in holdings:
            for page in pages:
                counts[page.id] += 1
        listed, free = 0, self._ends.after
        while free is not self._ends:
            assert free is not None
            assert free.refs == 0, f"page {free.id} is free and held"
            listed, free = listed + 1, free.after
        refs = [page.refs for page in self._pages]
        held = len(refs) - refs.count(0)
        shared = held - refs.count(1)
        assert shared == self.shared, f"{shared} pages are shared, counter says {self.shared}"
        assert listed == self.free, f"free list has {listed} pages, counter says {self.free}"
        assert listed + held == self.total, f"{listed} free + {held} held pages are not {self.total}"
        assert counts[0] == 0, "the null page is held"
        if refs != counts:  # one comparison of two lists: a worker checks tens of thousands of pages
            page = next(page for page in self._pages if page.refs != counts[page.id])
            raise AssertionError(f"page {page.id}: {page.refs} refs, {counts[page.id]} holders")
        for key, page in self._known.items():
            assert page.key == key, f"page {page.id} is known by a key that is not its own"
