"""The process border: a confined child does what sees a guest's bytes, and its parent checks what it says.

``run.run(work, subject, deadline, shape)`` is the way in; ``reports`` has the shape of everything that may come back.
"""
