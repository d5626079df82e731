"""The network half of webhook delivery: what goes over the wire, to whom, and when again. It knows no Redis.

`sender` makes one attempt: it has `guard` read the address and vet every connection, has the secrets sign the
body, and says in an `Attempt` what became of it. `target` reads URLs, `addresses` tells public addresses from
all others, `schedule` says when to try again.
"""
