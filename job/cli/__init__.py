"""The commands, what they print, and the codes they exit with."""
