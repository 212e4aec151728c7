"""Runs a program of the user's own, kills it, and tells whether it resumes exactly."""
