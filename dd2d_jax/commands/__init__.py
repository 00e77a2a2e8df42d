"""The commands of `dd2d`, a module for those that belong together."""
