"""The network half of webhook delivery: what goes over the wire, to whom, and when again. It knows no Redis.

`sender` makes one attempt: `guard` checks the address and every connection, the secrets sign the body, and an
`Attempt` reports the outcome. `addresses` tells public addresses from all others, and `schedule` says when to
try again.
"""
