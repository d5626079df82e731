"""Several answers to one prompt (`n`): their bound and their seeds.

All answers of a job are in one token log, whose chunks name their choice. So one claim, lease, fence and end
are for all of them, and each is still a function of its own tokens alone.
"""

import hashlib

MAX_CHOICES = 128
"""More than the setting `max_choices` can allow."""


def seed_of_choice(seed: int, choice: int) -> int:
    """The seed of a choice of a job with `seed`: a job of its own with this seed has the same answer.

    Choice 0 has the job's seed. That of any other is BLAKE2b, 8 bytes, of `<seed>/<choice>` in ASCII, read as
    a big-endian number, without its lowest bit.
    """
    if choice == 0:
        return seed
    digest = hashlib.blake2b(f"{seed}/{choice}".encode(), digest_size=8).digest()
    return int.from_bytes(digest) >> 1
