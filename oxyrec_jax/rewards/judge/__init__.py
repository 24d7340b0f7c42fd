"""The judge: what a candidate is worth to this person, by sense and not by clicks.

    stage A   aspects    four scores in [0, 1] with their evidence, for a request and a
                         candidate: a language model, rules, or a shop's own truth
    stage B   weighting  how much each aspect counts for this person at this moment:
                         r_sem = w(x) · s(x, a), w from the request alone

Source: S-GRec, arXiv 2602.10606, the Personalized Semantic Judge. docs/judge.md.
"""
