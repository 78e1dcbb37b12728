"""The HTML page that shows reconstructed faces in a browser.

May import `export`, `rendering` and `detection`.
"""
