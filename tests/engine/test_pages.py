"""Pages are conserved, found again, and evicted in order, whatever is done with them."""

import random

import pytest

from headrace.engine.pages import PagePool


def chain(pool, parent, pages, tokens):
    for page, content in zip(pages, tokens, strict=True):
        parent = pool.remember(page, parent, content)
    return parent


def test_a_released_page_is_found_until_it_is_taken_for_something_else():
    pool = PagePool(3, 2)
    (page,) = pool.allocate(1)
    pool.remember(page, pool.root(""), (1, 2))
    pool.release([page])
    assert pool.find(pool.root(""), (1, 2)) is page
    pool.allocate(2)
    assert pool.find(pool.root(""), (1, 2)) is None


def test_pages_without_content_are_taken_before_cached_ones():
    pool = PagePool(4, 2)
    cached, plain = pool.allocate(2)
    pool.remember(cached, pool.root(""), (1, 2))
    pool.release([cached])
    pool.release([plain])
    taken = pool.allocate(2)
    assert plain in taken
    assert cached not in taken


def test_the_end_of_a_sequence_is_evicted_before_its_beginning():
    pool = PagePool(4, 2)
    pages = pool.allocate(3)
    chain(pool, pool.root(""), pages, [(1, 2), (3, 4), (5, 6)])
    pool.release(pages)
    assert pool.allocate(3) == pages[::-1]


def test_equal_hashes_with_other_tokens_are_no_hit():
    pool = PagePool(3, 2)
    (page,) = pool.allocate(1)
    key = pool.remember(page, pool.root(""), (1, 2))
    page.token_ids = (9, 9)  # as if another content had the same hash
    assert pool.find(pool.root(""), (1, 2)) is None
    assert page.key == key


def test_keys_are_of_a_secret_that_no_two_processes_share_so_that_none_can_be_forged():
    pools = [PagePool(2, 2), PagePool(2, 2)]
    roots = [pool.root("tenant") for pool in pools]
    assert roots[0] != roots[1]
    assert pools[0].key_of(roots[0], (1, 2)) != pools[1].key_of(roots[0], (1, 2))
    assert len(pools[0].key_of(roots[0], (1, 2))) == 16


def test_prefixes_of_equal_builtin_hash_are_told_apart():
    """hash(-1) == hash(-2): the shortest collision of the interpreter's own hash, and others can be made."""
    pool = PagePool(5, 2)
    root = pool.root("")
    mine, other = (7, -1), (7, -2)
    assert hash((5, mine)) == hash((5, other))
    first, following = pool.allocate(2)
    chain(pool, root, [first, following], [mine, (3, 4)])
    theirs = pool.remember(pool.allocate(1)[0], root, other)
    assert pool.find(root, mine) is first
    assert pool.find(theirs, (3, 4)) is None


def test_forgotten_pages_are_not_found_and_their_successors_are():
    pool = PagePool(4, 2)
    pages, root = pool.allocate(2), pool.root("")
    chain(pool, root, pages, [(1, 2), (3, 4)])
    after = pages[0].key
    pool.forget([pages[0]])
    pool.forget([pages[0]])
    assert pool.find(root, (1, 2)) is None
    assert pool.find(after, (3, 4)) is pages[1]
    pool.check([pages])
    pool.release(pages)
    pool.check([])


def test_a_content_known_already_keeps_its_first_page():
    pool = PagePool(3, 2)
    first, second = pool.allocate(2)
    root = pool.root("")
    assert pool.remember(first, root, (1, 2)) == pool.remember(second, root, (1, 2))
    assert pool.find(pool.root(""), (1, 2)) is first
    assert second.key is None


def test_a_page_released_twice_is_noticed():
    pool = PagePool(3, 2)
    pages = pool.allocate(1)
    pool.release(pages)
    with pytest.raises(AssertionError, match="released twice"):
        pool.release(pages)


@pytest.mark.parametrize("seed", range(5))
def test_a_random_walk_conserves_every_page(seed):
    rng = random.Random(seed)
    pool, held = PagePool(20, 2), []
    for _ in range(2000):
        action = rng.random()
        if action < 0.45 and pool.free:
            pages = pool.allocate(rng.randint(1, min(4, pool.free)))
            chain(pool, pool.root(rng.choice("abcd")), pages, [(rng.randint(0, 5),) * 2 for _ in pages])
            held.append(pages)
        elif action < 0.6:
            found = pool.find(pool.root(rng.choice("abcd")), (rng.randint(0, 5),) * 2)
            if found is not None:
                pool.hold(found)
                held.append([found])
        elif held:
            pool.release(held.pop(rng.randrange(len(held))))
        pool.check(held)
