"""This process: its signals, its log, its faults and its libraries' versions."""
