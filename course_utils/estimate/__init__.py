"""Every formula of the course, once: what a model costs, predicted before it runs."""
