"""The version of headlab."""

__version__ = "0.2.0"
