"""What a run on a GPU measures, one part a module."""
