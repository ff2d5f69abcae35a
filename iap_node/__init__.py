"""The IAP node: what an MR series is, settled from its pixels."""

__version__ = "0.1.0"
