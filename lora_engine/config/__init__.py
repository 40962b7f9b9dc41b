"""What can be configured, a module for each component. Imports neither torch nor any cloud library."""
