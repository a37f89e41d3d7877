"""The demo: a language of our own, a model that has read it, and a folder with a run to make."""
