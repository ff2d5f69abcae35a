"""What pixels say about how a series was acquired: preparation, network, pooling, calibration, novelty.

`package` reads a model package, `predictor` answers for a series. Importing this package, `package` or any of
the NumPy modules does not import torch; `network` and `predictor` do. Called by the worker and by `training`.
"""
