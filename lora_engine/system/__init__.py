"""The machine: device, memory, processes and threads."""
