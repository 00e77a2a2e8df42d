"""The window in the browser: `dd2d app`, and `found.show()` in a notebook."""
