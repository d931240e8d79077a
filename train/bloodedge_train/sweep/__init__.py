"""Many runs of one data set, to choose a model and its recipe by validation: planned here, carried out by Ray Tune.

All that a sweep knows lies in plain files of its folder: ``sweep.json`` (the plan), ``trials/ID/`` (an ordinary run
folder) and ``trials/ID.json`` (how that trial went). Resuming reads these and nothing of Ray's own, whose state is a
pickle that lags behind by seconds and does not hold what the pruner has seen.
"""
