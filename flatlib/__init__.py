"""flatlib: train networks, measure the curvature of their loss, and test claims about flat minima.

One direction, top to bottom:

    config -> data, models -> curvature, jacobian, sharpness -> measures   (a network becomes numbers)
    measures -> train, tracking, own_model                                 (settings become a trained run)
    deep_linear, quadratic                                                 (models whose Hessian is known)
    records -> order, sweep                                                (a run becomes a line)
    stats, concordance -> claims, figures, published                       (tables become verdicts)
    parameters, chapter, overview, show, execute, several                  (a page, executed)
    asked -> plan; run_list -> slot                                        (what a page would train; elsewhere)
    explorer, book, bench, cli                                             (a book, a command)
    new_chapter, docstrings                                                (a page begun, the pages of this package)
"""

__version__ = "0.1.0"
