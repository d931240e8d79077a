"""``bloodedge compare``: networks beside each other and beside the paper's, both splits, with what each costs.

``collect`` reads runs and bundles; ``make_rows`` gathers folds (``pooling``) into ``rows`` and adds the paper's figures
(``paper``) and latencies (``latency``); ``cautions`` says where figures are not like for like; ``tables`` puts rows
into words, ``charts`` draws them, ``pages`` writes Markdown and HTML.
"""
