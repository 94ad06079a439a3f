"""Fixtures for the tests of the book."""

from site_window import axe, browser, pages, server, site, window

__all__ = ["axe", "browser", "pages", "server", "site", "window"]
