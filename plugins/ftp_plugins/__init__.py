"""The built-in components, grouped by kind. Each group is a plugin of its own, found like anybody's."""
