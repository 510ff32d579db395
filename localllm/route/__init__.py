"""Which of several models a prompt needs: learned from how they did, measured, explained.

Nothing here loads a model: `text` and `predictors` are numpy only, so that a decision costs
about a millisecond. Public face: `contrast` (what is learned from), `reading` (files), `training`
(predictors by name), `measuring` (cost-quality curves, intervals), `router` and `routerfile`
(a trained router, and as a file).
"""
