"""Inputs of DeePMD-kit as control files."""

from stages.deepmd_input.convert import SUFFIXES, convert_input

__all__ = ["SUFFIXES", "convert_input"]
