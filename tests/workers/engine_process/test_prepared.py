"""What travels between an engine process and its intake."""

import json

from headrace.workers.engine_process.prepared import PIECE, Prepared, Replay


def test_a_long_log_with_probabilities_travels_in_pieces_that_are_read_one_after_the_other():
    entries = [
        {"token_id": token, "token": "\n", "logprob": -1.5, "top": [[token, "é", -1.5]]}
        for token in range(10 * PIECE + 1)
    ]
    prepared = Prepared(
        prompt_ids=[10, 2570, 0],
        fields={"max_tokens": 5},
        replay=Replay(logprobs=entries, logged=len(entries)),
    )
    message = prepared.to_wire()
    assert Prepared.from_wire(message) == prepared
    assert max(map(len, message.split(b"\n"))) < 2 * len(json.dumps(entries[-PIECE:]))
    assert prepared.replay.logprobs == entries
