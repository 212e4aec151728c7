"""Decoding, the exported translator, and its evaluation."""
