"""DeepSpeed: ZeRO as the library does it, with its configuration, its checkpoints and its Adam on the host."""
