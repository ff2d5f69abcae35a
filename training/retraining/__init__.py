"""Training of a node's model on the node's own archive, one module per stage.

`plan` says what a run is to do, and keeps it for who resumes it; `guards` keep wrong labels out; `start` makes the
heads and the first weights; `judging` holds a model against held-out series; `publish` puts a package where the node
finds it and says what becomes of it; `run` does all of it in order; `life` is the process: its priority, its signs of
life, how it is told to stop. Called by `training.retrain`.
"""
