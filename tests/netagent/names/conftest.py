"""Hypothesis without deadlines: a busy machine must not fail a test."""

from hypothesis import settings

settings.register_profile("netagent", deadline=None)
settings.load_profile("netagent")
