"""A streaming relay for language models that survives production, and proves it."""

# A constant, because asking importlib.metadata costs milliseconds at every start; the build reads it from here.
__version__ = "0.1.0"
