"""A Vision Transformer from scratch: ``config``, ``data``, ``model``, ``optimizer``, ``train``, ``predict``."""
