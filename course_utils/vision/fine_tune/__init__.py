"""A pretrained ViT on new images: ``config``, ``data``, ``model``, ``optimizer``, ``train``, ``predict``."""
