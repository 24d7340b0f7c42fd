"""The simulated shop as an online test: policies serve, people respond, days pass.

    people ──► Context ──► Policy ──► slate ──► response ──► histories, memories ──┐
       ▲                                                                           │
       └───────────────────────────────────────────────────────────────────────────┘

`context` is all that a policy sees, `policies` what it is and those that learn nothing,
`served` the generator as one, `days` the loop, `splits` who meets which policy,
`figures` and `trial` what came out and whether it can be believed.
"""
