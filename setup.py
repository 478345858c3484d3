"""Build the engine; everything else about the distribution stands in pyproject.toml."""

from setuptools import setup

setup(cffi_modules=["milter_c/build.py:ffibuilder"])
