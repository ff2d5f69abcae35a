"""A breast MR simulator: what trains, tests and demonstrates the node where no patient data may go.

`protocols` draws how a scanner was set, `phantom` who lay in it, `sequences` says what the spoiled
gradient echo makes of each tissue, `acquisition` what k-space, coils and reconstruction leave of it,
`series` puts them together and `dicom_series` writes the result as DICOM. Called by the data set of
`training` and by tests and demonstrations. Everything made here is simulated, and its headers say so.
"""

from training.simulation.protocols import Protocol, sample_protocol
from training.simulation.series import SimulatedSeries, simulate_series

__all__ = ["Protocol", "SimulatedSeries", "sample_protocol", "simulate_series"]
