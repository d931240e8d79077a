def test_try(conversion):
    c=conversion.converted
    from bloodedge_convert.cli import show
    show(c); print(c.manifest.golden); print(c.manifest.baseline.evaluation.weighted_f1)
    import collections; print(list(dict.fromkeys(s[0] for s in conversion.steps)))
