"""The plan as a document: strict YAML → templates on leaves → schema → checks → ``Plan``."""

from planrunner.loading.build import load

__all__ = ["load"]
