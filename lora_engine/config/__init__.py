"""The settings of each component, a module each. Imports neither torch nor any cloud library."""
