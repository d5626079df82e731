"""`headrace demo`: a short tour on one machine, ending by itself."""

from .tour import demo

__all__ = ["demo"]
