"""The built-in components, grouped by kind. Each group is a plugin of its own, discovered like any other."""
